//! Access logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_model::mesh::LogFormat;
use lateen_proto::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, ResponseFlagFilter, access_log, access_log_filter,
    extension_filter,
};
use lateen_proto::envoy::config::core::v3::substitution_format_string::Format;
use lateen_proto::envoy::config::core::v3::{
    ApiVersion, DataSource, GrpcService, JsonFormatOptions, SubstitutionFormatString, TypedExtensionConfig,
    data_source, grpc_service,
};
use lateen_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use lateen_proto::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use lateen_proto::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use lateen_proto::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use lateen_proto::{Struct, any};
use serde_json::{Map, Value};

use super::providers::Packed;
use super::{Side, TelemetryInput};
use crate::listener::Common;

pub(super) const HTTP_LOGGER: &str = "envoy.access_loggers.http_grpc";
pub(super) const HTTP_TYPE: &str = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
pub(super) const HTTP_LOG: &str = "http_envoy_accesslog";
pub(super) const TCP_LOGGER: &str = "envoy.tcp_grpc_access_log";
pub(super) const TCP_TYPE: &str = "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig";
pub(super) const TCP_LOG: &str = "tcp_envoy_accesslog";
const LISTENER_LOG: &str = "listener_envoy_accesslog";

/// The cluster of the bootstrap that `enableEnvoyAccessLogService` sends to (`envoyAccessLogService` in ProxyConfig).
const LOG_SERVICE: &str = "envoy_accesslog_service";

/// What filters know of the peer.
pub(super) const STATES: &[&str] = &["upstream_peer", "downstream_peer"];
/// The same, also by the names that WebAssembly gave it.
pub(super) const ALL_STATES: &[&str] = &[
    "upstream_peer",
    "downstream_peer",
    "wasm.upstream_peer",
    "wasm.upstream_peer_id",
    "wasm.downstream_peer",
    "wasm.downstream_peer_id",
];

/// Istio's default log line.
pub(super) const DEFAULT_LINE: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% ",
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// Istio's default fields of a log in JSON.
const DEFAULT_FIELDS: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// How one provider logs on one side.
#[derive(Default, Clone)]
struct Rule {
    /// CEL expression.
    filter: Option<Arc<str>>,
    disabled: bool,
}

impl TelemetryInput {
    /// Access logs of a connection manager or (for `tcp`) of a TCP proxy.
    pub(in crate::listener) fn access_logs(&self, common: &Common, side: Side, tcp: bool) -> Vec<AccessLog> {
        let service = if tcp {
            (TCP_LOGGER, TCP_LOG)
        } else {
            (HTTP_LOGGER, HTTP_LOG)
        };
        self.logs(common, side, None, service)
    }

    /// Access logs of a listener itself, for connections that no chain takes.
    pub(in crate::listener) fn listener_logs(&self, common: &Common, side: Side) -> Vec<AccessLog> {
        if common.mesh.disable_listener_log {
            return Vec::new();
        }
        self.logs(common, side, Some(no_route_filter()), (TCP_LOGGER, LISTENER_LOG))
    }

    /// What providers log; where none does nor is told not to, what the mesh's own settings say.
    fn logs(
        &self,
        common: &Common,
        side: Side,
        filter: Option<AccessLogFilter>,
        (service, name): (&'static str, &str),
    ) -> Vec<AccessLog> {
        let rules = self.rules(&common.mesh.default_access_logging, side);
        let known = rules
            .iter()
            .filter_map(|(name, rule)| Some((self.provider(name)?.log.as_ref()?, rule)));
        let known: Vec<_> = known.collect();
        if !known.is_empty() {
            let on = known.into_iter().filter(|(_, rule)| !rule.disabled);
            let log = |(log, rule): (&Packed, &Rule)| {
                let own = rule.filter.as_deref().map(expression);
                access_log(log, all_of(filter.iter().cloned().chain(own).collect()))
            };
            return on.map(log).collect();
        }
        let mut all = Vec::new();
        if let Some(path) = &common.mesh.access_log_file {
            all.push(access_log(
                &file(path, &common.mesh.access_log_format, false),
                filter.clone(),
            ));
        }
        if common.mesh.access_log_service {
            all.push(access_log(&log_service(service, name), filter));
        }
        all
    }

    /// Which providers log on a side, and how. An object without providers speaks of those of the next wider one.
    fn rules<'a>(&'a self, defaults: &'a [Arc<str>], side: Side) -> BTreeMap<&'a Arc<str>, Rule> {
        let mut objects = self
            .objects
            .iter()
            .filter(|object| !object.logging.is_empty())
            .peekable();
        if objects.peek().is_none() {
            return defaults.iter().map(|name| (name, Rule::default())).collect();
        }
        let objects: Vec<_> = objects.collect();
        let mut filters: BTreeMap<&Arc<str>, Option<Arc<str>>> = BTreeMap::new();
        let mut in_scope: BTreeSet<&Arc<str>> = defaults.iter().collect();
        for object in &objects {
            let here = object.logging.iter().filter(|logging| side.concerns(logging.mode));
            let mut named = BTreeSet::new();
            for logging in here {
                for name in &logging.providers {
                    named.insert(name);
                    filters.insert(name, logging.filter.clone());
                }
            }
            if !named.is_empty() {
                in_scope = named;
            }
        }
        let mut rules = BTreeMap::new();
        let mut inherited = defaults;
        for logging in objects.iter().flat_map(|object| &object.logging) {
            if !logging.providers.is_empty() {
                inherited = &logging.providers;
            }
            if !side.concerns(logging.mode) {
                continue;
            }
            for name in inherited.iter().filter(|name| in_scope.contains(name)) {
                let rule = Rule {
                    filter: filters.get(name).cloned().flatten(),
                    disabled: logging.disabled == Some(true),
                };
                rules.insert(name, rule);
            }
        }
        rules
    }
}

fn access_log(log: &Packed, filter: Option<AccessLogFilter>) -> AccessLog {
    AccessLog {
        name: log.name.to_owned(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(log.packed())),
    }
}

/// Only connections without route or chain (`NR`).
fn no_route_filter() -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ResponseFlagFilter(
            ResponseFlagFilter {
                flags: vec!["NR".to_owned()],
            },
        )),
    }
}

/// Only what a CEL expression chooses.
fn expression(expression: &str) -> AccessLogFilter {
    let filter = ExpressionFilter {
        expression: expression.to_owned(),
        ..Default::default()
    };
    AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".to_owned(),
            config_type: Some(extension_filter::ConfigType::TypedConfig(any(&filter))),
        })),
    }
}

fn all_of(mut filters: Vec<AccessLogFilter>) -> Option<AccessLogFilter> {
    if filters.len() < 2 {
        return filters.pop();
    }
    Some(AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::AndFilter(AndFilter { filters })),
    })
}

/// The log service of the proxy's bootstrap.
fn log_service(logger: &'static str, name: &str) -> Packed {
    let common = CommonGrpcAccessLogConfig {
        log_name: name.to_owned(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
                cluster_name: LOG_SERVICE.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
        filter_state_objects_to_log: ALL_STATES.iter().map(|state| (*state).to_owned()).collect(),
        ..Default::default()
    };
    if logger == HTTP_LOGGER {
        let log = HttpGrpcAccessLogConfig {
            common_config: Some(common),
            ..Default::default()
        };
        return Packed::new(logger, any(&log));
    }
    let log = TcpGrpcAccessLogConfig {
        common_config: Some(common),
    };
    Packed::new(logger, any(&log))
}

/// A file access log in Istio's form.
pub(super) fn file(path: &str, format: &LogFormat, omit_empty_values: bool) -> Packed {
    let mut formatters = Vec::new();
    let format = match format {
        LogFormat::Text(text) => {
            let line = if text.is_empty() {
                DEFAULT_LINE.to_owned()
            } else {
                terminated(text)
            };
            formatters.extend(formatter(&line));
            Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(line)),
                ..Default::default()
            })
        }
        LogFormat::Json(json) => {
            formatters.extend(formatter(json));
            Format::JsonFormat(fields(json))
        }
    };
    let json_format_options = matches!(format, Format::JsonFormat(_)).then(JsonFormatOptions::default);
    let log = FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(format),
            json_format_options,
            omit_empty_values,
            formatters,
            ..Default::default()
        })),
    };
    Packed::new("envoy.access_loggers.file", any(&log))
}

/// One of Envoy's commands is in an extension that has to be named.
fn formatter(format: &str) -> Option<TypedExtensionConfig> {
    format.contains("%REQ_WITHOUT_QUERY").then(|| TypedExtensionConfig {
        name: "envoy.formatter.req_without_query".to_owned(),
        typed_config: Some(any(&ReqWithoutQuery {})),
    })
}

fn terminated(text: &str) -> String {
    if text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

/// The fields of a log in JSON; Istio's own where none are given, or what is given is no object.
fn fields(json: &str) -> Struct {
    let given: Option<Map<String, Value>> = serde_json::from_str(json).ok();
    let fields = given.filter(|fields| !fields.is_empty()).unwrap_or_else(|| {
        let all = DEFAULT_FIELDS.iter();
        all.map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect()
    });
    match to_value(&Value::Object(fields)).kind {
        Some(lateen_proto::value::Kind::StructValue(fields)) => fields,
        _ => Struct::default(),
    }
}

fn to_value(json: &Value) -> lateen_proto::Value {
    use lateen_proto::value::Kind;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.iter().map(to_value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields
                .iter()
                .map(|(key, value)| (key.clone(), to_value(value)))
                .collect(),
        }),
    };
    lateen_proto::Value { kind: Some(kind) }
}
