//! Faithful types of the mesh's configuration: Istio's custom resources, MeshConfig, MeshNetworks and the Gateway API.
//!
//! The crate has no behaviour beyond reading and writing: every field that users' clusters may hold is here under its
//! name, with the value it has in JSON, and nothing is decided about what it means. A message of Istio's API is a
//! struct; a field of message type is an [`Option`]; a plain number, string or flag has its proto default when absent;
//! wrapped scalars and the members of a oneof are [`Option`]s, and each oneof has an accessor that returns an enum.
//!
//! - [`decode`](mod@decode) reads JSON by the rules of protobuf's JSON form and reports what it does not know, with the path of it.
//! - [`KINDS`] lists the custom resources with their names and versions.
//! - [`crd`] generates the CustomResourceDefinitions from the types.
//! - [`mesh::MeshConfig::merge`] lays one mesh configuration over another as Istio does.
//!
//! Failure policy: unknown fields never lose the object; a wrong type does, with the path to it.

pub mod crd;
pub mod decode;
pub mod extensions;
pub mod gateway_api;
pub mod mesh;
pub mod networking;
pub mod security;
pub mod selector;
pub mod status;
pub mod telemetry;

mod byte_string;
mod duration;
mod kinds;
mod proto_enum;
mod schema;
mod serde_util;
mod struct_value;

pub use self::byte_string::ByteString;
pub use self::decode::{DecodeError, Decoded, decode, decode_object, decode_proto};
pub use self::duration::{Duration, ParseDurationError};
pub use self::kinds::{Column, KINDS, KindInfo, Scope, kind};
pub use self::struct_value::Struct;
