//! Access logs and traces, as Telemetry objects, MeshConfig and ProxyConfig ask for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_model::mesh::{ExtensionProvider, LogFormat};
use lateen_model::policy::{TagSource, Telemetry, TelemetryMode, Tracing};
use lateen_model::{Shared, Snapshot};
use lateen_names::ObjectKey;
use lateen_proto::any;
use lateen_proto::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter,
};
use lateen_proto::envoy::config::core::v3::substitution_format_string::Format;
use lateen_proto::envoy::config::core::v3::{DataSource, JsonFormatOptions, SubstitutionFormatString, data_source};
use lateen_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager;
use lateen_proto::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment::Segment};
use lateen_proto::envoy::r#type::metadata::v3::metadata_kind::{Kind as MetadataKindOf, Request};
use lateen_proto::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind};
use lateen_proto::envoy::r#type::tracing::v3::CustomTag;
use lateen_proto::envoy::r#type::tracing::v3::custom_tag::{Environment, Header, Literal, Metadata, Type};
use lateen_proto::envoy::r#type::v3::Percent;

use super::Common;

/// Which side of the proxy a listener is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A sidecar's calls.
    Outbound,
    /// A sidecar's being called.
    Inbound,
    /// A gateway.
    Gateway,
}

impl Side {
    fn concerns(self, mode: TelemetryMode) -> bool {
        match mode {
            TelemetryMode::ClientAndServer => true,
            TelemetryMode::Client => self != Self::Inbound,
            TelemetryMode::Server => self == Self::Inbound,
        }
    }
}

/// Istio's default log line.
const DEFAULT_LINE: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% ",
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// Telemetry objects in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TelemetryInput {
    objects: Vec<Shared<Telemetry>>,
}

impl TelemetryInput {
    pub(super) fn select(snapshot: &Snapshot, keys: &[ObjectKey]) -> Self {
        let objects = keys
            .iter()
            .filter_map(|key| snapshot.telemetries.get(key))
            .cloned()
            .collect();
        Self { objects }
    }

    /// Whether the request ID decides which requests are traced.
    pub(super) fn uses_request_id(&self, side: Side) -> bool {
        self.tracing_of(side)
            .filter_map(|tracing| tracing.use_request_id)
            .next_back()
            .unwrap_or(true)
    }

    /// Tracing sections that concern a side, the widest first.
    fn tracing_of(&self, side: Side) -> impl DoubleEndedIterator<Item = &Tracing> {
        self.objects
            .iter()
            .flat_map(|object| object.tracing.iter())
            .filter(move |tracing| side.concerns(tracing.mode))
    }

    /// Tracing of a connection manager; `None` turns it off.
    pub(super) fn tracing(&self, common: &Common, side: Side) -> Option<http_connection_manager::Tracing> {
        if !common.mesh.tracing
            || self.tracing_of(side).filter_map(|tracing| tracing.disabled).next_back() == Some(true)
        {
            return None;
        }
        let parts_per_million = self
            .tracing_of(side)
            .filter_map(|tracing| tracing.sampling)
            .next_back()
            .or(common.config.tracing.sampling)
            .unwrap_or(10_000);
        let percent = |value: f64| Some(Percent { value });
        let all = 100.0;
        Some(http_connection_manager::Tracing {
            client_sampling: percent(all),
            random_sampling: percent(f64::from(parts_per_million) / 10_000.0),
            overall_sampling: percent(all),
            custom_tags: self.tags(common, side),
            max_path_tag_length: (common.config.tracing.max_path_tag_length > 0)
                .then(|| common.config.tracing.max_path_tag_length),
            ..Default::default()
        })
    }

    fn tags(&self, common: &Common, side: Side) -> Vec<CustomTag> {
        let mut tags: BTreeMap<String, Type> = BTreeMap::new();
        let own = self
            .tracing_of(side)
            .filter_map(|tracing| tracing.istio_tags)
            .next_back();
        if own.or(common.config.tracing.istio_tags).unwrap_or(true) {
            for effect in ["allow", "deny"] {
                for (name, key) in [("name", "effective_policy_id"), ("result", "engine_result")] {
                    let tag = format!("istio.authorization.dry_run.{effect}_policy.{name}");
                    tags.insert(tag, dry_run(&format!("istio_dry_run_{effect}_shadow_{key}")));
                }
            }
            let names = &common.names;
            for (tag, value) in [
                ("istio.canonical_revision", &*names.canonical_revision),
                ("istio.canonical_service", &*names.canonical_name),
                ("istio.mesh_id", &*names.mesh_id),
                ("istio.namespace", names.namespace.as_str()),
                ("istio.cluster_id", names.cluster.as_str()),
            ] {
                // Envoy rejects the whole listener for a literal without text, and a node need not name all of these.
                let value = if value.is_empty() { "unknown" } else { value };
                tags.insert(
                    tag.to_owned(),
                    Type::Literal(Literal {
                        value: value.to_owned(),
                    }),
                );
            }
        }
        let custom = self
            .tracing_of(side)
            .map(|tracing| &tracing.tags)
            .rfind(|tags| !tags.is_empty());
        for (name, source) in custom.unwrap_or(&common.config.tracing.tags) {
            tags.insert(name.to_string(), tag_type(source));
        }
        tags.into_iter()
            .map(|(tag, kind)| CustomTag {
                tag,
                r#type: Some(kind),
            })
            .collect()
    }

    /// Access logs of a connection manager or (for `tcp`) of a TCP proxy.
    pub(super) fn access_logs(&self, common: &Common, side: Side, _tcp: bool) -> Vec<AccessLog> {
        let sections: Vec<_> = self
            .objects
            .iter()
            .flat_map(|object| object.logging.iter())
            .filter(|logging| side.concerns(logging.mode))
            .collect();
        if let Some(last) = sections.last() {
            if last.disabled == Some(true) {
                return Vec::new();
            }
            let providers = sections
                .iter()
                .rev()
                .map(|logging| &logging.providers)
                .find(|list| !list.is_empty());
            let providers = providers.unwrap_or(&common.mesh.default_access_logging);
            let named = |name: &Arc<str>| common.mesh.providers.iter().find(|provider| provider.name == *name);
            return providers
                .iter()
                .filter_map(named)
                .filter_map(|provider| self.provider_log(provider))
                .collect();
        }
        let Some(path) = &common.mesh.access_log_file else {
            return Vec::new();
        };
        vec![file_log(path, &common.mesh.access_log_format)]
    }

    /// Access logs of a listener itself, for connections that no chain takes.
    pub(super) fn listener_logs(&self, common: &Common, side: Side) -> Vec<AccessLog> {
        if common.mesh.disable_listener_log {
            return Vec::new();
        }
        let mut logs = self.access_logs(common, side, true);
        for log in &mut logs {
            log.filter = Some(no_route_filter());
        }
        logs
    }

    fn provider_log(&self, provider: &ExtensionProvider) -> Option<AccessLog> {
        let config: serde_json::Value = serde_json::from_str(&provider.config).ok()?;
        match &*provider.kind {
            "envoyFileAccessLog" => {
                let path = config["path"].as_str().unwrap_or("/dev/stdout");
                let format = if let Some(text) = config["logFormat"]["text"].as_str() {
                    LogFormat::Text(text.into())
                } else if config["logFormat"]["labels"].is_object() {
                    LogFormat::Json(config["logFormat"]["labels"].to_string().into())
                } else {
                    LogFormat::Text("".into())
                };
                Some(file_log(path, &format))
            }
            // Providers that are services of the mesh are not served yet.
            _ => None,
        }
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

/// A file access log in Istio's form.
fn file_log(path: &str, format: &LogFormat) -> AccessLog {
    let format = match format {
        LogFormat::Text(text) => {
            let line = if text.is_empty() {
                DEFAULT_LINE.to_owned()
            } else {
                terminated(text)
            };
            Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(line)),
                ..Default::default()
            })
        }
        LogFormat::Json(json) => Format::JsonFormat(json_struct(json)),
    };
    let json_format_options = matches!(format, Format::JsonFormat(_)).then(JsonFormatOptions::default);
    let log = FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(format),
            json_format_options,
            ..Default::default()
        })),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(any(&log))),
        ..Default::default()
    }
}

fn terminated(text: &str) -> String {
    if text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

fn json_struct(json: &str) -> lateen_proto::Struct {
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    match to_value(&value).kind {
        Some(lateen_proto::value::Kind::StructValue(fields)) => fields,
        _ => lateen_proto::Struct::default(),
    }
}

fn to_value(json: &serde_json::Value) -> lateen_proto::Value {
    use lateen_proto::value::Kind;
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.iter().map(to_value).collect(),
        }),
        serde_json::Value::Object(fields) => Kind::StructValue(lateen_proto::Struct {
            fields: fields
                .iter()
                .map(|(key, value)| (key.clone(), to_value(value)))
                .collect(),
        }),
    };
    lateen_proto::Value { kind: Some(kind) }
}

fn tag_type(source: &TagSource) -> Type {
    match source {
        TagSource::Literal(value) => Type::Literal(Literal {
            value: value.to_string(),
        }),
        TagSource::Environment(name, default) => Type::Environment(Environment {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TagSource::Header(name, default) => Type::RequestHeader(Header {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TagSource::Formatter(text) => Type::Value(text.to_string()),
    }
}

/// The outcome of a dry-run policy, which the RBAC filter leaves in the request's metadata.
fn dry_run(key: &str) -> Type {
    Type::Metadata(Metadata {
        kind: Some(MetadataKind {
            kind: Some(MetadataKindOf::Request(Request {})),
        }),
        metadata_key: Some(MetadataKey {
            key: "envoy.filters.http.rbac".to_owned(),
            path: vec![PathSegment {
                segment: Some(Segment::Key(key.to_owned())),
            }],
        }),
        ..Default::default()
    })
}
