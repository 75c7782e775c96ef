//! What building makes.

use std::sync::Arc;

use bytes::Bytes;
use lateen_model::Diagnostic;
use lateen_names::ObjectRef;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

/// A resource, encoded once and shared from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The name by which xDS knows it.
    pub name: Arc<str>,
    /// Hash of the bytes: its version.
    pub hash: u64,
    /// The encoded message.
    pub bytes: Bytes,
}

impl Resource {
    /// Encodes a message. Maps in generated messages are ordered, so equal messages give equal bytes.
    pub fn encode<M: Message>(name: impl Into<Arc<str>>, message: &M) -> Self {
        Self::of(name, message.encode_to_vec())
    }

    /// A message that is encoded already.
    pub fn of(name: impl Into<Arc<str>>, bytes: Vec<u8>) -> Self {
        let bytes = Bytes::from(bytes);
        Self {
            name: name.into(),
            hash: xxh3_64(&bytes),
            bytes,
        }
    }
}

/// The result of building one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The resource; `None` where nothing can be made of the input, with a diagnostic that says why.
    pub resource: Option<Resource>,
    /// Findings on the way.
    pub diagnostics: Vec<Diagnostic>,
    /// The objects that it was made from, most decisive first.
    pub origins: Arc<[ObjectRef]>,
}

impl Built {
    /// A resource without findings.
    pub fn new(resource: Resource, origins: impl Into<Arc<[ObjectRef]>>) -> Self {
        Self {
            resource: Some(resource),
            diagnostics: Vec::new(),
            origins: origins.into(),
        }
    }
}
