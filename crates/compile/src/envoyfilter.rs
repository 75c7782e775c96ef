//! Resources that EnvoyFilters add.
//!
//! Of EnvoyFilter only `applyTo: CLUSTER` with `operation: ADD` is compiled; [`unsupported`] names every other patch, so
//! that a user learns that it has no effect.

use std::sync::Arc;

use lateen_model::proxy::ProxyKind;
use lateen_model::{Diagnostic, Severity, Snapshot};
use lateen_names::ObjectRef;
use lateen_proto::envoy::config::cluster::v3::Cluster;
use serde_json::Value;

use crate::built::{Built, Resource};
use crate::facts::OutboundFacts;

/// A cluster as a user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    origin: ObjectRef,
    index: usize,
    patch: Arc<str>,
}

impl Input {
    /// Builds the cluster; what is not one becomes a finding and nothing else.
    pub fn build(&self) -> Built {
        let value: Value = serde_json::from_str(&self.patch).unwrap_or_default();
        match lateen_proto::from_json::<Cluster>(&value["patch"]["value"]) {
            Ok(cluster) if !cluster.name.is_empty() => Built::new(
                Resource::encode(Arc::<str>::from(cluster.name.as_str()), &cluster),
                [self.origin.clone()],
            ),
            Ok(_) => self.refused("the cluster has no name; give it one"),
            Err(error) => self.refused(&format!("is no cluster of Envoy: {error}")),
        }
    }

    fn refused(&self, message: &str) -> Built {
        let finding = Diagnostic {
            object: self.origin.clone(),
            field: format!("spec.configPatches[{}].patch.value", self.index).into(),
            severity: Severity::Error,
            code: "LTN0002",
            message: message.into(),
        };
        Built {
            resource: None,
            diagnostics: vec![finding],
            origins: [self.origin.clone()].into(),
        }
    }
}

/// Clusters that EnvoyFilters in force add to proxies of this class.
pub fn clusters(snapshot: &Snapshot, facts: &OutboundFacts) -> Vec<Input> {
    let mut all = Vec::new();
    for filter in facts
        .envoy_filters
        .iter()
        .filter_map(|key| snapshot.envoy_filters.get(key))
    {
        for (index, patch) in filter.patches.iter().enumerate() {
            let value: Value = serde_json::from_str(patch).unwrap_or_default();
            if adds_cluster(&value) && concerns(&value, facts.kind) {
                all.push(Input {
                    origin: filter.scope.origin.clone(),
                    index,
                    patch: Arc::clone(patch),
                });
            }
        }
    }
    all
}

/// A finding for every patch that has no effect.
pub fn unsupported(snapshot: &Snapshot) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    for filter in snapshot.envoy_filters.values() {
        for (index, patch) in filter.patches.iter().enumerate() {
            let value: Value = serde_json::from_str(patch).unwrap_or_default();
            if !adds_cluster(&value) {
                let what = value["applyTo"].as_str().unwrap_or("INVALID");
                let how = value["patch"]["operation"].as_str().unwrap_or("INVALID");
                all.push(Diagnostic {
                    object: filter.scope.origin.clone(),
                    field: format!("spec.configPatches[{index}]").into(),
                    severity: Severity::Error,
                    code: "LTN0003",
                    message: format!("{how} of {what} is not supported; the patch has no effect").into(),
                });
            }
        }
    }
    all
}

fn adds_cluster(patch: &Value) -> bool {
    patch["applyTo"] == "CLUSTER" && patch["patch"]["operation"] == "ADD"
}

/// Whether the patch's context is one of the proxy's.
fn concerns(patch: &Value, kind: ProxyKind) -> bool {
    match patch["match"]["context"].as_str().unwrap_or("ANY") {
        "ANY" => true,
        "SIDECAR_INBOUND" | "SIDECAR_OUTBOUND" => kind == ProxyKind::Sidecar,
        "GATEWAY" => kind == ProxyKind::Router,
        _ => false,
    }
}
