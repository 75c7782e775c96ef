//! Writes a response as gRPC framing and protobuf headers around the resources' shared bodies.
//!
//! What others are sent, too, was written once, and goes out as it is if it does not fit into one frame with the rest. A body
//! of more than [`COPIED`] bytes is shared by every proxy; smaller ones are gathered into chunks, because a frame of its own
//! would cost more than the copy, here and at the proxy.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::session::Kept;
use crate::{Dialect, Push, Resource};

/// Bodies up to this many bytes are copied.
const COPIED: usize = 4096;

/// Chunks end once they have this many bytes: HTTP/2's usual frame.
const CHUNK: usize = 16 * 1024;

/// What comes before a message in gRPC: a flag, and its length.
const FRAMING: usize = 5;

/// Digits of a version.
const VERSION: usize = 16;

/// Field numbers and wire types of length-delimited fields, as keys.
mod key {
    pub(super) const DELTA_SYSTEM_VERSION: u8 = 1 << 3 | 2;
    pub(super) const DELTA_RESOURCES: u8 = 2 << 3 | 2;
    pub(super) const DELTA_TYPE_URL: u8 = 4 << 3 | 2;
    pub(super) const DELTA_NONCE: u8 = 5 << 3 | 2;
    pub(super) const DELTA_REMOVED: u8 = 6 << 3 | 2;
    pub(super) const DELTA_CONTROL_PLANE: u8 = 7 << 3 | 2;
    pub(super) const RESOURCE_VERSION: u8 = 1 << 3 | 2;
    pub(super) const RESOURCE_ANY: u8 = 2 << 3 | 2;
    pub(super) const RESOURCE_NAME: u8 = 3 << 3 | 2;
    pub(super) const ANY_TYPE_URL: u8 = 1 << 3 | 2;
    pub(super) const ANY_VALUE: u8 = 2 << 3 | 2;
    pub(super) const SOTW_VERSION: u8 = 1 << 3 | 2;
    pub(super) const SOTW_RESOURCES: u8 = 2 << 3 | 2;
    pub(super) const SOTW_TYPE_URL: u8 = 4 << 3 | 2;
    pub(super) const SOTW_NONCE: u8 = 5 << 3 | 2;
    pub(super) const SOTW_CONTROL_PLANE: u8 = 6 << 3 | 2;
}

/// One response that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    dialect: Dialect,
    type_url: Arc<str>,
    head: BytesMut,
    left: Left,
}

/// What is still to be written.
#[derive(Debug)]
enum Left {
    /// Resources, and before them the body of the one before.
    Listed {
        body: Option<Bytes>,
        resources: VecDeque<Arc<Resource>>,
    },
    /// What others are sent, too.
    Shared(Bytes),
}

/// Everything of a resource that comes before its body.
pub(super) struct Header<'a> {
    dialect: Dialect,
    type_url: &'a str,
    resource: &'a Resource,
    /// The length of the `Any`.
    any: usize,
}

impl Writer {
    /// Writes a response. `control_plane` is an encoded `ControlPlane`.
    ///
    /// A response of 4 GiB and more, which gRPC cannot carry, is `None`.
    pub(crate) fn new(push: Push, control_plane: &[u8]) -> Option<Self> {
        let Push {
            dialect,
            type_url,
            nonce,
            version,
            resources,
            removed,
        } = push;
        let nonce = nonce.to_string();
        let mut fields = BytesMut::new();
        let (version_key, type_key, nonce_key, control_key) = match dialect {
            Dialect::Delta => (
                key::DELTA_SYSTEM_VERSION,
                key::DELTA_TYPE_URL,
                key::DELTA_NONCE,
                key::DELTA_CONTROL_PLANE,
            ),
            Dialect::StateOfTheWorld => (
                key::SOTW_VERSION,
                key::SOTW_TYPE_URL,
                key::SOTW_NONCE,
                key::SOTW_CONTROL_PLANE,
            ),
        };
        put(&mut fields, version_key, version.as_bytes());
        put(&mut fields, type_key, type_url.as_bytes());
        put(&mut fields, nonce_key, nonce.as_bytes());
        if !control_plane.is_empty() {
            put(&mut fields, control_key, control_plane);
        }
        for name in &removed {
            put(&mut fields, key::DELTA_REMOVED, name.as_bytes());
        }
        // How much may follow in the first piece: it lies in memory until it is sent.
        let (length, room, mut left) = match resources.0 {
            Kept::Listed(listed) => {
                let one = |resource: &Arc<Resource>| field_len(Header::new(dialect, &type_url, resource).length());
                let length = listed.iter().map(one).sum();
                let resources = listed.into();
                (length, CHUNK.min(length), Left::Listed { body: None, resources })
            }
            Kept::Shared { encoded, .. } => {
                let length = encoded.bytes.len();
                let fits = FRAMING + fields.len() + length <= CHUNK;
                let room = if fits { length } else { 0 };
                (length, room, Left::Shared(encoded.bytes.clone()))
            }
        };
        let mut head = BytesMut::with_capacity(FRAMING + fields.len() + room);
        head.put_u8(0);
        head.put_u32(u32::try_from(fields.len() + length).ok()?);
        head.extend_from_slice(&fields);
        if let Left::Shared(bytes) = &mut left
            && room == bytes.len()
        {
            head.extend_from_slice(&std::mem::take(bytes));
        }
        Some(Self {
            dialect,
            type_url,
            head,
            left,
        })
    }

    /// The next piece, or `None` at the end.
    pub(crate) fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = std::mem::take(&mut self.head);
        match &mut self.left {
            Left::Listed { body, resources } => {
                if let Some(body) = body.take() {
                    return Some(body);
                }
                while chunk.len() < CHUNK
                    && let Some(resource) = resources.pop_front()
                {
                    Header::new(self.dialect, &self.type_url, &resource).put(&mut chunk);
                    if resource.body.len() <= COPIED {
                        chunk.extend_from_slice(&resource.body);
                    } else {
                        *body = Some(resource.body.clone());
                        break;
                    }
                }
            }
            Left::Shared(bytes) if chunk.is_empty() => {
                let next = bytes.split_to(CHUNK.min(bytes.len()));
                return (!next.is_empty()).then_some(next);
            }
            Left::Shared(_) => {}
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }
}

impl<'a> Header<'a> {
    pub(super) fn new(dialect: Dialect, type_url: &'a str, resource: &'a Resource) -> Self {
        Self {
            dialect,
            type_url,
            resource,
            any: field_len(type_url.len()) + field_len(resource.body.len()),
        }
    }

    /// The length of the element of `resources` that it begins, with the body.
    pub(super) fn length(&self) -> usize {
        match self.dialect {
            Dialect::Delta => field_len(self.resource.name.len()) + field_len(VERSION) + field_len(self.any),
            Dialect::StateOfTheWorld => self.any,
        }
    }

    pub(super) fn put(&self, chunk: &mut BytesMut) {
        match self.dialect {
            Dialect::Delta => {
                put_key(chunk, key::DELTA_RESOURCES, self.length());
                put(chunk, key::RESOURCE_NAME, self.resource.name.as_bytes());
                put(chunk, key::RESOURCE_VERSION, &self.resource.digits());
                put_key(chunk, key::RESOURCE_ANY, self.any);
            }
            Dialect::StateOfTheWorld => put_key(chunk, key::SOTW_RESOURCES, self.any),
        }
        put(chunk, key::ANY_TYPE_URL, self.type_url.as_bytes());
        put_key(chunk, key::ANY_VALUE, self.resource.body.len());
    }
}

/// The length of a field with a key of one byte.
pub(super) fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_key(to: &mut BytesMut, key: u8, length: usize) {
    to.put_u8(key);
    encode_varint(length as u64, to);
}

fn put(to: &mut BytesMut, key: u8, value: &[u8]) {
    put_key(to, key, value.len());
    to.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::config::core::v3::ControlPlane;
    use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message;

    use super::*;
    use crate::wire::Encoded;
    use crate::{Contents, ResourceSet};

    fn push(dialect: Dialect) -> Push {
        let sizes = [
            0,
            1,
            127,
            128,
            COPIED,
            COPIED + 1,
            100_000,
            5,
            20_000,
            3000,
            3000,
            3000,
            3000,
            3000,
            3000,
        ];
        let resource = |(i, size): (usize, &usize)| Arc::new(Resource::new(format!("r{i}"), vec![b'x'; *size].into()));
        Push {
            dialect,
            type_url: Arc::from("type.googleapis.com/a.B"),
            nonce: 17,
            version: Arc::from("v1"),
            resources: sizes.iter().enumerate().map(resource).collect(),
            removed: if dialect == Dialect::Delta {
                vec![Arc::from("gone"), Arc::from("")]
            } else {
                Vec::new()
            },
        }
    }

    fn written(push: Push, control: &[u8]) -> Vec<Bytes> {
        let mut writer = Writer::new(push, control).unwrap();
        std::iter::from_fn(|| writer.next_chunk()).collect()
    }

    fn message(chunks: &[Bytes]) -> Vec<u8> {
        let all = chunks.concat();
        assert_eq!(all[0], 0);
        assert_eq!(
            u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize,
            all.len() - 5
        );
        all[5..].to_vec()
    }

    #[test]
    fn delta_decodes_to_what_went_in() {
        let control = ControlPlane {
            identifier: "lateend".to_owned(),
        };
        let chunks = written(push(Dialect::Delta), &control.encode_to_vec());
        let read = DeltaDiscoveryResponse::decode(&*message(&chunks)).unwrap();
        let expected = push(Dialect::Delta);
        assert_eq!(read.system_version_info, "v1");
        assert_eq!(read.nonce, "17");
        assert_eq!(read.type_url, &*expected.type_url);
        assert_eq!(read.removed_resources, ["gone", ""]);
        assert_eq!(read.control_plane, Some(control));
        assert_eq!(read.resources.len(), expected.resources.len());
        for (read, expected) in read.resources.iter().zip(&expected.resources) {
            let any = read.resource.as_ref().unwrap();
            assert_eq!((&*read.name, &read.version), (&*expected.name, &expected.version()));
            assert_eq!(
                (&*any.type_url, &any.value[..]),
                ("type.googleapis.com/a.B", &expected.body[..])
            );
        }
    }

    #[test]
    fn the_state_of_the_world_decodes_to_what_went_in() {
        let read = DiscoveryResponse::decode(&*message(&written(push(Dialect::StateOfTheWorld), b""))).unwrap();
        assert_eq!((&*read.version_info, &*read.nonce), ("v1", "17"));
        let bodies: Vec<&[u8]> = read.resources.iter().map(|any| &any.value[..]).collect();
        let expected = push(Dialect::StateOfTheWorld);
        assert_eq!(
            bodies,
            expected.resources.iter().map(|r| &r.body[..]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn large_bodies_are_shared_and_small_ones_gathered() {
        let push = push(Dialect::Delta);
        let large: Vec<*const u8> = push
            .resources
            .iter()
            .filter(|r| r.body.len() > COPIED)
            .map(|r| r.body.as_ptr())
            .collect();
        let chunks = written(push, b"");
        for body in large {
            assert!(chunks.iter().any(|chunk| chunk.as_ptr() == body));
        }
        assert!(chunks.len() <= 10, "{}", chunks.len());
    }

    #[test]
    fn what_others_are_sent_too_is_copied_only_where_all_fits_into_one_frame() {
        let type_url = "type.googleapis.com/a.B";
        let write = |size: usize| {
            let resource = Arc::new(Resource::new("r", vec![b'x'; size].into()));
            let encoded = Arc::new(Encoded::new(type_url, [&resource].into_iter()).unwrap());
            let kept = encoded.bytes.as_ptr();
            let resources = Contents(Kept::Shared {
                encoded,
                from: ResourceSet::default(),
                to: ResourceSet::default(),
            });
            let chunks = written(
                Push {
                    resources,
                    ..push(Dialect::Delta)
                },
                b"",
            );
            let read = DeltaDiscoveryResponse::decode(&*message(&chunks)).unwrap();
            assert_eq!(read.resources[0].resource.as_ref().unwrap().value, resource.body);
            (chunks, kept)
        };
        let (chunks, _) = write(10_000);
        let most = 10_000 + CHUNK - chunks.concat().len();
        let (chunks, _) = write(most);
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [CHUNK]);
        let (chunks, kept) = write(most + 1);
        assert_eq!((chunks.len(), chunks[1].as_ptr()), (2, kept));
    }

    #[test]
    fn nothing_is_a_message_too() {
        let empty = Push {
            resources: crate::Contents::from_iter([]),
            removed: Vec::new(),
            ..push(Dialect::Delta)
        };
        let read = DeltaDiscoveryResponse::decode(&*message(&written(empty, b""))).unwrap();
        assert!(read.resources.is_empty());
    }
}
