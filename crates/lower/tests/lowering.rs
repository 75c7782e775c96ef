//! Lowering of Istio's kinds, of the Gateway API and of Ingress, from YAML through the index to the snapshot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test is meant to say so"
)]

#[path = "lowering/analysis.rs"]
mod analysis;
#[path = "lowering/deployments.rs"]
mod deployments;
#[path = "lowering/gateway.rs"]
mod gateway;
#[path = "lowering/gateway_api.rs"]
mod gateway_api;
#[path = "lowering/goldens.rs"]
mod goldens;
#[path = "lowering/ingress.rs"]
mod ingress;
#[path = "lowering/mutation.rs"]
mod mutation;
#[path = "lowering/policy.rs"]
mod policy;
#[path = "lowering/statuses.rs"]
mod statuses;
#[path = "lowering/traffic.rs"]
mod traffic;
#[path = "lowering/verdicts.rs"]
mod verdicts;
#[path = "lowering/virtual_service.rs"]
mod virtual_service;
#[path = "lowering/world.rs"]
mod world;
