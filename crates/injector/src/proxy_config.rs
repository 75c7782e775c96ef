//! The ProxyConfig that holds for one pod, and its shortest form.

use std::collections::BTreeMap;

use lateen_api::mesh::ProxyConfig;
use serde_json::Value;

use crate::annotations::PROXY_CONFIG;
use crate::inject::InjectError;
use crate::pod;
use crate::settings::{InjectionSettings, WorkloadProxyConfig};

/// The mesh's, then the ProxyConfig objects of the mesh, the namespace and the workload, then the annotation.
pub(crate) fn effective(
    settings: &InjectionSettings,
    pod: &Value,
    namespace: &str,
) -> Result<ProxyConfig, InjectError> {
    let mesh = &settings.mesh;
    let mut config = mesh.default_config.clone().unwrap_or_else(ProxyConfig::default_istio);
    let labels: BTreeMap<&str, &str> = pod::metadata(pod, "labels").collect();
    let mut layers: Vec<(usize, &WorkloadProxyConfig)> = settings
        .proxy_configs
        .iter()
        .filter_map(|layer| Some((rank(layer, namespace, &mesh.root_namespace, &labels)?, layer)))
        .collect();
    layers.sort_by_key(|(rank, _)| *rank);
    for (_, layer) in layers {
        let spec = &layer.spec;
        config.concurrency = spec.concurrency.or(config.concurrency);
        config.proxy_metadata.extend(spec.environment_variables.clone());
        config.image = spec.image.clone().or(config.image);
    }
    let Some(text) = pod::annotation(pod, PROXY_CONFIG) else {
        return Ok(config);
    };
    let refused = |reason: String| InjectError::Annotation {
        name: PROXY_CONFIG.to_owned(),
        value: text.to_owned(),
        reason,
    };
    let layer: Value = serde_yaml::from_str(text).map_err(|error| refused(error.to_string()))?;
    Ok(config.merge(&layer).map_err(|error| refused(error.to_string()))?.value)
}

/// How specific a ProxyConfig is to a pod: of the mesh 0, of the namespace 1, of the workload 2.
fn rank(
    layer: &WorkloadProxyConfig,
    namespace: &str,
    root_namespace: &str,
    labels: &BTreeMap<&str, &str>,
) -> Option<usize> {
    let selector = layer.spec.selector.as_ref().map(|selector| &selector.match_labels);
    match selector.filter(|selector| !selector.is_empty()) {
        Some(selector) => {
            let equal = |(key, value): (&String, &String)| labels.get(key.as_str()) == Some(&value.as_str());
            (layer.namespace == namespace && selector.iter().all(equal)).then_some(2)
        }
        None if layer.namespace == namespace => Some(1),
        None if layer.namespace == root_namespace => Some(0),
        None => None,
    }
}

/// The fields that differ from the defaults, which the agent knows itself: pods stay short.
pub(crate) fn to_json(config: &ProxyConfig) -> Value {
    let of = |config: &ProxyConfig| serde_json::to_value(config).unwrap_or_default();
    let defaults = of(&ProxyConfig::default_istio());
    let mut json = of(config);
    if let Value::Object(fields) = &mut json {
        fields.retain(|key, value| defaults.get(key) != Some(value));
    }
    json
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_more_specific_wins_and_the_annotation_over_all() {
        let layer = |namespace: &str, spec: Value| WorkloadProxyConfig {
            namespace: namespace.to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        let settings = InjectionSettings {
            proxy_configs: vec![
                layer(
                    "ns",
                    json!({"selector": {"matchLabels": {"app": "a"}}, "concurrency": 3}),
                ),
                layer(
                    "ns",
                    json!({"concurrency": 2, "environmentVariables": {"X": "ns", "Y": "ns"}}),
                ),
                layer(
                    "istio-system",
                    json!({"concurrency": 1, "environmentVariables": {"X": "mesh", "Z": "mesh"}}),
                ),
                layer("other", json!({"concurrency": 9})),
            ],
            ..InjectionSettings::default()
        };
        let of = |pod: Value| effective(&settings, &pod, "ns").unwrap();
        let config = of(json!({"metadata": {"labels": {"app": "a"}}}));
        assert_eq!(config.concurrency, Some(3));
        assert_eq!(
            to_json(&config),
            json!({"concurrency": 3, "proxyMetadata": {"X": "ns", "Y": "ns", "Z": "mesh"}})
        );
        let annotated =
            json!({"metadata": {"annotations": {PROXY_CONFIG: "{concurrency: 4, proxyMetadata: {X: pod}}"}}});
        let config = of(annotated);
        assert_eq!(
            (config.concurrency, config.proxy_metadata["X"].as_str()),
            (Some(4), "pod")
        );
        let broken = json!({"metadata": {"annotations": {PROXY_CONFIG: "concurrency: many"}}});
        assert!(effective(&settings, &broken, "ns").is_err());
    }
}
