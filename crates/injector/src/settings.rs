//! What injection depends on besides the pod.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::mesh::MeshConfig;
use lateen_api::mesh::config::LabelSelector;
use lateen_api::networking::proxy_config::ProxyConfigSpec;
use serde::Deserialize;
use serde_json::Value;

use crate::values::Values;

/// Templates that Istio's ConfigMaps hold for other things than pods that ask for injection.
const NOT_FOR_PODS: &[&str] = &["waypoint", "kube-gateway", "agentgateway", "agentgateway-waypoint"];

/// Everything that injection depends on besides the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct InjectionSettings {
    /// The mesh's configuration, with its defaults.
    pub mesh: MeshConfig,
    /// The ProxyConfig objects.
    pub proxy_configs: Vec<WorkloadProxyConfig>,
    /// The values of the installation.
    pub values: Values,
    /// Who gets a sidecar, and from which templates.
    pub policy: Policy,
    /// The revision of this control plane; empty for the default one.
    pub revision: String,
    /// Whether sidecars are init containers that restart (Kubernetes 1.29 and later), where the pod says nothing.
    pub native_sidecars: bool,
    /// `fips-140-2`, `fips-140-3` or empty.
    pub compliance_policy: String,
    /// Annotations of namespaces. Only OpenShift's matter, which say with which user IDs pods may run.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for InjectionSettings {
    fn default() -> Self {
        Self {
            mesh: MeshConfig::default_istio(),
            proxy_configs: Vec::new(),
            values: Values::default(),
            policy: Policy::default(),
            revision: String::new(),
            native_sidecars: true,
            compliance_policy: String::new(),
            namespaces: BTreeMap::new(),
        }
    }
}

/// A ProxyConfig object.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadProxyConfig {
    /// Its namespace.
    pub namespace: String,
    /// What it says.
    pub spec: ProxyConfigSpec,
}

/// The key `config` of the ConfigMap `istio-sidecar-injector`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Whether pods that say nothing get a sidecar (`policy: enabled`).
    pub enabled: bool,
    /// The templates of pods that name none.
    pub default_templates: Vec<String>,
    /// Names that stand for several templates.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// Users' own templates.
    pub overlays: BTreeMap<String, Overlay>,
    /// Pods with these labels get none; goes before `always`.
    pub never: Vec<LabelSelector>,
    /// Pods with these labels get one.
    pub always: Vec<LabelSelector>,
    /// Annotations that every injected pod gets.
    pub annotations: BTreeMap<String, String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            default_templates: vec!["sidecar".to_owned()],
            aliases: BTreeMap::new(),
            overlays: BTreeMap::new(),
            never: Vec::new(),
            always: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// A template of the user's.
#[derive(Debug, Clone, PartialEq)]
pub enum Overlay {
    /// A strategic merge patch.
    Patch(Value),
    /// It cannot be used; why, and what to do.
    Unusable(String),
}

/// A ConfigMap is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ConfigMap istio-sidecar-injector, data.{key}: {reason}")]
pub struct SettingsError {
    /// The key under `data`.
    pub key: &'static str,
    /// What is wrong.
    pub reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    policy: Option<String>,
    default_templates: Option<Vec<String>>,
    aliases: Option<BTreeMap<String, Vec<String>>>,
    templates: Option<BTreeMap<String, String>>,
    never_inject_selector: Option<Vec<LabelSelector>>,
    always_inject_selector: Option<Vec<LabelSelector>>,
    injected_annotations: Option<BTreeMap<String, String>>,
}

impl Values {
    /// Reads the key `values`.
    ///
    /// # Errors
    /// When it is no JSON or YAML object.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let error = |reason: String| SettingsError { key: "values", reason };
        match serde_yaml::from_str(text).map_err(|problem| error(problem.to_string()))? {
            values @ Value::Object(_) => Ok(Self::new(values)),
            _ => Err(error("must be an object".to_owned())),
        }
    }
}

impl Policy {
    /// Reads the key `config`; also says what in it is not used, for the log.
    ///
    /// # Errors
    /// When it is no YAML, or a field has the wrong type.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), SettingsError> {
        let error = |reason: String| SettingsError { key: "config", reason };
        let written: Option<Written> = serde_yaml::from_str(text).map_err(|problem| error(problem.to_string()))?;
        let written = written.unwrap_or_default();
        let mut notes = Vec::new();
        let enabled = match written.policy.as_deref() {
            None | Some("enabled") => true,
            Some("disabled") => false,
            Some(other) => {
                notes.push(format!(
                    "policy: `{other}` is neither enabled nor disabled; only pods that ask are injected"
                ));
                false
            }
        };
        let mut overlays = BTreeMap::new();
        for (name, text) in written.templates.unwrap_or_default() {
            let Some(overlay) = overlay(&name, &text, &mut notes) else {
                continue;
            };
            overlays.insert(name, overlay);
        }
        let default_templates = written.default_templates.filter(|names| !names.is_empty());
        let policy = Self {
            enabled,
            default_templates: default_templates.unwrap_or_else(|| vec!["sidecar".to_owned()]),
            aliases: written.aliases.unwrap_or_default(),
            overlays,
            never: written.never_inject_selector.unwrap_or_default(),
            always: written.always_inject_selector.unwrap_or_default(),
            annotations: written.injected_annotations.unwrap_or_default(),
        };
        Ok((policy, notes))
    }

    /// The templates that a pod asks for, aliases resolved.
    pub(crate) fn templates(&self, asked: Option<&str>) -> Vec<String> {
        let names: Vec<String> = match asked {
            Some(names) => names.split(',').map(|name| name.trim().to_owned()).collect(),
            None => self.default_templates.clone(),
        };
        let resolve = |name: String| self.aliases.get(&name).cloned().unwrap_or_else(|| vec![name]);
        names.into_iter().flat_map(resolve).collect()
    }

    /// Every name that can be asked for.
    pub(crate) fn known(&self) -> BTreeSet<&str> {
        let own = self.overlays.keys().chain(self.aliases.keys()).map(String::as_str);
        own.chain(crate::template::BUILT_IN.iter().copied()).collect()
    }
}

/// A template; `None` where Lateen has its own instead.
fn overlay(name: &str, text: &str, notes: &mut Vec<String>) -> Option<Overlay> {
    if NOT_FOR_PODS.contains(&name) {
        return None;
    }
    if text.contains("{{") {
        if crate::template::BUILT_IN.contains(&name) {
            notes.push(format!(
                "templates.{name}: written in Go's template language, which is not run; Lateen's own `{name}` is used. Put what you changed into an overlay of another name, and both into defaultTemplates"
            ));
            return None;
        }
        let reason = "it is written in Go's template language, which is not run; write it as a strategic merge patch: \
            a container named \"*\" stands for every container of the application, valueFrom.fieldRef gives labels, \
            annotations and names, and Helm writes values in place"
            .to_owned();
        notes.push(format!("templates.{name}: {reason}"));
        return Some(Overlay::Unusable(reason));
    }
    match serde_yaml::from_str::<Value>(text) {
        Ok(patch @ Value::Object(_)) => Some(Overlay::Patch(patch)),
        Ok(Value::Null) => Some(Overlay::Patch(Value::Object(serde_json::Map::new()))),
        Ok(_) => unusable(name, "it must be an object with the fields of a pod".to_owned(), notes),
        Err(problem) => unusable(name, format!("it is no YAML: {problem}"), notes),
    }
}

fn unusable(name: &str, reason: String, notes: &mut Vec<String>) -> Option<Overlay> {
    notes.push(format!("templates.{name}: {reason}"));
    Some(Overlay::Unusable(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_of_an_installation_is_read() {
        let text = "
policy: enabled
defaultTemplates: [sidecar, mine]
aliases: {both: [sidecar, mine]}
neverInjectSelector:
- matchExpressions: [{key: job-name, operator: Exists}]
injectedAnnotations:
templates:
  sidecar: '{{ .Values.x }}'
  waypoint: '{{ .Name }}'
  go: 'metadata: {name: {{ .Name }}}'
  mine: |
    spec: {priorityClassName: high}
";
        let (policy, notes) = Policy::parse(text).unwrap();
        assert_eq!(policy.default_templates, ["sidecar", "mine"]);
        assert_eq!(policy.never[0].match_expressions[0].key, "job-name");
        assert_eq!(policy.templates(Some("both, go")), ["sidecar", "mine", "go"]);
        assert!(matches!(policy.overlays["mine"], Overlay::Patch(_)));
        assert!(matches!(policy.overlays["go"], Overlay::Unusable(_)));
        assert_eq!(policy.overlays.len(), 2);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(Policy::parse("policy: [").is_err());
        assert!(
            Policy::parse("defaultTemplates: 7")
                .unwrap_err()
                .to_string()
                .contains("data.config")
        );
    }

    #[test]
    fn values_are_read_as_they_are() {
        let values =
            Values::parse(r#"{"global": {"tag": 1.5, "proxy": {"resources": {"limits": {"cpu": null}}}}}"#).unwrap();
        assert_eq!(values.text("global.tag"), "1.5");
        assert_eq!(values.text_or("global.proxy.image", "x"), "x");
        assert!(Values::parse("[]").is_err());
    }
}
