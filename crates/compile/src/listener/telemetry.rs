//! Access logs and traces, as Telemetry objects, MeshConfig and ProxyConfig ask for them.

mod logs;
mod providers;

use std::collections::BTreeMap;

use lateen_model::policy::{TagSource, Telemetry, TelemetryMode, Tracing};
use lateen_model::proxy::ProxyKind;
use lateen_model::{Shared, Snapshot};
use lateen_names::ObjectKey;
use lateen_proto::envoy::config::trace::v3::tracing;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager;
use lateen_proto::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment::Segment};
use lateen_proto::envoy::r#type::metadata::v3::metadata_kind::{Kind as MetadataKindOf, Request};
use lateen_proto::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind};
use lateen_proto::envoy::r#type::tracing::v3::CustomTag;
use lateen_proto::envoy::r#type::tracing::v3::custom_tag::{Environment, Header, Literal, Metadata, Type};
use lateen_proto::envoy::r#type::v3::Percent;

use super::Common;
use crate::facts::TelemetryFacts;
use providers::Provider;

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

/// Telemetry objects in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TelemetryInput {
    objects: Vec<Shared<Telemetry>>,
    /// What of the mesh's providers logs or traces.
    providers: Shared<Vec<Provider>>,
}

impl TelemetryInput {
    pub(super) fn select(snapshot: &Snapshot, keys: &[ObjectKey], names: &TelemetryFacts) -> Self {
        let objects: Vec<_> = keys
            .iter()
            .filter_map(|key| snapshot.telemetries.get(key))
            .cloned()
            .collect();
        Self {
            providers: Shared::new(providers::select(snapshot, &objects, names)),
            objects,
        }
    }

    /// The one provider of a name.
    fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| &*provider.name == name)
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
        let asked = self.objects.iter().any(|object| !object.tracing.is_empty());
        let provider = if asked || !common.mesh.default_tracing.is_empty() {
            // Of several providers the first counts. What cannot be sent anywhere is not traced.
            let mut own = self.tracing_of(side).filter_map(|tracing| tracing.providers.first());
            let name = own.next_back().or(common.mesh.default_tracing.first())?;
            Some(self.provider(name)?.tracer.as_ref()?)
        } else if common.mesh.tracing {
            None
        } else {
            return None;
        };
        if self.tracing_of(side).filter_map(|tracing| tracing.disabled).next_back() == Some(true) {
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
        let samples_itself = provider.is_some_and(|tracer| tracer.samples);
        let random = if samples_itself {
            all
        } else {
            f64::from(parts_per_million) / 10_000.0
        };
        let longest = provider.map_or(0, |tracer| tracer.max_tag_length);
        let longest = if longest > 0 {
            longest
        } else {
            common.config.tracing.max_path_tag_length
        };
        let span = provider.is_some_and(|tracer| tracer.spans_upstream || common.proxy == ProxyKind::Router);
        let mut alone = self
            .tracing_of(side)
            .filter_map(|tracing| tracing.disable_context_propagation);
        Some(http_connection_manager::Tracing {
            client_sampling: percent(all),
            random_sampling: percent(random),
            overall_sampling: percent(all),
            custom_tags: self.tags(common, side),
            max_path_tag_length: (longest > 0).then_some(longest),
            provider: provider.map(|tracer| tracing::Http {
                name: tracer.config.name.to_owned(),
                config_type: Some(tracing::http::ConfigType::TypedConfig(tracer.config.packed())),
            }),
            spawn_upstream_span: span.then_some(true),
            no_context_propagation: alone.next_back().unwrap_or_default(),
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
