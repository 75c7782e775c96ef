//! The synthetic mesh: how large it is, what it is like, and what everything in it is called.

mod objects;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::writer::Writer;

/// The label of everything that is made here.
pub const LABEL: &str = "lateen.dev/load";
/// The service account that all sidecars run as, each in its namespace.
pub(crate) const ACCOUNT: &str = "default";
/// The ConfigMap in the first namespace that says what the mesh is like, so that `run` need not be told.
const CONFIG_MAP: &str = "lateen-load";
const KEY: &str = "mesh.json";
/// Addresses of instances: from here to where the Services of most clusters begin.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const ADDRESSES: usize = 1 << 21;
/// Nodes that instances are spread over.
pub(crate) const NODES: usize = 48;
const ZONES: usize = 3;

/// What the mesh is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// All services are alike
    Plain,
    /// Headless and TCP services too, three zones, canonical labels, Sidecars and policies for some workloads
    Real,
}

/// A mesh, by its numbers. Service `i` lies in namespace `i % namespaces`; instance `k` is one of service `k % services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Mesh {
    /// Services
    #[arg(long, default_value_t = 1_000)]
    pub services: usize,
    /// Namespaces that they are spread over
    #[arg(long, default_value_t = 20)]
    pub namespaces: usize,
    /// Endpoints of each service
    #[arg(long, default_value_t = 2)]
    pub endpoints: usize,
    /// How many of the services have a VirtualService and a DestinationRule
    #[arg(long, default_value_t = 100)]
    pub routes: usize,
    /// What the mesh is like
    #[arg(long, value_enum, default_value = "plain")]
    pub shape: Shape,
    /// Make a pod for each endpoint, and the pods' nodes in shape `real`. Not for a cluster with a controller manager,
    /// which would remove pods of nodes that are not there. Without pods, endpoints have no labels, so that subsets are empty
    #[arg(long)]
    pub pods: bool,
}

// === impl Mesh ===

impl Mesh {
    /// Whether such a mesh can be.
    ///
    /// # Errors
    /// When a number is out of its bounds; the message names the flag.
    pub fn check(&self) -> Result<()> {
        for (flag, number) in [
            ("--services", self.services),
            ("--namespaces", self.namespaces),
            ("--endpoints", self.endpoints),
            ("--routes", self.routes),
        ] {
            if number == 0 {
                bail!("{flag} must be at least 1: what is measured needs one");
            }
        }
        if self.routes > self.services {
            bail!("--routes must be at most --services, {}", self.services);
        }
        if self.instances() > ADDRESSES {
            bail!("--services times --endpoints must be at most {ADDRESSES}");
        }
        Ok(())
    }

    /// The mesh that a cluster was filled with.
    ///
    /// # Errors
    /// When it was not filled, or the API server does not answer.
    pub async fn read(writer: &Writer) -> Result<Self> {
        let map = writer
            .get("ConfigMap", Some(&namespace(0)), CONFIG_MAP)
            .await?
            .with_context(|| {
                format!(
                    "there is no ConfigMap {}/{CONFIG_MAP}: fill the cluster first, `lateen-load fill`",
                    namespace(0)
                )
            })?;
        let text = map["data"][KEY].as_str().unwrap_or_default();
        serde_json::from_str(text).context("the ConfigMap of the mesh is of another version: fill the cluster anew")
    }

    /// Endpoints of all services.
    pub(crate) fn instances(&self) -> usize {
        self.services.saturating_mul(self.endpoints)
    }

    fn is_real(&self) -> bool {
        self.shape == Shape::Real
    }

    /// Whether a service has no address of its own. The first has always one.
    pub(crate) fn is_headless(&self, service: usize) -> bool {
        self.is_real() && service % 10 == 9
    }

    pub(crate) fn namespace_of(&self, service: usize) -> String {
        namespace(service % self.namespaces)
    }

    /// The host name of a service in the mesh.
    pub(crate) fn host(&self, service: usize) -> String {
        format!(
            "{}.{}.svc.cluster.local",
            service_name(service),
            self.namespace_of(service)
        )
    }

    /// One instance of a service, or a sidecar beyond them, which calls and is not called.
    pub(crate) fn instance(&self, number: usize) -> Instance<'_> {
        Instance { mesh: self, number }
    }
}

/// One instance of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instance<'a> {
    mesh: &'a Mesh,
    number: usize,
}

// === impl Instance ===

impl Instance<'_> {
    pub(crate) fn service(&self) -> usize {
        self.number % self.mesh.services
    }

    pub(crate) fn namespace(&self) -> String {
        self.mesh.namespace_of(self.service())
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", service_name(self.service()), self.number)
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        let offset = u32::try_from(self.number % ADDRESSES).unwrap_or_default();
        Ipv4Addr::from(u32::from(FIRST_ADDRESS) + offset)
    }

    /// One of two versions of its service, by turns.
    pub(crate) fn version(&self) -> &'static str {
        ["v1", "v2"][self.number / self.mesh.services % 2]
    }

    pub(crate) fn node(&self) -> String {
        node(self.number % NODES)
    }

    /// The region and zone it runs in; none in a plain mesh.
    pub(crate) fn locality(&self) -> Option<(&'static str, &'static str)> {
        self.mesh.is_real().then(|| (REGION, zone(self.number % NODES)))
    }

    /// The labels of its pod.
    pub(crate) fn labels(&self) -> serde_json::Value {
        let app = service_name(self.service());
        let mut labels = serde_json::json!({
            "app": app, "version": self.version(), "security.istio.io/tlsMode": "istio", LABEL: "true",
        });
        if self.mesh.is_real() {
            labels["service.istio.io/canonical-name"] = app.into();
            labels["service.istio.io/canonical-revision"] = self.version().into();
            // Replicas of one version are of one ReplicaSet.
            labels["pod-template-hash"] = format!("{:08x}{}", self.service(), self.version()).into();
        }
        labels
    }
}

const REGION: &str = "region-1";

fn zone(node: usize) -> &'static str {
    ["region-1a", "region-1b", "region-1c"][node % ZONES]
}

fn node(number: usize) -> String {
    format!("load-node-{number}")
}

pub(crate) fn namespace(number: usize) -> String {
    format!("load-{number}")
}

pub(crate) fn service_name(service: usize) -> String {
    format!("svc-{service}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Mesh {
        Mesh {
            services: 20,
            namespaces: 3,
            endpoints: 2,
            routes: 5,
            shape: Shape::Real,
            pods: true,
        }
    }

    #[test]
    fn instances_take_turns_in_services_versions_and_zones() {
        let mesh = mesh();
        let (first, second) = (mesh.instance(7), mesh.instance(27));
        assert_eq!((first.service(), second.service()), (7, 7));
        assert_eq!((first.version(), second.version()), ("v1", "v2"));
        assert_eq!(first.namespace(), "load-1");
        assert_ne!(first.address(), second.address());
        assert_eq!(mesh.instance(0).locality(), Some(("region-1", "region-1a")));
        assert_eq!(mesh.instance(1).locality(), Some(("region-1", "region-1b")));
    }

    #[test]
    fn numbers_out_of_bounds_are_named() {
        assert!(mesh().check().is_ok());
        let none = Mesh { routes: 0, ..mesh() };
        assert!(none.check().is_err_and(|error| error.to_string().contains("--routes")));
        let many = Mesh { routes: 21, ..mesh() };
        assert!(many.check().is_err_and(|error| error.to_string().contains("at most")));
        let huge = Mesh {
            endpoints: ADDRESSES,
            ..mesh()
        };
        assert!(huge.check().is_err());
    }
}
