//! Lowers Kubernetes, Istio and Gateway API objects to the model.
//!
//! [`Index`] is owned by one task. It takes batches of [`Event`]s, keeps what it needs of the objects, lowers again only
//! what depends on the objects that changed, and publishes immutable [`Snapshot`](lateen_model::Snapshot)s. Applying
//! never fails: what is wrong with an object becomes a [`Diagnostic`](lateen_model::Diagnostic).
//!
//! - [`object`]: the kinds that Lateen reads, decoding, events;
//! - [`context`]: what lowering a single object may look at beside the object;
//! - `kube`: Services, EndpointSlices, Pods, Nodes, ServiceEntries: who is called, and where it runs;
//! - [`istio`]: Istio's own kinds, one module per kind;
//! - [`gateway_api`]: Gateway API and Ingress;
//! - [`keys`]: public keys of token issuers, as somebody fetched them;
//! - [`mesh`]: MeshConfig, MeshNetworks, ProxyConfig;
//! - [`node`]: proxies from what they say of themselves, and what they would say, from their pods.

pub mod admission;
pub mod context;
pub mod gateway_api;
pub mod index;
pub mod istio;
pub mod keys;
mod kube;
pub mod mesh;
pub mod node;
pub mod object;
pub mod yaml;

pub use admission::Admission;
pub use context::Context;
pub use index::Index;
pub use keys::{FetchedKeys, KeySource, KeysEvent};
pub use mesh::Settings;
pub use object::{Change, Event, Kind, Object};
