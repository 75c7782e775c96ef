//! Settings of injection, gathered from what the sources read: MeshConfig, ProxyConfig objects, the ConfigMap
//! `istio-sidecar-injector`, namespaces and nodes.
//!
//! Failure policy: of a broken ConfigMap each key that cannot be read keeps what it said before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::mesh::MeshConfig;
use lateen_injector::{InjectionSettings, Policy, Values, WorkloadProxyConfig};
use lateen_lower::object::{Kind, Objects};
use lateen_lower::{Change, Event, Object};
use lateen_names::{ClusterId, Name, ObjectKey};
use serde_json::json;
use tokio::sync::watch;

use crate::config::{Config, NativeSidecars};

/// The annotations of namespaces that matter.
const OPENSHIFT: &str = "openshift.io/sa.scc.";
/// From this minor version on kubelets run sidecars as init containers, on every cluster.
const NATIVE_SINCE: u32 = 33;

/// Gathers the settings, and hands them out when they change.
pub(crate) struct Injection {
    cluster: ClusterId,
    config_map: ObjectKey,
    native: NativeSidecars,
    defaults: Values,
    settings: InjectionSettings,
    /// Nodes that cannot run sidecars as init containers.
    old_nodes: BTreeSet<ObjectKey>,
    /// Whether anything was seen since the last time that may change the settings.
    stale: bool,
    sender: watch::Sender<Arc<InjectionSettings>>,
}

impl Injection {
    /// The settings of an installation that says nothing, and where they will be seen to change.
    pub(crate) fn new(config: &Config, config_map: Name) -> (Self, watch::Receiver<Arc<InjectionSettings>>) {
        let revision = config
            .revision
            .clone()
            .filter(|revision| revision != "default")
            .unwrap_or_default();
        let cluster = match config.cluster_id.as_str() {
            "Kubernetes" => "",
            cluster => cluster,
        };
        let defaults = Values::default().with(&json!({
            "revision": revision,
            "global": { "istioNamespace": config.namespace.as_str(), "multiCluster": { "clusterName": cluster } },
        }));
        let settings = InjectionSettings {
            values: defaults.clone(),
            revision,
            native_sidecars: config.native_sidecars != NativeSidecars::False,
            compliance_policy: config.compliance_policy.clone(),
            ..InjectionSettings::default()
        };
        let (sender, receiver) = watch::channel(Arc::new(settings.clone()));
        let injection = Self {
            cluster: config.cluster_id.clone(),
            config_map: ObjectKey {
                namespace: Some(config.namespace.clone()),
                name: config_map,
            },
            native: config.native_sidecars,
            defaults,
            settings,
            old_nodes: BTreeSet::new(),
            stale: true,
            sender,
        };
        (injection, receiver)
    }

    /// Looks at what has changed in this cluster.
    pub(crate) fn observe(&mut self, events: &[Event]) {
        let cluster = self.cluster.clone();
        for event in events.iter().filter(|event| event.cluster == cluster) {
            let kind = match &event.change {
                Change::Apply(object) => {
                    self.apply(object);
                    object.kind()
                }
                Change::Delete { kind, key } => {
                    self.delete(*kind, key);
                    *kind
                }
            };
            // Mesh configuration is in a ConfigMap too.
            self.stale |= matches!(kind, Kind::ConfigMap | Kind::Namespace | Kind::Node | Kind::ProxyConfig);
        }
    }

    /// Hands out the settings, if they are others than before.
    pub(crate) fn publish(&mut self, mesh: &MeshConfig, objects: &Objects) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        self.settings.mesh = mesh.clone();
        self.settings.proxy_configs = objects
            .of(Kind::ProxyConfig)
            .filter_map(|(key, object)| match object {
                Object::ProxyConfig(config) => Some(WorkloadProxyConfig {
                    namespace: key.namespace.as_ref()?.as_str().to_owned(),
                    spec: config.spec.clone(),
                }),
                _ => None,
            })
            .collect();
        if self.native == NativeSidecars::Auto {
            self.settings.native_sidecars = self.old_nodes.is_empty();
        }
        self.sender.send_if_modified(|current| {
            let other = **current != self.settings;
            if other {
                *current = Arc::new(self.settings.clone());
            }
            other
        });
    }

    fn apply(&mut self, object: &Object) {
        let Ok(key) = object.key() else { return };
        match object {
            Object::Namespace(namespace) => {
                let annotations = namespace.metadata.annotations.iter().flatten();
                let annotations = annotations.filter(|(key, _)| key.starts_with(OPENSHIFT));
                let kept: BTreeMap<String, String> =
                    annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
                if kept.is_empty() {
                    self.settings.namespaces.remove(key.name.as_str());
                } else {
                    self.settings.namespaces.insert(key.name.as_str().to_owned(), kept);
                }
            }
            Object::Node(node) => {
                let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
                if info.is_some_and(|info| is_old(&info.kubelet_version)) {
                    self.old_nodes.insert(key);
                } else {
                    self.old_nodes.remove(&key);
                }
            }
            Object::ConfigMap(config_map) if self.is_ours(&key) => {
                self.read(config_map.data.as_ref().unwrap_or(&BTreeMap::new()));
            }
            _ => {}
        }
    }

    fn delete(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Namespace => {
                self.settings.namespaces.remove(key.name.as_str());
            }
            Kind::Node => {
                self.old_nodes.remove(key);
            }
            Kind::ConfigMap if self.is_ours(key) => self.read(&BTreeMap::new()),
            _ => {}
        }
    }

    fn is_ours(&self, key: &ObjectKey) -> bool {
        *key == self.config_map
    }

    fn read(&mut self, data: &BTreeMap<String, String>) {
        match data.get("values").map(|text| Values::parse(text)) {
            None => self.settings.values = self.defaults.clone(),
            Some(Ok(values)) => self.settings.values = values,
            Some(Err(error)) => tracing::warn!(%error, "the values before stay in force"),
        }
        match data.get("config").map(|text| Policy::parse(text)) {
            None => self.settings.policy = Policy::default(),
            Some(Ok((policy, notes))) => {
                for note in notes {
                    tracing::warn!(config_map = %self.config_map, note, "injection");
                }
                self.settings.policy = policy;
            }
            Some(Err(error)) => tracing::warn!(%error, "the policy before stays in force"),
        }
    }
}

/// Whether a kubelet is too old to run sidecars as init containers; unknown versions are not.
fn is_old(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.');
    let major = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let minor = numbers.next().and_then(|number| {
        let digits = number
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(number.len());
        number[..digits].parse::<u32>().ok()
    });
    matches!((major, minor), (Some(1), Some(minor)) if minor < NATIVE_SINCE)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Cli;

    fn event(yaml: &str) -> Event {
        let raw = lateen_lower::yaml::parse(yaml).unwrap();
        let kind = Kind::find("", raw["kind"].as_str().unwrap()).unwrap();
        Event {
            cluster: ClusterId::new("Kubernetes").unwrap(),
            change: Change::Apply(Arc::new(Object::decode(kind, &raw).unwrap().value)),
        }
    }

    #[test]
    fn the_config_map_the_nodes_and_the_namespaces_count() {
        let config = Cli::parse_from(["lateend", "--revision", "canary"]).config;
        let (mut injection, receiver) = Injection::new(&config, Name::new("istio-sidecar-injector-canary").unwrap());
        let publish = |injection: &mut Injection| injection.publish(&MeshConfig::default_istio(), &Objects::default());
        let settings = || Arc::clone(&receiver.borrow());
        publish(&mut injection);
        assert!(settings().native_sidecars);
        assert_eq!(settings().values.text("revision"), "canary");

        let config_map = |config: &str| {
            event(&format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio-sidecar-injector-canary, namespace: istio-system}}, \
                 data: {{values: '{{\"global\": {{\"tag\": \"t\"}}}}', config: '{config}'}}}}"
            ))
        };
        injection.observe(&[
            config_map("policy: disabled"),
            event("{apiVersion: v1, kind: Node, metadata: {name: n}, status: {nodeInfo: {kubeletVersion: v1.32.4, \
                architecture: a, bootID: b, containerRuntimeVersion: c, kernelVersion: k, kubeProxyVersion: k, \
                machineID: m, operatingSystem: o, osImage: i, systemUUID: u}}}"),
            event("{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {openshift.io/sa.scc.uid-range: 1/2, x: y}}}"),
        ]);
        publish(&mut injection);
        assert!(!settings().native_sidecars && !settings().policy.enabled);
        assert_eq!(settings().values.text("global.tag"), "t");
        assert_eq!(settings().namespaces["a"].len(), 1);

        injection.observe(&[config_map("policy: [")]);
        publish(&mut injection);
        assert!(!settings().policy.enabled, "what cannot be read keeps what was before");

        let key = ObjectKey {
            namespace: Some(lateen_names::Namespace::new("istio-system").unwrap()),
            ..event_key(&config_map("x"))
        };
        injection.observe(&[Event {
            cluster: ClusterId::new("Kubernetes").unwrap(),
            change: Change::Delete {
                kind: Kind::ConfigMap,
                key,
            },
        }]);
        publish(&mut injection);
        assert!(settings().policy.enabled);
    }

    fn event_key(event: &Event) -> ObjectKey {
        let Change::Apply(object) = &event.change else {
            panic!("nothing applied")
        };
        object.key().unwrap()
    }

    #[test]
    fn old_kubelets_are_told_by_their_version() {
        assert!(is_old("v1.32.9") && is_old("1.9"));
        assert!(!is_old("v1.33.0") && !is_old("v1.34.1+k3s1") && !is_old("v2.0") && !is_old("?"));
    }
}
