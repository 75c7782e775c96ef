//! Generated protobuf messages of Envoy and of Lateen, with their descriptors and gRPC stubs.
//!
//! Messages are generated with ordered maps, so that equal messages have equal bytes in every process: a resource's
//! version is the hash of its bytes. Extensions that have no Rust type here are still known by descriptor
//! ([`descriptors`]), which is how JSON is written and how EnvoyFilter patches are applied.

mod any;
mod dynamic;
mod json;

pub use any::{any, type_url};
pub use dynamic::{Lists, merge, merge_any};
pub use json::{JsonError, any_from_json, any_to_json, bytes_from_json, descriptors, from_json, to_json};
pub use messages::*;
pub use prost_types::{Any, Struct, Value, value};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    rustdoc::all,
    clippy::all,
    clippy::disallowed_methods
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}
