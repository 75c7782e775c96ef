//! Telemetry.

use lateen_api::telemetry::{
    CustomTagType, MetricMatch, Metrics, ProviderRef, TagOverrideOperation, TelemetrySpec, Tracing,
};

use crate::{Finding, Findings, Subject, policy};

/// What is wrong with a Telemetry.
pub fn check(spec: &TelemetrySpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    policy::attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
        &mut findings,
    );
    for (at, entry) in spec.metrics.iter().enumerate() {
        metrics(entry, &format!("spec.metrics[{at}]"), &mut findings);
    }
    if spec.tracing.len() > 1 {
        findings.warning("spec.tracing", "only the first of several has an effect");
    }
    for (at, entry) in spec.tracing.iter().enumerate() {
        tracing(entry, &format!("spec.tracing[{at}]"), &mut findings);
    }
    for (at, entry) in spec.access_logging.iter().enumerate() {
        let field = format!("spec.accessLogging[{at}]");
        providers(&entry.providers, &field, &mut findings);
        if let Some(filter) = &entry.filter {
            // Without parser for the expression language, only what cannot be in it at all is told.
            let balance = |open: char, close: char| {
                let signs = filter.expression.chars();
                signs.fold(0_i64, |depth, sign| {
                    depth + i64::from(sign == open) - i64::from(sign == close)
                }) == 0
            };
            let quoted = filter.expression.contains(['\'', '"']);
            if filter.expression.trim().is_empty() || !(quoted || balance('(', ')') && balance('[', ']')) {
                findings.error(
                    format!("{field}.filter.expression"),
                    format!("`{}` is no CEL expression", filter.expression),
                );
            }
        }
    }
    findings.0
}

fn providers(providers: &[ProviderRef], field: &str, findings: &mut Findings) {
    for (at, provider) in providers.iter().enumerate() {
        if provider.name.is_empty() {
            findings.error(
                format!("{field}.providers[{at}].name"),
                "the name of the provider is missing",
            );
        }
    }
}

fn tracing(tracing: &Tracing, field: &str, findings: &mut Findings) {
    providers(&tracing.providers, field, findings);
    if tracing.providers.len() > 1 {
        findings.warning(format!("{field}.providers"), "only the first of several has an effect");
    }
    if tracing
        .random_sampling_percentage
        .is_some_and(|share| !(0.0..=100.0).contains(&share))
    {
        findings.error(
            format!("{field}.randomSamplingPercentage"),
            "the share must be 0 to 100",
        );
    }
    for (name, tag) in &tracing.custom_tags {
        let field = format!("{field}.customTags[{name}]");
        if name.is_empty() {
            findings.error(&field, "the tag has no name");
        }
        match tag.r#type() {
            Some(CustomTagType::Literal(literal)) if literal.value.is_empty() => {
                findings.error(format!("{field}.literal.value"), "the value is missing");
            }
            Some(CustomTagType::Header(header)) if header.name.is_empty() => {
                findings.error(format!("{field}.header.name"), "the name of the header is missing");
            }
            Some(CustomTagType::Environment(variable)) if variable.name.is_empty() => {
                findings.error(
                    format!("{field}.environment.name"),
                    "the name of the variable is missing",
                );
            }
            _ => {}
        }
    }
}

fn metrics(metrics: &Metrics, field: &str, findings: &mut Findings) {
    providers(&metrics.providers, field, findings);
    for (at, change) in metrics.overrides.iter().enumerate() {
        let field = format!("{field}.overrides[{at}]");
        for (name, tag) in &change.tag_overrides {
            let field = format!("{field}.tagOverrides[{name}]");
            if name.is_empty() {
                findings.warning(&field, "the tag has no name");
            }
            match tag.operation {
                TagOverrideOperation::Remove if !tag.value.is_empty() => {
                    findings.error(format!("{field}.value"), "a tag that is removed has no value");
                }
                TagOverrideOperation::Upsert if tag.value.is_empty() => {
                    findings.error(format!("{field}.value"), "the value of the tag is missing");
                }
                _ => {}
            }
        }
        if let Some(MetricMatch::CustomMetric("")) =
            change.r#match.as_ref().and_then(|selector| selector.metric_match())
        {
            findings.error(
                format!("{field}.match.customMetric"),
                "the name of the metric is missing",
            );
        }
    }
}
