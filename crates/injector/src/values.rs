//! The values of an installation, as Helm writes them into the ConfigMap `istio-sidecar-injector`.

use serde_json::{Value, json};

/// Values by path. Numbers, flags and text are alike: Helm's users write any of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Values(Value);

impl Default for Values {
    /// Those of an installation that sets none.
    fn default() -> Self {
        let proxy = json!({
            "image": "proxy",
            "clusterDomain": "cluster.local",
            "componentLogLevel": "misc:error",
            "logLevel": "warning",
            "includeIPRanges": "*",
            "excludeIPRanges": "",
            "includeInboundPorts": "*",
            "excludeInboundPorts": "",
            "includeOutboundPorts": "",
            "excludeOutboundPorts": "",
            "outlierLogPath": "",
            "privileged": false,
            "readinessFailureThreshold": 4,
            "readinessInitialDelaySeconds": 0,
            "readinessPeriodSeconds": 15,
            "startupProbe": { "enabled": true, "failureThreshold": 600 },
            "resources": {
                "requests": { "cpu": "100m", "memory": "128Mi" },
                "limits": { "cpu": "2000m", "memory": "1024Mi" },
            },
            "statusPort": 15020,
            "tracer": "none",
        });
        let global = json!({
            "hub": "ghcr.io/lateen-mesh",
            "tag": env!("CARGO_PKG_VERSION"),
            "imagePullSecrets": [],
            "istioNamespace": "istio-system",
            "logging": { "level": "default:info" },
            "pilotCertProvider": "istiod",
            "sds": { "token": { "aud": "istio-ca" } },
            "proxy": proxy,
            "proxy_init": { "image": "proxy" },
        });
        Self(json!({
            "global": global,
            "sidecarInjectorWebhook": { "rewriteAppHTTPProbe": true },
            "pilot": { "cni": { "enabled": false, "provider": "default" } },
            "revision": "",
        }))
    }
}

impl Values {
    /// The values as they are, complete.
    pub fn new(values: Value) -> Self {
        Self(values)
    }

    /// These values with others laid over them, field by field.
    #[must_use]
    pub fn with(&self, over: &Value) -> Self {
        let mut values = self.0.clone();
        lay_over(&mut values, over);
        Self(values)
    }

    /// The value under a path such as `global.proxy.image`; `None` for null.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let found = path.split('.').try_fold(&self.0, |value, key| value.get(key))?;
        Some(found).filter(|value| !value.is_null())
    }

    /// A value as text; empty where there is none.
    pub fn text(&self, path: &str) -> String {
        match self.get(path) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            _ => String::new(),
        }
    }

    /// A value as text; the other where there is none or it is empty.
    pub fn text_or(&self, path: &str, other: &str) -> String {
        match self.text(path) {
            text if text.is_empty() => other.to_owned(),
            text => text,
        }
    }

    /// Whether a value is true.
    pub fn flag(&self, path: &str) -> bool {
        self.text(path) == "true"
    }

    /// A value as a number; the other where it is none.
    pub fn number_or(&self, path: &str, other: i64) -> i64 {
        self.text(path).parse().unwrap_or(other)
    }

    /// A value that is an object with fields, nulls left out.
    pub fn object(&self, path: &str) -> Option<Value> {
        let value = crate::pod::without_nulls(self.get(path)?);
        value.as_object().is_some_and(|map| !map.is_empty()).then_some(value)
    }

    /// A list of texts.
    pub fn texts(&self, path: &str) -> Vec<String> {
        let items = self.get(path).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }
}

fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}
