//! The mesh's providers of logs and traces (`extensionProviders`), as Envoy's loggers and tracers.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::mesh::{ExtensionProvider, LogFormat, Mesh};
use lateen_model::policy::Telemetry;
use lateen_model::{Shared, Snapshot};
use lateen_proto::{Any, any_from_json};
use serde_json::{Map, Value, json};

use super::logs;
use crate::facts::TelemetryFacts;
use crate::listener::security::Upstream;

/// The provider that every mesh has: a file access log on standard output, in the mesh's format.
const BUILT_IN: &str = "envoy";
const BUILT_IN_PATH: &str = "/dev/stdout";

/// A provider, where it logs or traces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Provider {
    pub(super) name: Arc<str>,
    pub(super) log: Option<Packed>,
    pub(super) tracer: Option<Tracer>,
}

/// A tracer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Tracer {
    pub(super) config: Packed,
    /// Longest text of a path tag; 0: as the proxy is configured.
    pub(super) max_tag_length: u32,
    /// Whether calls get spans of their own.
    pub(super) spans_upstream: bool,
    /// Whether it chooses itself what is traced.
    pub(super) samples: bool,
}

/// An extension with its packed configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Packed {
    pub(super) name: &'static str,
    type_url: String,
    value: Vec<u8>,
}

impl Packed {
    pub(super) fn new(name: &'static str, any: Any) -> Self {
        Self {
            name,
            type_url: any.type_url,
            value: any.value,
        }
    }

    /// Our own JSON, which differs from the message only where a user's field is out of range; then there is no extension.
    fn of(name: &'static str, type_name: &str, config: &Value) -> Option<Self> {
        any_from_json(type_name, config).ok().map(|any| Self::new(name, any))
    }

    pub(super) fn packed(&self) -> Any {
        Any {
            type_url: self.type_url.clone(),
            value: self.value.clone(),
        }
    }
}

/// Those providers that Telemetry objects and the mesh's defaults name.
pub(super) fn select(snapshot: &Snapshot, objects: &[Shared<Telemetry>], names: &TelemetryFacts) -> Vec<Provider> {
    let mesh = &snapshot.mesh;
    let logging = objects.iter().flat_map(|object| object.logging.iter());
    let tracing = objects.iter().flat_map(|object| object.tracing.iter());
    let named: BTreeSet<&Arc<str>> = logging
        .flat_map(|logging| &logging.providers)
        .chain(tracing.flat_map(|tracing| &tracing.providers))
        .chain(&mesh.default_access_logging)
        .chain(&mesh.default_tracing)
        .collect();
    let mut all: Vec<Provider> = Vec::new();
    for name in named {
        match mesh.providers.iter().find(|provider| provider.name == *name) {
            Some(provider) => all.push(Known { snapshot, names }.provider(provider)),
            None if &**name == BUILT_IN => all.push(Provider {
                name: Arc::clone(name),
                log: Some(logs::file(BUILT_IN_PATH, &mesh.access_log_format, false)),
                tracer: None,
            }),
            None => {}
        }
    }
    all
}

/// What providers are looked up in.
struct Known<'a> {
    snapshot: &'a Snapshot,
    names: &'a TelemetryFacts,
}

impl Known<'_> {
    fn provider(&self, provider: &ExtensionProvider) -> Provider {
        let config: Value = serde_json::from_str(&provider.config).unwrap_or_default();
        Provider {
            name: Arc::clone(&provider.name),
            log: self.log(provider, &config, &self.snapshot.mesh),
            tracer: self.tracer(&provider.kind, &config),
        }
    }

    /// The host and the cluster of the service that a provider is; `None` when the mesh does not have it.
    fn upstream(&self, config: &Value) -> Option<(String, String)> {
        let port = config["port"].as_u64().and_then(|port| u16::try_from(port).ok())?;
        let found = Upstream::find(self.snapshot, config["service"].as_str()?, port)?;
        Some((found.host().to_owned(), found.cluster().to_owned()))
    }

    fn log(&self, provider: &ExtensionProvider, config: &Value, mesh: &Mesh) -> Option<Packed> {
        let grpc = |log_name: &str, states: &[&str]| {
            let (host, cluster) = self.upstream(config)?;
            let name = config["logName"]
                .as_str()
                .filter(|name| !name.is_empty())
                .unwrap_or(log_name);
            let own = config["filterStateObjectsToLog"]
                .as_array()
                .filter(|own| !own.is_empty());
            Some(json!({
                "logName": name,
                "grpcService": {"envoyGrpc": {"clusterName": cluster, "authority": host}},
                "transportApiVersion": "V3",
                "filterStateObjectsToLog": own.map_or_else(|| json!(states), |own| json!(own)),
            }))
        };
        match &*provider.kind {
            "envoyFileAccessLog" => {
                let path = config["path"].as_str().filter(|path| !path.is_empty());
                let omit = config["omitEmptyValues"].as_bool().unwrap_or_default();
                let of = &config["logFormat"];
                let format = if let Some(text) = of["text"].as_str() {
                    LogFormat::Text(text.into())
                } else if of["labels"].is_object() {
                    LogFormat::Json(of["labels"].to_string().into())
                } else if &*provider.name == BUILT_IN && !omit {
                    mesh.access_log_format.clone()
                } else {
                    LogFormat::Text("".into())
                };
                Some(logs::file(path.unwrap_or(BUILT_IN_PATH), &format, omit))
            }
            "envoyHttpAls" => {
                let mut log = json!({"commonConfig": grpc(logs::HTTP_LOG, logs::STATES)?});
                for field in [
                    "additionalRequestHeadersToLog",
                    "additionalResponseHeadersToLog",
                    "additionalResponseTrailersToLog",
                ] {
                    log[field] = config[field].clone();
                }
                Packed::of(logs::HTTP_LOGGER, logs::HTTP_TYPE, &log)
            }
            "envoyTcpAls" => {
                let log = json!({"commonConfig": grpc(logs::TCP_LOG, logs::STATES)?});
                Packed::of(logs::TCP_LOGGER, logs::TCP_TYPE, &log)
            }
            "envoyOtelAls" => {
                let text = config["logFormat"]["text"].as_str().filter(|text| !text.is_empty());
                let labels = config["logFormat"]["labels"].as_object();
                let mut common = grpc("otel_envoy_accesslog", &[])?;
                common["filterStateObjectsToLog"] = json!(logs::ALL_STATES);
                let mut log = json!({
                    "commonConfig": common,
                    "disableBuiltinLabels": true,
                    "body": {"stringValue": text.unwrap_or(logs::DEFAULT_LINE)},
                });
                if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
                    log["attributes"] = json!({"values": attributes(labels)});
                }
                Packed::of(
                    "envoy.access_loggers.open_telemetry",
                    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
                    &log,
                )
            }
            _ => None,
        }
    }

    fn tracer(&self, kind: &str, config: &Value) -> Option<Tracer> {
        let mut samples = false;
        // Spans are of the proxy that makes them, whatever it calls.
        let service = format!("{}.{}", self.names.canonical_name, self.names.namespace);
        let packed = match kind {
            "zipkin" => {
                let (host, cluster) = self.upstream(config)?;
                let path = config["path"]
                    .as_str()
                    .filter(|path| !path.is_empty())
                    .unwrap_or("/api/v2/spans");
                let mut tracer = json!({
                    "collectorEndpointVersion": "HTTP_JSON",
                    "traceId128bit": !config["enable64bitTraceId"].as_bool().unwrap_or_default(),
                    "sharedSpanContext": false,
                    "collectorService": http(&format!("http://{host}{path}"), &cluster, config, Some("5s")),
                });
                if config["traceContextOption"] == "USE_B3_WITH_W3C_PROPAGATION" {
                    tracer["traceContextOption"] = config["traceContextOption"].clone();
                }
                Packed::of("envoy.tracers.zipkin", "envoy.config.trace.v3.ZipkinConfig", &tracer)?
            }
            "datadog" => {
                let (host, cluster) = self.upstream(config)?;
                let tracer = json!({"collectorCluster": cluster, "collectorHostname": host, "serviceName": service});
                Packed::of("envoy.tracers.datadog", "envoy.config.trace.v3.DatadogConfig", &tracer)?
            }
            "skywalking" => {
                let (host, cluster) = self.upstream(config)?;
                let tracer = json!({"grpcService": {"envoyGrpc": {"clusterName": cluster, "authority": host}}});
                Packed::of(
                    "envoy.tracers.skywalking",
                    "envoy.config.trace.v3.SkyWalkingConfig",
                    &tracer,
                )?
            }
            "opentelemetry" => {
                samples = config["dynatraceSampler"].is_object();
                self.open_telemetry(config, &service)?
            }
            _ => return None,
        };
        let longest = config["maxTagLength"]
            .as_u64()
            .and_then(|longest| u32::try_from(longest).ok());
        Some(Tracer {
            config: packed,
            max_tag_length: if kind == "skywalking" {
                0
            } else {
                longest.unwrap_or_default()
            },
            spans_upstream: kind == "skywalking",
            samples,
        })
    }

    fn open_telemetry(&self, config: &Value, service: &str) -> Option<Packed> {
        let (host, cluster) = self.upstream(config)?;
        let enriched = config["serviceAttributeEnrichment"] == "OTEL_SEMANTIC_CONVENTIONS";
        let service = if enriched { &*self.names.canonical_name } else { service };
        let mut tracer = json!({"serviceName": service});
        if let Some(over_http) = config["http"].as_object() {
            let of = Value::Object(over_http.clone());
            let uri = joined(&host, of["path"].as_str().unwrap_or_default());
            tracer["httpService"] = http(&uri, &cluster, &of, None);
        } else {
            let mut grpc = json!({"envoyGrpc": {"clusterName": cluster, "authority": host}});
            grpc["timeout"] = config["grpc"]["timeout"].clone();
            if let Some(headers) = config["grpc"]["initialMetadata"].as_array() {
                grpc["initialMetadata"] = headers.iter().filter_map(header).collect();
            }
            tracer["grpcService"] = grpc;
        }
        let detector = |name: &str, message: &str| {
            json!({
                "name": format!("envoy.tracers.opentelemetry.resource_detectors.{name}"),
                "typedConfig": {"@type": format!("type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.{message}")},
            })
        };
        let mut detectors = Vec::new();
        if enriched || config["resourceDetectors"]["environment"].is_object() {
            detectors.push(detector("environment", "EnvironmentResourceDetectorConfig"));
        }
        if config["resourceDetectors"]["dynatrace"].is_object() {
            detectors.push(detector("dynatrace", "DynatraceResourceDetectorConfig"));
        }
        tracer["resourceDetectors"] = Value::Array(detectors);
        if config["dynatraceSampler"].is_object() {
            tracer["sampler"] = self.dynatrace(config, (&host, &cluster))?;
        }
        Packed::of(
            "envoy.tracers.opentelemetry",
            "envoy.config.trace.v3.OpenTelemetryConfig",
            &tracer,
        )
    }

    /// Dynatrace's sampler asks a service of its own, or the one that spans go to.
    fn dynatrace(&self, config: &Value, (host, cluster): (&str, &str)) -> Option<Value> {
        let sampler = &config["dynatraceSampler"];
        let service = if sampler["httpService"].is_object() {
            let own = &sampler["httpService"];
            let (host, cluster) = self.upstream(own)?;
            let path = own["http"]["path"].as_str().unwrap_or_default();
            http(&joined(&host, path), &cluster, &own["http"], None)
        } else {
            config["http"].as_object()?;
            http(
                &joined(host, "api/v2/samplingConfiguration"),
                cluster,
                &config["http"],
                None,
            )
        };
        Some(json!({
            "name": "envoy.tracers.opentelemetry.samplers.dynatrace",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.DynatraceSamplerConfig",
                "tenant": sampler["tenant"],
                "clusterId": sampler["clusterId"],
                "rootSpansPerMinute": sampler["rootSpansPerMinute"],
                "httpService": service,
            },
        }))
    }
}

/// An HTTP service of Envoy, with the time-out and headers of the user's section.
fn http(uri: &str, cluster: &str, config: &Value, timeout: Option<&str>) -> Value {
    let own = &config["timeout"];
    let timeout = if own.is_string() { own.clone() } else { json!(timeout) };
    let mut service = json!({"httpUri": {"uri": uri, "cluster": cluster, "timeout": timeout}});
    if let Some(headers) = config["headers"].as_array() {
        let headers = headers.iter().filter_map(header);
        let added = headers.map(|header| json!({"appendAction": "OVERWRITE_IF_EXISTS_OR_ADD", "header": header}));
        service["requestHeadersToAdd"] = added.collect();
    }
    service
}

/// A header; one whose value is in the proxy's environment is taken from there.
fn header(header: &Value) -> Option<Value> {
    let name = header["name"].as_str()?;
    let value = match (header["value"].as_str(), header["envName"].as_str()) {
        (Some(value), _) => value.to_owned(),
        (None, Some(variable)) => format!("%ENVIRONMENT({variable})%"),
        (None, None) => return None,
    };
    Some(json!({"key": name, "value": value}))
}

fn joined(host: &str, path: &str) -> String {
    format!("{}/{}", host.trim_end_matches('/'), path.trim_start_matches('/'))
}

fn attributes(labels: &Map<String, Value>) -> Vec<Value> {
    let mut all: Vec<_> = labels.iter().collect();
    all.sort_by_key(|(key, _)| *key);
    let one = |(key, value): (&String, &Value)| json!({"key": key, "value": {"stringValue": value.as_str().unwrap_or_default()}});
    all.into_iter().map(one).collect()
}
