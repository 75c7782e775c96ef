//! What is agreed on between sidecars about the protocol of a connection whose port says nothing of it.
//!
//! The callee's sidecar tells HTTP from other bytes by the protocols that the caller's offers in the TLS handshake. A
//! cluster offers those of bytes; a request offers those of its own HTTP instead, which Istio's sidecars understand.
//! The cluster's metadata says which these are, by the caller's version of HTTP, and a filter hands them to the
//! connection: so routes need not say anything, and clusters with TLS of another kind are left alone, as they have no
//! such metadata.

use lateen_model::service::Protocol;
use lateen_proto::Struct;
use lateen_proto::envoy::config::core::v3::substitution_format_string::Format;
use lateen_proto::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source};
use lateen_proto::envoy::extensions::filters::common::set_filter_state::v3::{FilterStateValue, filter_state_value};
use lateen_proto::envoy::extensions::filters::http::set_filter_state::v3::Config;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use crate::cluster::values;
use crate::listener::{self, plan};

/// Name of the filter, and of the metadata that it reads.
pub const NAME: &str = "lateen.alpn";
/// What Envoy offers to the server of a connection, as an object of the request's filter state.
const OBJECT: &str = "envoy.network.application_protocols";
const HTTP1: &str = "istio-http/1.1,istio,http/1.1";
const HTTP2: &str = "istio-h2,istio,h2";

/// The filter, without effect on requests to clusters without the metadata.
pub(crate) fn filter() -> HttpFilter {
    let format = format!("%CEL(xds.cluster_metadata.filter_metadata['{NAME}'][request.protocol])%");
    let value = FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(OBJECT.to_owned())),
        value: Some(filter_state_value::Value::FormatString(SubstitutionFormatString {
            omit_empty_values: true,
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(format)),
                ..DataSource::default()
            })),
            ..SubstitutionFormatString::default()
        })),
        skip_if_empty: true,
        ..FilterStateValue::default()
    };
    let config = Config {
        on_request_headers: vec![value],
        ..Config::default()
    };
    listener::http_filter(NAME, &config)
}

/// How a cluster speaks HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// Always HTTP/1.1.
    Http1,
    /// Always HTTP/2.
    Http2,
    /// As the client does.
    AsClient,
}

/// Metadata of a cluster with the mesh's own mutual TLS, where the protocol of its port is sniffed; else nothing.
pub(crate) fn metadata(protocol: Protocol, spoken: Spoken) -> Option<Struct> {
    if plan::kind_of(protocol) != Some(plan::Kind::Auto) {
        return None;
    }
    let (of_http1, of_http2) = match spoken {
        Spoken::Http1 => (HTTP1, HTTP1),
        Spoken::Http2 => (HTTP2, HTTP2),
        Spoken::AsClient => (HTTP1, HTTP2),
    };
    // HTTP/1.0 goes on as HTTP/1.1.
    Some(values::object([
        ("HTTP/1.0", values::text(of_http1)),
        ("HTTP/1.1", values::text(of_http1)),
        ("HTTP/2", values::text(of_http2)),
    ]))
}

#[cfg(test)]
mod tests;
