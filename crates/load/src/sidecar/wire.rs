//! Messages as they go over a stream of gRPC. Responses are read piece by piece: what is kept of one is the resource that
//! is arriving, though a first configuration has megabytes and thousands of sidecars get theirs at once.

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The method of delta ADS.
pub(crate) const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A flag (never set here, since no compression is offered) and four bytes of length.
const HEADER: usize = 5;
/// Bytes that may be copied for the memory that goes with them.
const LITTLE: usize = 4096;
/// Field `resources` of a response.
const RESOURCES: u32 = 2;

/// What a response says besides its resources: `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
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
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// A part of a response, in the order of their arrival.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// One of its resources.
    Resource(Resource),
    /// All resources have come. The response had so many bytes.
    End(Response, usize),
}

/// Makes parts of responses from the frames of a body.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: BytesMut,
    message: Option<Begun>,
}

/// A response of which some has arrived.
#[derive(Debug)]
struct Begun {
    /// Bytes that are not read yet, in the buffer and still to come.
    left: usize,
    length: usize,
    /// The fields besides resources.
    fields: BytesMut,
}

// === impl Resource ===

impl Resource {
    /// A resource of this type and content.
    #[cfg(test)]
    pub(crate) fn new(type_url: &str, name: &str, body: Vec<u8>) -> Self {
        Self {
            any: Some(Any {
                type_url: type_url.to_owned(),
                value: body.into(),
            }),
            name: name.to_owned(),
        }
    }

    /// Its content.
    pub(crate) fn body(&self) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        self.any.as_ref().map_or(&NOTHING, |any| &any.value)
    }

    /// The type of its content, which is the response's.
    pub(crate) fn type_url(&self) -> &str {
        self.any.as_ref().map_or("", |any| &any.type_url)
    }
}

// === impl Reader ===

impl Reader {
    /// Takes a frame.
    pub(crate) fn add(&mut self, frame: &[u8]) {
        self.buffer.extend_from_slice(frame);
    }

    /// The next part that has come whole.
    ///
    /// # Errors
    /// When the bytes are no response.
    pub(crate) fn next(&mut self) -> Result<Option<Part>> {
        if self.message.is_none() {
            if self.buffer.len() < HEADER {
                return Ok(None);
            }
            self.buffer.advance(1);
            let length = self.buffer.get_u32() as usize;
            self.message = Some(Begun {
                left: length,
                length,
                fields: BytesMut::new(),
            });
        }
        let Some(message) = &mut self.message else {
            return Ok(None);
        };
        while message.left > 0 {
            let field = message.next_field(&mut self.buffer);
            let Some(field) = field.context("a response that cannot be read")? else {
                self.trim();
                return Ok(None);
            };
            if let Some(resource) = resource(&field).context("a resource that cannot be read")? {
                return Ok(Some(Part::Resource(resource)));
            }
            message.fields.extend_from_slice(&field);
        }
        let response = Response::decode(&message.fields[..]).context("a response that cannot be read")?;
        let length = message.length;
        self.message = None;
        self.trim();
        Ok(Some(Part::End(response, length)))
    }

    /// Gives memory back while there is little to keep.
    fn trim(&mut self) {
        if self.buffer.len() < LITTLE {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }
}

// === impl Begun ===

impl Begun {
    /// Takes a field with its key from the buffer, if all of it is there.
    fn next_field(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, prost::DecodeError> {
        let there = buffer.len().min(self.left);
        let mut rest = &buffer[..there];
        let skipped =
            decode_key(&mut rest).and_then(|(tag, kind)| skip_field(kind, tag, &mut rest, DecodeContext::default()));
        match skipped {
            Ok(()) => {}
            Err(error) if there == self.left => return Err(error),
            // The rest of it is still to come.
            Err(_) => return Ok(None),
        }
        let length = there - rest.len();
        self.left -= length;
        Ok(Some(buffer.split_to(length).freeze()))
    }
}

/// The resource in a field, if it is one.
fn resource(field: &Bytes) -> Result<Option<Resource>, prost::DecodeError> {
    let mut rest = field.clone();
    let (tag, kind) = decode_key(&mut rest)?;
    if tag != RESOURCES || kind != WireType::LengthDelimited {
        return Ok(None);
    }
    decode_varint(&mut rest)?;
    Resource::decode(rest).map(Some)
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

    fn response(number: usize) -> DeltaDiscoveryResponse {
        let resource = |at: usize| FullResource {
            name: format!("name-{at}"),
            version: "1".into(),
            resource: Some(FullAny {
                type_url: "type".into(),
                value: vec![7; 100 * at],
            }),
            ..FullResource::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            type_url: "type".into(),
            nonce: number.to_string(),
            removed_resources: vec!["gone".into()],
            resources: (0..number).map(resource).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    /// All parts of a body that comes in frames of a size.
    fn parts(body: &[u8], size: usize) -> Result<Vec<Part>> {
        let (mut reader, mut parts) = (Reader::default(), Vec::new());
        for frame in body.chunks(size) {
            reader.add(frame);
            while let Some(part) = reader.next()? {
                parts.push(part);
            }
        }
        Ok(parts)
    }

    #[test]
    fn responses_are_read_however_they_are_cut() {
        let sent: Vec<_> = (0..4).map(response).collect();
        let body: Vec<u8> = sent.iter().flat_map(framed).collect();
        let mut expected = Vec::new();
        for response in &sent {
            for resource in &response.resources {
                let body = resource.resource.clone().unwrap().value;
                expected.push(Part::Resource(Resource::new("type", &resource.name, body)));
            }
            let end = Response {
                type_url: "type".into(),
                nonce: response.nonce.clone(),
                removed: vec!["gone".into()],
            };
            expected.push(Part::End(end, response.encoded_len()));
        }
        for size in [1, 7, 64, body.len()] {
            assert_eq!(parts(&body, size).unwrap(), expected, "frames of {size}");
        }
    }

    #[test]
    fn an_empty_response_has_an_end() {
        let empty = framed(&DeltaDiscoveryResponse::default());
        assert_eq!(parts(&empty, 1).unwrap(), [Part::End(Response::default(), 0)]);
    }

    #[test]
    fn what_is_no_resource_is_an_error() {
        // Field 2 of two bytes, which are the key of a field without its content.
        assert!(parts(&[0, 0, 0, 0, 4, 0x12, 2, 0x1a, 9], 3).is_err());
        // A field that is longer than its response.
        assert!(parts(&[0, 0, 0, 0, 2, 0x12, 9], 3).is_err());
    }
}
