//! Layers of mesh configuration, from the least specific to the most.
//!
//! The rules are Istio's: a field of the upper layer replaces the whole field of the lower one, with these exceptions.
//! `defaultConfig` is merged field by field, and so is `defaultProviders`; `defaultConfig.proxyMetadata` key by key, and
//! five fields of `defaultConfig.proxyHeaders` are kept when unset above; an extension provider replaces the one of its name and is added otherwise;
//! `trustDomainAliases` add up. Null leaves the lower layer's value.

use serde_json::{Map, Value};

use super::config::MeshConfig;
use super::proxy_config::{ForwardClientCertDetails, ProxyConfig, ProxyHeaders};
use crate::decode::{DecodeError, Decoded, decode_proto};

impl MeshConfig {
    /// Lays a document over this configuration. `layer` is the JSON form of the YAML under the key `mesh` of a
    /// ConfigMap; an empty document (null) changes nothing.
    ///
    /// # Errors
    /// A value of the wrong type, with its path; this configuration is as it was.
    pub fn merge(&self, layer: &Value) -> Result<Decoded<Self>, DecodeError> {
        let Decoded { value: upper, unknown } = decode_layer::<Self>(layer)?;
        let mut value = overlay(self, layer)?;
        value.default_config = match (&self.default_config, field(layer, "defaultConfig")) {
            (lower, Some(layer)) => Some(lower.clone().unwrap_or_default().merge(layer)?.value),
            (lower, None) => lower.clone(),
        };
        value.default_providers = match (&self.default_providers, field(layer, "defaultProviders")) {
            (lower, Some(layer)) => Some(overlay(&lower.clone().unwrap_or_default(), layer)?),
            (lower, None) => lower.clone(),
        };
        value.extension_providers = self.extension_providers.clone();
        for provider in upper.extension_providers {
            match value
                .extension_providers
                .iter_mut()
                .find(|lower| lower.name == provider.name)
            {
                Some(lower) => *lower = provider,
                None => value.extension_providers.push(provider),
            }
        }
        value.trust_domain_aliases = self
            .trust_domain_aliases
            .iter()
            .cloned()
            .chain(upper.trust_domain_aliases)
            .collect();
        value.trust_domain_aliases.sort();
        value.trust_domain_aliases.dedup();
        Ok(Decoded { value, unknown })
    }
}

impl ProxyConfig {
    /// Lays a document over this configuration, such as the annotation `proxy.istio.io/config`.
    ///
    /// # Errors
    /// A value of the wrong type, with its path; this configuration is as it was.
    pub fn merge(&self, layer: &Value) -> Result<Decoded<Self>, DecodeError> {
        let Decoded { unknown, .. } = decode_layer::<Self>(layer)?;
        let mut value: Self = overlay(self, layer)?;
        // The cluster's name is one of two; the upper layer's choice ends the lower one's.
        if field(layer, "tracingServiceName").is_some() && field(layer, "serviceCluster").is_none() {
            value.service_cluster = None;
        }
        let mut metadata = self.proxy_metadata.clone();
        metadata.append(&mut value.proxy_metadata);
        value.proxy_metadata = metadata;
        if let (Some(lower), Some(upper)) = (&self.proxy_headers, &mut value.proxy_headers) {
            keep_headers(lower, upper);
        }
        Ok(Decoded { value, unknown })
    }
}

/// Five of the header settings survive an upper layer that does not name them; the others go with the whole.
fn keep_headers(lower: &ProxyHeaders, upper: &mut ProxyHeaders) {
    if upper.forwarded_client_cert == ForwardClientCertDetails::default() {
        upper.forwarded_client_cert = lower.forwarded_client_cert;
    }
    upper.request_id = upper.request_id.take().or_else(|| lower.request_id.clone());
    upper.attempt_count = upper.attempt_count.take().or_else(|| lower.attempt_count.clone());
    upper.server = upper.server.take().or_else(|| lower.server.clone());
    upper.envoy_debug_headers = upper
        .envoy_debug_headers
        .take()
        .or_else(|| lower.envoy_debug_headers.clone());
}

fn decode_layer<T: serde::de::DeserializeOwned + Default>(layer: &Value) -> Result<Decoded<T>, DecodeError> {
    match layer {
        Value::Null => Ok(Decoded {
            value: T::default(),
            unknown: Vec::new(),
        }),
        layer => decode_proto(layer),
    }
}

/// `lower` with the fields that `layer` sets, each replaced as a whole.
fn overlay<T>(lower: &T, layer: &Value) -> Result<T, DecodeError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone,
{
    let Value::Object(layer) = layer else {
        return Ok(lower.clone());
    };
    let mut merged: Map<String, Value> = match serde_json::to_value(lower) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for (key, value) in layer.iter().filter(|(_, value)| !value.is_null()) {
        merged.insert(canonical(key), value.clone());
    }
    decode_proto(&Value::Object(merged)).map(|decoded| decoded.value)
}

/// A field that a layer sets to something, under either of its spellings.
fn field<'a>(layer: &'a Value, name: &str) -> Option<&'a Value> {
    layer
        .as_object()?
        .iter()
        .find(|(key, value)| canonical(key) == name && !value.is_null())
        .map(|(_, value)| value)
}

/// The spelling of a field in JSON.
fn canonical(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_replace_and_the_exceptions_merge() {
        let lower = MeshConfig::default_istio()
            .merge(&json!({
                "trustDomainAliases": ["b", "a"],
                "outboundTrafficPolicy": { "mode": "REGISTRY_ONLY" },
                "defaultConfig": { "proxyMetadata": { "A": "1", "B": "1" }, "concurrency": 1 },
                "defaultProviders": { "metrics": ["prometheus"] },
            }))
            .unwrap();
        assert!(lower.unknown.is_empty());
        let upper = json!({
            "trust_domain_aliases": ["c", "a"],
            "outboundTrafficPolicy": {},
            "localityLbSetting": { "failoverPriority": ["x"] },
            "accessLogFile": null,
            "enableTracing": false,
            "default_config": { "proxyMetadata": { "B": "2" }, "tracingServiceName": "CANONICAL_NAME_ONLY", "nope": 1 },
            "defaultProviders": { "tracing": ["zipkin"] },
            "extensionProviders": [
                { "name": "envoy", "envoyFileAccessLog": { "path": "/tmp/log" } },
                { "name": "otel", "opentelemetry": { "service": "s", "port": 1 } },
            ],
        });
        let merged = lower.value.merge(&upper).unwrap();
        let mesh = merged.value;
        assert_eq!(merged.unknown, ["default_config.nope"]);
        assert_eq!(mesh.trust_domain_aliases, ["a", "b", "c"]);
        assert_eq!(mesh.outbound_traffic_policy.unwrap().mode.as_str(), "REGISTRY_ONLY");
        assert_eq!(mesh.locality_lb_setting.unwrap().enabled, None);
        assert!(!mesh.enable_tracing);
        assert_eq!(mesh.proxy_listen_port, 15001);
        let proxy = mesh.default_config.unwrap();
        assert_eq!(
            (proxy.proxy_metadata["A"].as_str(), proxy.proxy_metadata["B"].as_str()),
            ("1", "2")
        );
        assert_eq!(
            (proxy.concurrency, proxy.stat_name_length, proxy.service_cluster),
            (Some(1), 189, None)
        );
        let providers = mesh.default_providers.unwrap();
        assert_eq!(
            (providers.metrics, providers.tracing),
            (vec!["prometheus".to_owned()], vec!["zipkin".to_owned()])
        );
        let names: Vec<_> = mesh.extension_providers.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["prometheus", "stackdriver", "envoy", "otel"]);
        assert_eq!(
            mesh.extension_providers[2].envoy_file_access_log.as_ref().unwrap().path,
            "/tmp/log"
        );
    }

    #[test]
    fn an_empty_document_changes_nothing_and_a_broken_one_is_refused() {
        let mesh = MeshConfig::default_istio();
        assert_eq!(mesh.merge(&Value::Null).unwrap().value, mesh);
        assert_eq!(mesh.merge(&json!({})).unwrap().value, mesh);
        let error = mesh
            .merge(&json!({ "defaultConfig": { "drainDuration": true } }))
            .unwrap_err();
        assert_eq!(error.path, "defaultConfig.drainDuration");
        assert!(mesh.merge(&json!([])).is_err());
    }
}
