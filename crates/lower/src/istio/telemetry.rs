//! Telemetry: what is measured, logged and traced.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::telemetry as api;
use lateen_model::Diagnostic;
use lateen_model::policy::{AccessLogging, MetricOverride, Metrics, TagSource, Telemetry, TelemetryMode, Tracing};
use lateen_validate::Subject;

use super::report::{Report, parts_per_million, text, time};
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// Lowers a Telemetry.
pub fn lower(object: &api::Telemetry, meta: &Meta, _ctx: &Context<'_>, diags: &mut Vec<Diagnostic>) -> Telemetry {
    let spec = &object.spec;
    let findings = lateen_validate::telemetry::check(spec, &Subject::new(&object.metadata));
    Report::new(&meta.origin, findings, diags);
    Telemetry {
        scope: scope(
            meta,
            spec.selector.as_ref(),
            spec.target_ref.as_ref(),
            &spec.target_refs,
        ),
        tracing: spec.tracing.iter().map(tracing).collect(),
        logging: spec.access_logging.iter().map(logging).collect(),
        metrics: spec.metrics.iter().map(metrics).collect(),
    }
}

fn mode(mode: Option<api::WorkloadMode>) -> TelemetryMode {
    match mode {
        Some(api::WorkloadMode::Client) => TelemetryMode::Client,
        Some(api::WorkloadMode::Server) => TelemetryMode::Server,
        _ => TelemetryMode::ClientAndServer,
    }
}

fn providers(from: &[api::ProviderRef]) -> Vec<Arc<str>> {
    from.iter().map(|provider| provider.name.as_str().into()).collect()
}

fn tracing(from: &api::Tracing) -> Tracing {
    Tracing {
        mode: mode(from.r#match.as_ref().map(|selector| selector.mode)),
        providers: providers(&from.providers),
        sampling: from.random_sampling_percentage.map(parts_per_million),
        disabled: from.disable_span_reporting,
        tags: from
            .custom_tags
            .iter()
            .filter_map(|(name, tag)| Some((name.as_str().into(), lower_tag(tag)?)))
            .collect(),
        istio_tags: from.enable_istio_tags,
        use_request_id: from.use_request_id_for_trace_sampling,
        disable_context_propagation: from.disable_context_propagation,
    }
}

fn lower_tag(from: &api::CustomTag) -> Option<TagSource> {
    Some(match from.r#type()? {
        api::CustomTagType::Literal(literal) => TagSource::Literal(literal.value.as_str().into()),
        api::CustomTagType::Environment(variable) => {
            TagSource::Environment(variable.name.as_str().into(), variable.default_value.as_str().into())
        }
        api::CustomTagType::Header(header) => {
            TagSource::Header(header.name.as_str().into(), header.default_value.as_str().into())
        }
        api::CustomTagType::Formatter(formatter) => TagSource::Formatter(formatter.value.as_str().into()),
    })
}

fn logging(from: &api::AccessLogging) -> AccessLogging {
    AccessLogging {
        mode: mode(from.r#match.as_ref().map(|selector| selector.mode)),
        providers: providers(&from.providers),
        disabled: from.disabled,
        filter: from.filter.as_ref().and_then(|filter| text(&filter.expression)),
    }
}

fn metrics(from: &api::Metrics) -> Metrics {
    Metrics {
        providers: providers(&from.providers),
        overrides: from.overrides.iter().map(metric_override).collect(),
        reporting_interval: time(from.reporting_interval),
    }
}

fn metric_override(from: &api::MetricsOverrides) -> MetricOverride {
    let metric = from
        .r#match
        .as_ref()
        .and_then(|selector| selector.metric_match())
        .map(|metric| match metric {
            api::MetricMatch::Metric(metric) => Arc::from(metric.as_str()),
            api::MetricMatch::CustomMetric(name) => Arc::from(name),
        });
    let tags: BTreeMap<Arc<str>, Option<Arc<str>>> = (from.tag_overrides.iter())
        .map(|(name, tag)| {
            let value = match tag.operation {
                api::TagOverrideOperation::Remove => None,
                _ => Some(Arc::from(tag.value.as_str())),
            };
            (name.as_str().into(), value)
        })
        .collect();
    MetricOverride {
        metric: metric.unwrap_or_else(|| api::IstioMetric::AllMetrics.as_str().into()),
        mode: mode(from.r#match.as_ref().map(|selector| selector.mode)),
        disabled: from.disabled,
        tags,
    }
}
