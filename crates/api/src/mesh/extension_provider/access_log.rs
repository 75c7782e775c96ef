//! Providers of access logging.

use crate::Struct;
use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};

/// Access logs in a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyFileAccessLogProvider {
    /// The file, such as `/dev/stdout`.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// The format; Istio's default when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub log_format: Option<FileLogFormat>,
    /// Whether what is empty is left out, instead of `-` or null.
    #[serde(skip_serializing_if = "is_default")]
    pub omit_empty_values: bool,
}

/// The format of a log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FileLogFormat {
    /// As text.
    #[serde(skip_serializing_if = "is_default")]
    pub text: Option<String>,
    /// As a JSON object, whose values are formats.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Option<Struct>,
}

/// The form of a [`FileLogFormat`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FileLogFormatType<'a> {
    /// `FileLogFormat::text` is set.
    Text(&'a str),
    /// `FileLogFormat::labels` is set.
    Labels(&'a Struct),
}

impl FileLogFormat {
    /// Which one of the exclusive fields is set; the first in the order of [`FileLogFormatType`] if the CRD rule was bypassed.
    pub fn log_format(&self) -> Option<FileLogFormatType<'_>> {
        self.text
            .as_deref()
            .map(FileLogFormatType::Text)
            .or_else(|| self.labels.as_ref().map(FileLogFormatType::Labels))
    }
}

/// Access logs of HTTP over gRPC.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyHttpGrpcV3LogProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The name of the log; `http_envoy_accesslog` by default.
    #[serde(skip_serializing_if = "is_default")]
    pub log_name: String,
    /// Objects of the filter state to log.
    #[serde(skip_serializing_if = "is_default")]
    pub filter_state_objects_to_log: Vec<String>,
    /// Headers of requests to log besides.
    #[serde(skip_serializing_if = "is_default")]
    pub additional_request_headers_to_log: Vec<String>,
    /// Headers of responses to log besides.
    #[serde(skip_serializing_if = "is_default")]
    pub additional_response_headers_to_log: Vec<String>,
    /// Trailers of responses to log besides.
    #[serde(skip_serializing_if = "is_default")]
    pub additional_response_trailers_to_log: Vec<String>,
}

/// Access logs of TCP over gRPC.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyTcpGrpcV3LogProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The name of the log; `tcp_envoy_accesslog` by default.
    #[serde(skip_serializing_if = "is_default")]
    pub log_name: String,
    /// Objects of the filter state to log.
    #[serde(skip_serializing_if = "is_default")]
    pub filter_state_objects_to_log: Vec<String>,
}

/// Access logs by OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyOpenTelemetryLogProvider {
    /// The service, as `host` or `namespace/host`.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// The name of the log; `otel_envoy_accesslog` by default.
    #[serde(skip_serializing_if = "is_default")]
    pub log_name: String,
    /// The format; Istio's default when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub log_format: Option<OpenTelemetryLogFormat>,
}

/// The format of a log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenTelemetryLogFormat {
    /// The body, as text.
    #[serde(skip_serializing_if = "is_default")]
    pub text: String,
    /// The attributes, whose values are formats.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Option<Struct>,
}
