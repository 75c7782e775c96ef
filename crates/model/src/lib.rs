//! The intermediate representation: services, endpoints, workloads, routes, policies, and the snapshot of them.
//!
//! Front ends (`lower`) make these values from user's objects, back ends (`compile`) read them. Every value is plain
//! data: comparable, hashable, without floating point, locks or lazily filled fields. What users got wrong is a value
//! too (an [`route::HttpAction::Invalid`], a diagnostic), never an error that stops the rest.
//!
//! Values stand in [`Table`]s as [`Shared`]: an `Arc` with a hash computed once, so that comparing two snapshots, or
//! using a value as a cache key, costs a word and not the value's size.

pub mod deployment;
pub mod destination;
pub mod diagnostic;
pub mod endpoint;
pub mod extension;
pub mod gateway;
pub mod mesh;
pub mod patch;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod secret;
pub mod selector;
pub mod service;
pub mod sidecar;
mod snapshot;
pub mod status;
mod table;

pub use diagnostic::{Diagnostic, Severity};
pub use proxy::Proxy;
pub use selector::{ExportTo, Labels, NamespaceSelector, Selector};
pub use service::{Service, ServiceKey};
pub use snapshot::{DISCOVERY, Snapshot};
pub use table::{Change, Shared, Table, content_hash};
