//! What Lateen writes to a cluster, and whom it trusts there, on a real API server.

mod daemon;
mod election;
mod gateways;
mod identity;
mod repaired;
mod replica;
mod root;
mod secrets;
mod signer;
mod status;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use kube::api::{Api, ApiResource, DynamicObject};
use lateen_ca::{CaConfig, Clock, RootSource};
use lateen_names::TrustDomain;

/// How long anything may take on a machine that does other things, too.
const SOON: Duration = Duration::from_secs(60);

fn clock() -> Clock {
    Arc::new(SystemTime::now)
}

fn ca_config() -> CaConfig {
    CaConfig::new(TrustDomain::default(), RootSource::Held("nowhere".into()))
}

/// Objects of a kind in a namespace.
fn objects(client: &kube::Client, namespace: &str, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(api_version, kind, plural))
}

/// Objects of a kind that has no namespaces.
fn cluster_objects(client: &kube::Client, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(api_version, kind, plural))
}

fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn version(object: &DynamicObject) -> Result<u64> {
    Ok(object
        .metadata
        .resource_version
        .as_deref()
        .unwrap_or_default()
        .parse()?)
}
