//! Limits and timeouts of the connections that a proxy accepts.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};

/// Limits and timeouts of the connections that a proxy accepts. What is absent is as the profile says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionSettings {
    /// The defaults to begin with.
    #[serde(skip_serializing_if = "is_default")]
    pub profile: ConnectionProfile,
    /// So many bytes of a client's connection are buffered.
    #[serde(skip_serializing_if = "is_default")]
    pub listener_per_connection_buffer_limit_bytes: Option<i32>,
    /// So many bytes of a server's connection are buffered.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster_per_connection_buffer_limit_bytes: Option<i32>,
    /// How long a connection may be without requests.
    #[serde(skip_serializing_if = "is_default")]
    pub http_idle_timeout: Option<Duration>,
    /// How long a connection may live.
    #[serde(skip_serializing_if = "is_default")]
    pub http_max_connection_duration: Option<Duration>,
    /// How long a connection is drained.
    #[serde(skip_serializing_if = "is_default")]
    pub http_drain_timeout: Option<Duration>,
    /// How long a request may take to arrive.
    #[serde(skip_serializing_if = "is_default")]
    pub http_request_timeout: Option<Duration>,
    /// How long the headers of a request may take to arrive.
    #[serde(skip_serializing_if = "is_default")]
    pub http_request_headers_timeout: Option<Duration>,
    /// How long a request or response may go without a byte.
    #[serde(skip_serializing_if = "is_default")]
    pub http_stream_idle_timeout: Option<Duration>,
    /// How long a request and its response may take.
    #[serde(skip_serializing_if = "is_default")]
    pub http_max_stream_duration: Option<Duration>,
    /// So many requests at once on one HTTP/2 connection.
    #[serde(skip_serializing_if = "is_default")]
    pub http_max_concurrent_streams: Option<i32>,
    /// The window of an HTTP/2 stream at first, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub http2_initial_stream_window_size: Option<i32>,
    /// The window of an HTTP/2 connection at first, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub http2_initial_connection_window_size: Option<i32>,
    /// What becomes of headers with underscores in their names.
    #[serde(skip_serializing_if = "is_default")]
    pub http_headers_with_underscores_action: HeadersWithUnderscoresAction,
    /// Whether several slashes in a path become one.
    #[serde(skip_serializing_if = "is_default")]
    pub http_merge_slashes: Option<bool>,
    /// What becomes of escaped slashes in a path.
    #[serde(skip_serializing_if = "is_default")]
    pub http_path_with_escaped_slashes_action: PathWithEscapedSlashesAction,
    /// So many connections to one listener at most.
    #[serde(skip_serializing_if = "is_default")]
    pub listener_connection_limit: Option<i32>,
    /// So many connections to the proxy at most.
    #[serde(skip_serializing_if = "is_default")]
    pub global_downstream_connection_limit: Option<i32>,
}

proto_enum! {
    /// Defaults for a place.
    pub enum ConnectionProfile {
        /// Envoy's own.
        Sidecar = (0, "SIDECAR"),
        /// Those that Envoy recommends at the edge.
        Edge = (1, "EDGE"),
    }
}

proto_enum! {
    /// What becomes of headers with underscores in their names, which some applications take for dashes.
    pub enum HeadersWithUnderscoresAction {
        /// As the profile says.
        HeadersWithUnderscoresUnspecified = (0, "HEADERS_WITH_UNDERSCORES_UNSPECIFIED"),
        /// They pass.
        HeadersWithUnderscoresAllow = (1, "HEADERS_WITH_UNDERSCORES_ALLOW"),
        /// The request is refused.
        HeadersWithUnderscoresRejectRequest = (2, "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST"),
        /// They are taken away.
        HeadersWithUnderscoresDropHeader = (3, "HEADERS_WITH_UNDERSCORES_DROP_HEADER"),
    }
}

proto_enum! {
    /// What becomes of escaped slashes in a path.
    pub enum PathWithEscapedSlashesAction {
        /// As the profile says.
        PathWithEscapedSlashesUnspecified = (0, "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED"),
        /// They stay.
        KeepUnchanged = (1, "KEEP_UNCHANGED"),
        /// The request is refused.
        RejectRequest = (2, "REJECT_REQUEST"),
        /// The client is redirected to the path without.
        UnescapeAndRedirect = (3, "UNESCAPE_AND_REDIRECT"),
        /// They are unescaped.
        UnescapeAndForward = (4, "UNESCAPE_AND_FORWARD"),
    }
}
