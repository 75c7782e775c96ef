//! The ADS session without I/O, its server body and its client.
//!
//! Resources are known here only as type, name, content hash and encoded bytes. [`Discovery`] says what a proxy should
//! hold; a [`Session`] says what to send so that it does, and in which order; [`AdsService`] carries it over gRPC.

mod client;
mod discovery;
mod metrics;
mod resource;
mod server;
mod session;
mod sessions;
pub mod types;
mod wire;

pub use client::{AdsClient, ClientResource, ClientState, ClientType, Update};
/// What a proxy says of itself.
pub use lateen_proto::envoy::config::core::v3::Node;

pub use discovery::{Discovery, Event, NamedAny, Peer, Question, Refusal, ResponseId, Subscription};
pub use metrics::XdsMetrics;
pub use resource::{Difference, Resource, ResourceSet, Sets, Wanted};
pub use server::{AdsService, ResponseBody, Settings};
pub use session::{Contents, Dialect, PATIENCE, Push, Session, TypeStatus, Violation};
pub use sessions::{Answered, Nack, SessionRecord, Sessions, SyncState, TypeRecord};
