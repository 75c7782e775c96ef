//! Small messages that many resources are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::r#type::v3::Percent;
use lateen_proto::{Struct, Value, value};

/// A text value of metadata.
pub(crate) fn text(text: &str) -> Value {
    Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    }
}

/// A boolean value of metadata.
pub(crate) fn boolean(yes: bool) -> Value {
    Value {
        kind: Some(value::Kind::BoolValue(yes)),
    }
}

/// A list of values of metadata.
pub(crate) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(value::Kind::ListValue(prost_types::ListValue { values })),
    }
}

/// An object of metadata.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

/// An object as a value.
pub(crate) fn nested(object: Struct) -> Value {
    Value {
        kind: Some(value::Kind::StructValue(object)),
    }
}

/// Metadata of one filter.
pub(crate) fn metadata(filter: &str, fields: Struct) -> core::Metadata {
    core::Metadata {
        filter_metadata: BTreeMap::from([(filter.to_owned(), fields)]),
        ..core::Metadata::default()
    }
}

/// A duration; what exceeds the protocol's range is cut off.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A share given in thousandths of a per cent.
pub(crate) fn percent_milli(milli: u64) -> Percent {
    Percent {
        value: f64::from(u32::try_from(milli).unwrap_or(u32::MAX)) / 1000.0,
    }
}

/// A TCP address.
pub(crate) fn socket(address: &str, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..core::SocketAddress::default()
    }
}

/// A Unix domain socket; with or without `unix://`.
pub(crate) fn pipe(path: &str) -> core::Address {
    core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: path.strip_prefix("unix://").unwrap_or(path).to_owned(),
            mode: 0,
        })),
    }
}
