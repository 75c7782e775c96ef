//! The two protocols of ADS, and the little that is read of their messages: their type.

use bytes::{Buf as _, Bytes};
use http::uri::PathAndQuery;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

const WHOLE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Field `type_url` of both responses.
const RESPONSE_TYPE: u32 = 4;
/// Field `type_url` of a request for differences.
const DELTA_REQUEST_TYPE: u32 = 2;

/// How configuration is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// State of the world.
    Whole,
    /// Differences.
    Delta,
}

impl Protocol {
    /// By the method's path.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        match path {
            WHOLE => Some(Self::Whole),
            DELTA => Some(Self::Delta),
            _ => None,
        }
    }

    /// The method's path.
    pub(super) fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Whole => WHOLE,
            Self::Delta => DELTA,
        })
    }

    /// A subscription to all of a type, without a node: the stream's first message had it.
    pub(super) fn subscribe(self, type_url: &str) -> Bytes {
        let type_url = type_url.to_owned();
        Bytes::from(match self {
            Self::Whole => DiscoveryRequest {
                type_url,
                ..Default::default()
            }
            .encode_to_vec(),
            Self::Delta => DeltaDiscoveryRequest {
                type_url,
                ..Default::default()
            }
            .encode_to_vec(),
        })
    }
}

/// The type of a response's resources, without reading the resources.
pub(super) fn response_type(message: &Bytes) -> Option<Bytes> {
    text_field(RESPONSE_TYPE, message)
}

/// The type that a request for differences is about.
pub(super) fn delta_request_type(message: &Bytes) -> Option<Bytes> {
    text_field(DELTA_REQUEST_TYPE, message)
}

fn text_field(field: u32, message: &Bytes) -> Option<Bytes> {
    let mut rest = message.clone();
    while rest.has_remaining() {
        let (tag, kind) = decode_key(&mut rest).ok()?;
        if tag == field && kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            return (length <= rest.len()).then(|| rest.slice(..length));
        }
        skip_field(kind, tag, &mut rest, DecodeContext::default()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use lateen_proto::Any;
    use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

    use super::*;

    #[test]
    fn the_type_is_found_behind_the_resources() {
        let any = Any {
            type_url: "not this".into(),
            value: vec![1; 300],
        };
        let whole = DiscoveryResponse {
            version_info: "v".into(),
            resources: vec![any.clone()],
            type_url: "this".into(),
            nonce: "n".into(),
            ..Default::default()
        };
        assert_eq!(response_type(&whole.encode_to_vec().into()).unwrap(), "this");
        let delta = DeltaDiscoveryResponse {
            system_version_info: "v".into(),
            resources: vec![Resource {
                name: "r".into(),
                resource: Some(any),
                ..Default::default()
            }],
            type_url: "this".into(),
            ..Default::default()
        };
        assert_eq!(response_type(&delta.encode_to_vec().into()).unwrap(), "this");
    }

    #[test]
    fn the_type_is_found_behind_the_node() {
        let request = DeltaDiscoveryRequest {
            node: Some(lateen_proto::envoy::config::core::v3::Node {
                id: "x".repeat(300),
                ..Default::default()
            }),
            type_url: "this".into(),
            resource_names_subscribe: vec!["not this".into()],
            ..Default::default()
        };
        assert_eq!(delta_request_type(&request.encode_to_vec().into()).unwrap(), "this");
    }

    #[test]
    fn garbage_has_no_type() {
        for bytes in [&b"\x22\xff\xff\xff\xff\x0f"[..], b"\x12\x05ab", b"\xff", b""] {
            assert_eq!(response_type(&Bytes::from_static(bytes)), None, "{bytes:?}");
        }
    }
}
