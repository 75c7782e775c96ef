//! Resources as they stand in a delta response, written once for all proxies that are sent the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::write::{Header, field_len};
use crate::{Dialect, Resource};

/// More is not kept: what is large is sent seldom, and its resources are there one by one already.
const KEPT: usize = 128 * 1024;

/// The `resources` of a delta response.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Field after field.
    pub(crate) bytes: Bytes,
    /// How many resources these are.
    pub(crate) resources: usize,
    /// Bytes of the resources' bodies.
    pub(crate) bodies: usize,
}

impl Encoded {
    /// Writes resources of a type, unless that is too much to be kept.
    pub(crate) fn new<'a>(type_url: &str, resources: impl Iterator<Item = &'a Arc<Resource>>) -> Option<Self> {
        let resources: Vec<&Arc<Resource>> = resources.collect();
        let header = |resource| Header::new(Dialect::Delta, type_url, resource);
        let length: usize = resources
            .iter()
            .map(|resource| field_len(header(resource).length()))
            .sum();
        if length > KEPT {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(length);
        for resource in &resources {
            header(resource).put(&mut bytes);
            bytes.extend_from_slice(&resource.body);
        }
        Some(Self {
            bytes: bytes.freeze(),
            resources: resources.len(),
            bodies: resources.iter().map(|resource| resource.body.len()).sum(),
        })
    }
}
