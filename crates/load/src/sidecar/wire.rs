//! Messages as they go over a stream of gRPC, with the few fields of a response that a sidecar reads.
//!
//! What tonic's streams keep of the largest message they have read would be megabytes for each sidecar; here nothing is
//! kept, and bodies are parts of the frames that they came in.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

/// The method of delta ADS.
pub(crate) const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A flag (never set here, since no compression is offered) and four bytes of length.
const HEADER: usize = 5;

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(crate) removed: Vec<String>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resource {
    #[prost(message, optional, tag = "2")]
    any: Option<Any>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Puts the frames of a body together to messages.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    buffer: BytesMut,
}

// === impl Resource ===

impl Resource {
    /// A resource of this content.
    #[cfg(test)]
    pub(crate) fn new(name: &str, body: Vec<u8>) -> Self {
        Self {
            any: Some(Any { value: body.into() }),
            name: name.to_owned(),
        }
    }

    /// Its content.
    pub(crate) fn body(&self) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        self.any.as_ref().map_or(&NOTHING, |any| &any.value)
    }
}

// === impl Messages ===

impl Messages {
    /// Takes a frame.
    pub(crate) fn add(&mut self, frame: &[u8]) {
        if self.buffer.len() >= HEADER {
            // As much as is still to come, so that the buffer does not grow by doubling.
            let rest = (HEADER + self.length()).saturating_sub(self.buffer.len());
            self.buffer.reserve(rest.max(frame.len()));
        }
        self.buffer.extend_from_slice(frame);
    }

    /// The next message that has come whole.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.buffer.len() < HEADER || self.buffer.len() < HEADER + self.length() {
            return None;
        }
        let length = self.length();
        // The rest moves to a buffer of its own, so that this one goes when its message does.
        let rest = BytesMut::from(&self.buffer[HEADER + length..]);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.advance(HEADER);
        message.truncate(length);
        Some(message.freeze())
    }

    fn length(&self) -> usize {
        let header = [self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]];
        u32::from_be_bytes(header) as usize
    }
}

/// A message as it is sent.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.put_u8(0);
    // No request comes near four gigabytes.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.into()
}

#[cfg(test)]
mod tests {
    use lateen_proto::Any as FullAny;
    use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as FullResource};

    use super::*;

    #[test]
    fn what_is_read_of_a_response_is_what_was_sent() {
        let full = DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            type_url: "type".into(),
            nonce: "nonce".into(),
            removed_resources: vec!["gone".into()],
            resources: vec![FullResource {
                name: "name".into(),
                version: "1".into(),
                resource: Some(FullAny {
                    type_url: "type".into(),
                    value: b"body".to_vec(),
                }),
                ..FullResource::default()
            }],
            ..DeltaDiscoveryResponse::default()
        };
        let read = Response::decode(Bytes::from(full.encode_to_vec())).unwrap();
        assert_eq!((read.type_url.as_str(), read.nonce.as_str()), ("type", "nonce"));
        assert_eq!(read.removed, ["gone"]);
        assert_eq!(read.resources[0].name, "name");
        assert_eq!(read.resources[0].body(), "body");
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let sent: Vec<Response> = (0..3)
            .map(|number: usize| Response {
                nonce: "n".repeat(number * 100),
                ..Response::default()
            })
            .collect();
        let all: Vec<u8> = sent.iter().flat_map(framed).collect();
        for size in [1, 7, 64, all.len()] {
            let mut messages = Messages::default();
            let mut read = Vec::new();
            for frame in all.chunks(size) {
                messages.add(frame);
                read.extend(std::iter::from_fn(|| messages.next()).map(|message| Response::decode(message).unwrap()));
            }
            assert_eq!(read, sent, "frames of {size}");
        }
    }
}
