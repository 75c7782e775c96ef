//! The only writers to the cluster.
//!
//! - [`Elector`]: leader election by a Lease; what only the leader may do runs in [`Leadership::lead`].
//! - [`root_certificates`]: the ConfigMap `istio-ca-root-cert` in every namespace of the mesh.
//! - [`webhooks`]: CA bundles in webhook configurations of a revision, and their failure policy.
//! - [`progress`]: every replica tells, on a Lease of its own, how far its proxies have come.
//! - [`status`]: `status` of Istio's kinds and of the Gateway API's, with the condition `lateen.dev/Distributed`.
//! - [`gateways`]: Deployment, Service and account of every Gateway that asks for them, and the classes of Gateways.
//!
//! All of them are level-triggered: they compare what is with what should be and write the difference, so that a missed
//! event, a restart or somebody else's edit is made good the next time they look.
//!
//! Failure policy: what cannot be written is logged with its reason and tried again, later and later; nothing here ends
//! the process. A leader that cannot renew its Lease stops writing before another can take it.

mod election;
pub mod gateways;
pub mod progress;
mod queue;
pub mod root_certificates;
pub mod status;
mod watched;
pub mod webhooks;

pub use election::{Election, Elector, Leadership};

/// Who wrote a field, in `metadata.managedFields`.
const MANAGER: &str = "lateen";
