//! Who is called, and where it runs: Services, EndpointSlices, Pods, Nodes, ServiceEntries, WorkloadEntries.
//!
//! Each object is first reduced to *facts*: what of it matters, parsed, without regard to any other object or setting.
//! Facts are what `Index` keeps, so a Pod costs a few hundred bytes instead of its whole manifest, and an event that
//! changes no fact changes nothing. From the facts of several objects [`registry`](self) makes services, endpoints and
//! instances.

pub(crate) mod credential;
pub(crate) mod entry;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod protocol;
pub(crate) mod registry;
pub(crate) mod service;
pub(crate) mod slice;
pub(crate) mod workload;
