//! Key material that users gave in Secrets and ConfigMaps, for the proxies that may have it.
//!
//! A proxy gets Secrets of its own namespace that its gateways (or its DestinationRules) name, and those of others only by the
//! names that lowering makes of Gateway API listeners once a ReferenceGrant allows them (`kubernetes-gateway://`).
//! ConfigMaps hold authorities only, which are no secret. Proxies whose identity may not read Secrets get those, and what
//! Gateway API listeners name: there the owner of the Gateway has said which Secrets its proxies are to have, and these
//! proxies, which Lateen deploys, have no role of their own (as of istiod).

use std::collections::BTreeSet;

use bytes::Bytes;
use lateen_model::destination::{ClientTls, TlsMode, TrafficPolicy};
use lateen_model::gateway::{ServerTls, ServerTlsMode};
use lateen_model::proxy::ProxyKind;
use lateen_model::route::Semantics;
use lateen_model::secret::Credential;
use lateen_model::{Shared, Snapshot};
use lateen_names::{Name, Namespace, ObjectKey, ObjectRef};
use lateen_proto::envoy::config::core::v3::{DataSource, data_source};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3 as tls;

use crate::built::{Built, Resource};
use crate::facts::OutboundFacts;
use crate::names;

const AUTHORITIES: &str = "-cacert";
const CONFIG_MAP: &str = "configmap://";
/// What lowering makes of the Gateway API's references, once it has found that they are allowed.
const OF_LISTENER: &str = "kubernetes-gateway://";

/// What one secret is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    name: String,
    role: Role,
    material: Shared<Credential>,
    origin: ObjectRef,
}

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Role {
    /// To present: certificate and key.
    Certificate,
    /// To verify others by.
    Authorities,
}

impl Input {
    /// The name by which SDS knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Builds the resource. Nothing is sent of a Secret that lacks what it is asked for.
    pub fn build(&self) -> Built {
        let resource = match self.role {
            Role::Certificate => self.certificate(),
            Role::Authorities => self.authorities(),
        };
        let secret = resource.map(|kind| tls::Secret {
            name: self.name.clone(),
            r#type: Some(kind),
        });
        Built {
            resource: secret.map(|secret| Resource::encode(self.name.as_str(), &secret)),
            diagnostics: Vec::new(),
            origins: [self.origin.clone()].into(),
        }
    }

    fn certificate(&self) -> Option<tls::secret::Type> {
        let material = &self.material;
        Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline(material.certificate.as_deref()?)),
            private_key: Some(inline(material.private_key.as_ref()?.expose())),
            ocsp_staple: material.ocsp_staple.as_deref().map(inline),
            ..tls::TlsCertificate::default()
        }))
    }

    fn authorities(&self) -> Option<tls::secret::Type> {
        let material = &self.material;
        Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: Some(inline(material.ca.as_deref()?)),
                crl: material.crl.as_deref().map(inline),
                ..tls::CertificateValidationContext::default()
            },
        ))
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(Bytes::copy_from_slice(bytes))),
        ..DataSource::default()
    }
}

/// Lists every secret that proxies of a class may ask for, sorted by name.
pub fn select(snapshot: &Snapshot, facts: &OutboundFacts) -> Vec<Input> {
    let mut wanted = Wanted::default();
    for gateway in facts.gateways.iter().filter_map(|key| snapshot.gateways.get(key)) {
        wanted.granted = gateway.semantics == Semantics::GatewayApi;
        for tls in gateway.servers.iter().filter_map(|server| server.tls.as_ref()) {
            wanted.of_server(tls);
        }
    }
    for (key, rule) in snapshot.destination_rules.iter() {
        let selected = facts.rules.contains(key);
        let visible = rule.namespace == facts.namespace || rule.export_to.visible_in(&facts.namespace);
        let holds = if rule.workload_selector.is_some() {
            selected
        } else {
            visible
        };
        if holds {
            wanted.granted = &*rule.origin.kind != "DestinationRule";
            wanted.private = selected || facts.kind != ProxyKind::Sidecar;
            wanted.of_policy(&rule.policy);
            for subset in &rule.subsets {
                wanted.of_policy(&subset.policy);
            }
        }
    }
    wanted
        .names
        .into_iter()
        .filter(|(name, _)| !facts.options.without_secrets || is_given(name))
        .filter_map(|(name, role)| {
            let (material, origin) = find(snapshot, &facts.namespace, &name, role)?;
            Some(Input {
                name,
                role,
                material,
                origin,
            })
        })
        .collect()
}

/// Whether a name is for whoever serves the Gateway, or no secret: what an identity may read says nothing of it. Only
/// lowering makes names of listeners.
fn is_given(name: &str) -> bool {
    name.starts_with(CONFIG_MAP) || name.starts_with(OF_LISTENER)
}

/// Names that a proxy may ask for, while they are collected.
#[derive(Debug, Default)]
struct Wanted {
    names: BTreeSet<(String, Role)>,
    /// Whether names that cross namespaces come from lowering, which has checked that they may.
    granted: bool,
    /// Whether a rule may give its callers secrets, too, and not only authorities of ConfigMaps.
    private: bool,
}

impl Wanted {
    fn add(&mut self, name: String, role: Role) {
        if self.granted || !name.starts_with(OF_LISTENER) {
            self.names.insert((name, role));
        }
    }

    fn of_server(&mut self, tls: &ServerTls) {
        let certificates: Vec<String> = tls.credentials.iter().map(|name| names::credential(name)).collect();
        if matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) {
            let authorities = match (&tls.ca_credential, certificates.first()) {
                (Some(name), _) => Some(names::credential(name)),
                (None, first) => first.map(|name| format!("{name}{AUTHORITIES}")),
            };
            if let Some(name) = authorities {
                self.add(name, Role::Authorities);
            }
        }
        for name in certificates {
            self.add(name, Role::Certificate);
        }
    }

    fn of_policy(&mut self, policy: &TrafficPolicy) {
        let levels = std::iter::once(policy).chain(policy.ports.values());
        for tls in levels.filter_map(|level| level.tls.as_ref()) {
            self.of_client(tls);
        }
    }

    fn of_client(&mut self, tls: &ClientTls) {
        let Some(credential) = tls.credential.as_deref().filter(|name| !name.is_empty()) else {
            return;
        };
        let name = names::credential(credential);
        if !self.private && !name.starts_with(CONFIG_MAP) {
            return;
        }
        if matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual) {
            self.add(format!("{name}{AUTHORITIES}"), Role::Authorities);
        }
        if tls.mode == TlsMode::Mutual {
            self.add(name, Role::Certificate);
        }
    }
}

/// Finds what a name means to proxies of a namespace; authorities may stand in a Secret of their own (`x-cacert`) or
/// beside the certificate (`x`).
fn find(snapshot: &Snapshot, own: &Namespace, name: &str, role: Role) -> Option<(Shared<Credential>, ObjectRef)> {
    let (scheme, path) = name.split_once("://")?;
    let (namespace, object) = match path.split_once('/') {
        Some((namespace, object)) => (Namespace::new(namespace).ok()?, object),
        None => (own.clone(), path),
    };
    let (kind, prefix) = match scheme {
        "kubernetes" if namespace == *own => ("Secret", ""),
        "kubernetes-gateway" => ("Secret", ""),
        "configmap" if role == Role::Authorities => ("ConfigMap", "configmap:"),
        _ => return None,
    };
    let lookup = |object: &str| {
        let key = ObjectKey {
            namespace: Some(namespace.clone()),
            name: Name::new(&format!("{prefix}{object}")).ok()?,
        };
        let origin = ObjectRef {
            kind: kind.into(),
            group: "".into(),
            key: ObjectKey {
                namespace: Some(namespace.clone()),
                name: Name::new(object).ok()?,
            },
        };
        Some((snapshot.credentials.get(&key)?.clone(), origin))
    };
    let beside = || object.strip_suffix(AUTHORITIES).filter(|_| role == Role::Authorities);
    lookup(object).or_else(|| lookup(beside()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::Family;
    use crate::testing::{inputs, router, sidecar, world};

    fn secret(namespace: &str, name: &str) -> String {
        // The Gateway API's listeners want what looks like PEM.
        let certificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
        let key = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCmEKLS0tLS1FTkQgUFJJVkFURSBLRVktLS0tLQo=";
        let data = json!({"tls.crt": certificate, "tls.key": key, "ca.crt": certificate});
        let document = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace}, "data": data,
        });
        format!("---\n{document}\n")
    }

    fn gateway(tls: Value) -> String {
        let server = json!({
            "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": tls,
        });
        let document = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "default"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
        });
        format!("---\n{document}\n")
    }

    fn names(objects: &str) -> Vec<String> {
        let snapshot = world(json!({}), objects, false);
        let secrets = inputs(&snapshot, &router("10.1.0.9"), Family::Secrets);
        let built = secrets.iter().filter_map(|input| input.build().resource);
        built.map(|resource| resource.name.to_string()).collect()
    }

    #[test]
    fn a_gateway_gets_what_its_servers_name_from_its_own_namespace() {
        let mutual = gateway(json!({"mode": "MUTUAL", "credentialName": "edge"}));
        let objects = format!("{mutual}{}{}", secret("default", "edge"), secret("default", "other"));
        assert_eq!(names(&objects), ["kubernetes://edge", "kubernetes://edge-cacert"]);
        let elsewhere = format!("{mutual}{}", secret("other", "edge"));
        assert!(names(&elsewhere).is_empty());
    }

    #[test]
    fn a_users_gateway_cannot_name_secrets_of_other_namespaces() {
        for name in ["kubernetes://other/edge", "kubernetes-gateway://other/edge"] {
            let simple = gateway(json!({"mode": "SIMPLE", "credentialName": name}));
            assert!(
                names(&format!("{simple}{}", secret("other", "edge"))).is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn who_may_not_read_secrets_gets_what_listeners_name() {
        let listeners = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "door", "namespace": "default"},
            "spec": {"gatewayClassName": "istio", "listeners": [{
                "name": "https", "port": 443, "protocol": "HTTPS",
                "tls": {"mode": "Terminate", "certificateRefs": [{"name": "door"}]},
            }]},
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "door-istio", "namespace": "default"},
            "spec": {
                "clusterIP": "10.96.0.9", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}],
                "selector": {"gateway.networking.k8s.io/gateway-name": "door"},
            },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "door", "namespace": "default", "labels": {"gateway.networking.k8s.io/gateway-name": "door"},
            },
            "status": {"phase": "Running", "podIP": "10.1.0.9", "podIPs": [{"ip": "10.1.0.9"}]},
        });
        let of_user = gateway(json!({"mode": "SIMPLE", "credentialName": "edge"}));
        let secrets = format!("{}{}", secret("default", "edge"), secret("default", "door"));
        let snapshot = world(
            json!({}),
            &format!("---\n{listeners}\n---\n{service}\n---\n{pod}\n{of_user}{secrets}"),
            false,
        );
        let mut proxy = router("10.1.0.9");
        proxy
            .labels
            .insert("gateway.networking.k8s.io/gateway-name".into(), "door".into());
        let mut names = |without_secrets: bool| -> Vec<String> {
            proxy.options.without_secrets = without_secrets;
            let secrets = inputs(&snapshot, &proxy, Family::Secrets);
            let built = secrets.iter().filter_map(|input| input.build().resource);
            built.map(|resource| resource.name.to_string()).collect()
        };
        assert_eq!(names(false), ["kubernetes-gateway://default/door", "kubernetes://edge"]);
        assert_eq!(names(true), ["kubernetes-gateway://default/door"]);
    }

    #[test]
    fn a_sidecar_gets_none_and_nothing_prints_a_key() {
        let objects = format!(
            "{}{}",
            gateway(json!({"mode": "SIMPLE", "credentialName": "edge"})),
            secret("default", "edge")
        );
        let snapshot = world(json!({}), &objects, false);
        assert!(inputs(&snapshot, &sidecar("10.1.0.9", ""), Family::Secrets).is_empty());
        let printed = format!("{:?}", inputs(&snapshot, &router("10.1.0.9"), Family::Secrets));
        assert!(printed.contains("[redacted]"));
    }
}
