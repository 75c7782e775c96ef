//! Facts about EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use lateen_names::{Name, Namespace, ObjectKey};

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceFacts {
    /// The Service whose endpoints these are.
    pub service: ObjectKey,
    pub namespace: Namespace,
    pub ipv6: bool,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlicePort {
    /// The name of the Service's port.
    pub name: Arc<str>,
    pub number: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    /// The Pod that it is, where the slice says so.
    pub pod: Option<ObjectKey>,
    pub conditions: Conditions,
}

/// `None` means not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

impl SliceFacts {
    /// `None` for slices that are no Service's, for those that multi-cluster services import, and for host names.
    pub(crate) fn new(slice: &EndpointSlice, key: &ObjectKey) -> Option<Self> {
        let namespace = key.namespace.clone()?;
        let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        if slice.address_type == "FQDN" || label("multicluster.kubernetes.io/service-name").is_some() {
            return None;
        }
        let service = Name::new(label("kubernetes.io/service-name")?).ok()?;
        let ports = slice.ports.iter().flatten().map(|port| SlicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            number: port
                .port
                .and_then(|number| u16::try_from(number).ok())
                .unwrap_or_default(),
        });
        let endpoint = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
            let target = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"));
            let conditions = endpoint.conditions.as_ref();
            SliceEndpoint {
                addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
                pod: target.and_then(|target| {
                    Some(ObjectKey {
                        namespace: Some(match target.namespace.as_deref().filter(|text| !text.is_empty()) {
                            Some(text) => Namespace::new(text).ok()?,
                            None => namespace.clone(),
                        }),
                        name: Name::new(target.name.as_deref()?).ok()?,
                    })
                }),
                conditions: Conditions {
                    ready: conditions.and_then(|conditions| conditions.ready),
                    serving: conditions.and_then(|conditions| conditions.serving),
                    terminating: conditions.and_then(|conditions| conditions.terminating),
                },
            }
        };
        Some(Self {
            service: ObjectKey {
                namespace: Some(namespace.clone()),
                name: service,
            },
            ipv6: slice.address_type == "IPv6",
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().map(endpoint).collect(),
            namespace,
        })
    }

    /// Every address in it.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints
            .iter()
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
    }
}
