//! Configuration dumps, as Envoy's admin interface and the control plane write them.
//!
//! Envoy writes field names as in the .proto files, the control plane as in proto-JSON; [`field`] takes either.

use anyhow::{Result, bail};
use serde_json::Value;

use super::What;

/// The resources of a dump, those that are in force before those that are not yet.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) clusters: Vec<Value>,
    pub(super) listeners: Vec<Value>,
    pub(super) routes: Vec<Value>,
    pub(super) endpoints: Vec<Value>,
    pub(super) secrets: Vec<Secret>,
}

/// A secret and what became of it.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) secret: Value,
    /// `ACTIVE` or `WARMING`.
    pub(super) state: &'static str,
}

impl Dump {
    /// Reads a dump.
    pub(super) fn read(document: &Value) -> Result<Self> {
        let Some(configs) = document.get("configs").and_then(Value::as_array) else {
            bail!("this is no configuration dump: it has no list `configs`, as Envoy's /config_dump has");
        };
        let mut dump = Self::default();
        for config in configs {
            let url = config["@type"].as_str().unwrap_or_default();
            let lists = |keys: &[&str], inner: &str| -> Vec<Value> {
                let entries = keys.iter().filter_map(|key| config.get(*key)?.as_array()).flatten();
                entries.filter_map(|entry| field(entry, inner).cloned()).collect()
            };
            match url.rsplit('.').next().unwrap_or_default() {
                "ClustersConfigDump" => {
                    let keys = ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"];
                    dump.clusters.extend(lists(&keys, "cluster"));
                }
                "ListenersConfigDump" => {
                    dump.listeners.extend(lists(&["static_listeners"], "listener"));
                    for state in ["active_state", "warming_state"] {
                        let states = lists(&["dynamic_listeners"], state);
                        dump.listeners
                            .extend(states.iter().filter_map(|state| field(state, "listener").cloned()));
                    }
                }
                "RoutesConfigDump" => {
                    dump.routes
                        .extend(lists(&["static_route_configs", "dynamic_route_configs"], "routeConfig"));
                }
                "EndpointsConfigDump" => {
                    dump.endpoints.extend(lists(
                        &["static_endpoint_configs", "dynamic_endpoint_configs"],
                        "endpointConfig",
                    ));
                }
                "SecretsConfigDump" => {
                    let states = [
                        ("static_secrets", "ACTIVE"),
                        ("dynamic_active_secrets", "ACTIVE"),
                        ("dynamic_warming_secrets", "WARMING"),
                    ];
                    for (key, state) in states {
                        let entries = config.get(key).and_then(Value::as_array).into_iter().flatten();
                        dump.secrets.extend(entries.map(|entry| Secret {
                            secret: secret(entry),
                            state,
                        }));
                    }
                }
                _ => {}
            }
        }
        // Clusters without EDS have their endpoints in themselves.
        let inline = dump
            .clusters
            .iter()
            .filter_map(|cluster| field(cluster, "loadAssignment").cloned());
        dump.endpoints.extend(inline.collect::<Vec<_>>());
        Ok(dump)
    }

    /// Drops what is not of the name's kind.
    pub(super) fn retain(&mut self, part: &str) {
        for list in [
            &mut self.clusters,
            &mut self.listeners,
            &mut self.routes,
            &mut self.endpoints,
        ] {
            list.retain(|resource| name(resource).contains(part));
        }
        self.secrets.retain(|secret| name(&secret.secret).contains(part));
    }

    /// The resources of a kind, as they are.
    pub(super) fn of(&self, what: What) -> Value {
        match what {
            What::Cluster => self.clusters.clone().into(),
            What::Listener => self.listeners.clone().into(),
            What::Route => self.routes.clone().into(),
            What::Endpoint => self.endpoints.clone().into(),
            What::Secret | What::All => self.secrets.iter().map(|secret| secret.secret.clone()).collect(),
        }
    }
}

/// The secret of an entry without what nobody should see. Envoy blanks keys out itself; here nothing is left to that.
fn secret(entry: &Value) -> Value {
    let mut secret = match field(entry, "secret") {
        Some(secret) => secret.clone(),
        None => serde_json::json!({}),
    };
    if let Some(object) = secret.as_object_mut() {
        object.entry("name").or_insert_with(|| entry["name"].clone());
        object.retain(|key, _| {
            [
                "@type",
                "name",
                "tls_certificate",
                "tlsCertificate",
                "validation_context",
                "validationContext",
            ]
            .contains(&key.as_str())
        });
        for key in ["tls_certificate", "tlsCertificate"] {
            if let Some(certificate) = object.get_mut(key).and_then(Value::as_object_mut) {
                certificate.retain(|key, _| ["certificate_chain", "certificateChain"].contains(&key.as_str()));
            }
        }
    }
    secret
}

/// The name of a resource.
pub(super) fn name(resource: &Value) -> &str {
    let name = field(resource, "name").or_else(|| field(resource, "clusterName"));
    name.and_then(Value::as_str).unwrap_or_default()
}

/// A field by its proto-JSON name, written in either way.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| {
        let mut snake = String::with_capacity(name.len() + 4);
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        value.get(&snake)
    })
}

/// The text at a path of fields; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at a path of fields.
pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| field(value, name))
}

/// The items of a list at a path of fields.
pub(super) fn items<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    at(value, path).and_then(Value::as_array).into_iter().flatten()
}
