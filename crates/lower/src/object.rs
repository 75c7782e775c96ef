//! The objects that Lateen reads, and what happens to them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_api::decode::{DecodeError, Decoded, decode, decode_object};
use lateen_api::extensions::{TrafficExtension, WasmPlugin};
use lateen_api::gateway_api::{
    BackendTlsPolicy, Gateway as K8sGateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant, TcpRoute,
    TlsRoute, UdpRoute,
};
use lateen_api::networking::{
    DestinationRule, EnvoyFilter, Gateway, ProxyConfig, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
    WorkloadGroup,
};
use lateen_api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use lateen_api::telemetry::Telemetry;
use lateen_names::{ClusterId, InvalidName, ObjectKey, ObjectRef};
use serde_json::Value;

use crate::context::key_of;

/// One object changed in one cluster.
#[derive(Debug, Clone)]
pub struct Event {
    /// The cluster that the object is in.
    pub cluster: ClusterId,
    /// What happened.
    pub change: Change,
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is there, with this content.
    Apply(Arc<Object>),
    /// It is gone.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its namespace and name.
        key: ObjectKey,
    },
}

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They are of the whole cluster.
    Cluster,
}

macro_rules! kinds {
    ($($kind:ident: $type:ty, $group:literal, $name:literal, $scope:ident, $decode:ident;)*) => {
        /// The kinds of objects that Lateen reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(
                #[doc = concat!("`", $name, "` of group `", $group, "`.")]
                $kind,
            )*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The kind's name in Kubernetes.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// The kind's API group; empty for core.
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group),* }
            }

            /// An object of this kind, as diagnostics name it.
            pub fn reference(self, key: ObjectKey) -> ObjectRef {
                ObjectRef { kind: self.name().into(), group: self.group().into(), key }
            }

            /// Whether its objects live in namespaces.
            pub fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope),* }
            }
        }

        /// An object, typed. Its `Debug` shows kind and name only: Secrets must not be printed.
        #[derive(Clone, PartialEq)]
        pub enum Object {
            $(
                #[doc = concat!("See [`Kind::", stringify!($kind), "`].")]
                $kind($type),
            )*
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(object) => &object.metadata),* }
            }

            /// Its metadata, to change.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Self::$kind(object) => &mut object.metadata),* }
            }

            /// The object as JSON, with `kind`; null for what has no JSON form. Not for Secrets.
            pub fn to_json(&self) -> Value {
                let json = match self { $(Self::$kind(object) => serde_json::to_value(object)),* };
                let mut json = json.unwrap_or_default();
                if let Some(fields) = json.as_object_mut() {
                    fields.insert("kind".to_owned(), self.kind().name().into());
                }
                json
            }

            /// Reads an object of a known kind; says which fields the kind does not have.
            ///
            /// # Errors
            /// Names the field that has the wrong form.
            pub fn decode(kind: Kind, value: &Value) -> Result<Decoded<Self>, DecodeError> {
                match kind {
                    $(Kind::$kind => $decode::<$type>(value)
                        .map(|Decoded { value, unknown }| Decoded { value: Self::$kind(value), unknown }),)*
                }
            }
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$kind(object)
            }
        })*
    };
}

kinds! {
    Namespace: Namespace, "", "Namespace", Cluster, core;
    Node: Node, "", "Node", Cluster, core;
    Service: Service, "", "Service", Namespaced, core;
    EndpointSlice: EndpointSlice, "discovery.k8s.io", "EndpointSlice", Namespaced, core;
    Pod: Pod, "", "Pod", Namespaced, core;
    Secret: Secret, "", "Secret", Namespaced, core;
    ConfigMap: ConfigMap, "", "ConfigMap", Namespaced, core;
    ServiceAccount: ServiceAccount, "", "ServiceAccount", Namespaced, core;
    Ingress: Ingress, "networking.k8s.io", "Ingress", Namespaced, core;
    IngressClass: IngressClass, "networking.k8s.io", "IngressClass", Cluster, core;
    VirtualService: VirtualService, "networking.istio.io", "VirtualService", Namespaced, decode_object;
    DestinationRule: DestinationRule, "networking.istio.io", "DestinationRule", Namespaced, decode_object;
    Gateway: Gateway, "networking.istio.io", "Gateway", Namespaced, decode_object;
    ServiceEntry: ServiceEntry, "networking.istio.io", "ServiceEntry", Namespaced, decode_object;
    WorkloadEntry: WorkloadEntry, "networking.istio.io", "WorkloadEntry", Namespaced, decode_object;
    WorkloadGroup: WorkloadGroup, "networking.istio.io", "WorkloadGroup", Namespaced, decode_object;
    Sidecar: Sidecar, "networking.istio.io", "Sidecar", Namespaced, decode_object;
    EnvoyFilter: EnvoyFilter, "networking.istio.io", "EnvoyFilter", Namespaced, decode_object;
    ProxyConfig: ProxyConfig, "networking.istio.io", "ProxyConfig", Namespaced, decode_object;
    PeerAuthentication: PeerAuthentication, "security.istio.io", "PeerAuthentication", Namespaced, decode_object;
    RequestAuthentication: RequestAuthentication, "security.istio.io", "RequestAuthentication", Namespaced, decode_object;
    AuthorizationPolicy: AuthorizationPolicy, "security.istio.io", "AuthorizationPolicy", Namespaced, decode_object;
    Telemetry: Telemetry, "telemetry.istio.io", "Telemetry", Namespaced, decode_object;
    WasmPlugin: WasmPlugin, "extensions.istio.io", "WasmPlugin", Namespaced, decode_object;
    TrafficExtension: TrafficExtension, "extensions.istio.io", "TrafficExtension", Namespaced, decode_object;
    GatewayClass: GatewayClass, "gateway.networking.k8s.io", "GatewayClass", Cluster, decode_object;
    K8sGateway: K8sGateway, "gateway.networking.k8s.io", "Gateway", Namespaced, decode_object;
    ListenerSet: ListenerSet, "gateway.networking.k8s.io", "ListenerSet", Namespaced, decode_object;
    HttpRoute: HttpRoute, "gateway.networking.k8s.io", "HTTPRoute", Namespaced, decode_object;
    GrpcRoute: GrpcRoute, "gateway.networking.k8s.io", "GRPCRoute", Namespaced, decode_object;
    TcpRoute: TcpRoute, "gateway.networking.k8s.io", "TCPRoute", Namespaced, decode_object;
    TlsRoute: TlsRoute, "gateway.networking.k8s.io", "TLSRoute", Namespaced, decode_object;
    UdpRoute: UdpRoute, "gateway.networking.k8s.io", "UDPRoute", Namespaced, decode_object;
    ReferenceGrant: ReferenceGrant, "gateway.networking.k8s.io", "ReferenceGrant", Namespaced, decode_object;
    BackendTlsPolicy: BackendTlsPolicy, "gateway.networking.k8s.io", "BackendTLSPolicy", Namespaced, decode_object;
}

/// Core kinds have no `spec` that could be missing, and their types check `apiVersion` and `kind` themselves.
fn core<T: serde::de::DeserializeOwned>(value: &Value) -> Result<Decoded<T>, DecodeError> {
    let Value::Object(object) = value else {
        return decode(value);
    };
    let body = object.iter().filter(|(key, _)| *key != "apiVersion" && *key != "kind");
    decode(&Value::Object(
        body.map(|(key, value)| (key.clone(), value.clone())).collect(),
    ))
}

impl Object {
    /// Namespace and name. Objects of namespaced kinds that name no namespace are in `default`.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn key(&self) -> Result<ObjectKey, InvalidName> {
        let mut key = key_of(self.metadata())?;
        match self.kind().scope() {
            Scope::Cluster => key.namespace = None,
            Scope::Namespaced if key.namespace.is_none() => {
                key.namespace = Some(lateen_names::Namespace::new("default")?);
            }
            Scope::Namespaced => {}
        }
        Ok(key)
    }
}

impl Kind {
    /// The kind of that group and name, whatever version it is served in.
    pub fn find(group: &str, name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name && kind.group() == group)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.metadata();
        let (namespace, name) = (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        write!(f, "{} {namespace}/{name}", self.kind())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Objects of one cluster by kind and key.
#[derive(Debug, Clone, Default)]
pub struct Objects(BTreeMap<Kind, BTreeMap<ObjectKey, Arc<Object>>>);

impl Objects {
    /// The objects of a kind, in the order of their keys.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.0
            .get(&kind)
            .into_iter()
            .flatten()
            .map(|(key, object)| (key, &**object))
    }

    /// One object.
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.0.get(&kind)?.get(key)
    }

    /// Every object, shared, by kind, then by key.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Object>)> {
        self.0.values().flatten()
    }

    /// Only the objects whose keys are wanted, shared.
    pub fn filtered(&self, wanted: impl Fn(&ObjectKey) -> bool) -> Self {
        let of = |objects: &BTreeMap<ObjectKey, Arc<Object>>| {
            let objects = objects.iter().filter(|(key, _)| wanted(key));
            objects.map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
        };
        Self(self.0.iter().map(|(kind, objects)| (*kind, of(objects))).collect())
    }

    /// Puts an object; returns what was there.
    pub fn insert(&mut self, key: ObjectKey, object: Arc<Object>) -> Option<Arc<Object>> {
        self.0.entry(object.kind()).or_default().insert(key, object)
    }

    /// Takes an object away.
    pub fn remove(&mut self, kind: Kind, key: &ObjectKey) -> Option<Arc<Object>> {
        self.0.get_mut(&kind)?.remove(key)
    }
}
