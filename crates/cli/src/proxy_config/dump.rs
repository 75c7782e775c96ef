//! Configuration dumps, as Envoy's admin interface and the control plane write them.
//!
//! Envoy writes field names as in the .proto files, the control plane as in proto-JSON; [`field`] takes either.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::What;
use super::tables::{listener_address, listener_port, parts};

/// The resources of a dump, in proto-JSON whatever the dump was written in.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    pub(crate) clusters: Vec<Value>,
    /// Names of those that are warming; in the control plane's, of those that come on first use.
    pub(crate) waiting: BTreeSet<String>,
    pub(crate) listeners: Vec<Value>,
    pub(crate) routes: Vec<Value>,
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
    pub(crate) fn read(document: &Value) -> Result<Self> {
        let Some(configs) = document.get("configs").and_then(Value::as_array) else {
            bail!("this is no configuration dump: it has no list `configs`, as Envoy's /config_dump has");
        };
        let mut dump = Self::default();
        for config in configs {
            let url = config["@type"].as_str().unwrap_or_default();
            let lists = |keys: &[&str], inner: &str| -> Vec<Value> {
                let entries = keys.iter().filter_map(|key| field(config, key)?.as_array()).flatten();
                entries.filter_map(|entry| field(entry, inner)).map(canonical).collect()
            };
            match url.rsplit('.').next().unwrap_or_default() {
                "ClustersConfigDump" => {
                    let keys = ["staticClusters", "dynamicActiveClusters", "dynamicWarmingClusters"];
                    dump.clusters.extend(lists(&keys, "cluster"));
                    let waiting = lists(&keys[2..], "cluster");
                    dump.waiting
                        .extend(waiting.iter().map(|cluster| name(cluster).to_owned()));
                }
                "ListenersConfigDump" => {
                    dump.listeners.extend(lists(&["staticListeners"], "listener"));
                    for state in ["activeState", "warmingState"] {
                        let states = lists(&["dynamicListeners"], state);
                        dump.listeners.extend(
                            states
                                .iter()
                                .filter_map(|state| field(state, "listener"))
                                .map(canonical),
                        );
                    }
                }
                "RoutesConfigDump" => {
                    dump.routes
                        .extend(lists(&["staticRouteConfigs", "dynamicRouteConfigs"], "routeConfig"));
                }
                "EndpointsConfigDump" => {
                    dump.endpoints.extend(lists(
                        &["staticEndpointConfigs", "dynamicEndpointConfigs"],
                        "endpointConfig",
                    ));
                }
                "SecretsConfigDump" => {
                    let states = [
                        ("staticSecrets", "ACTIVE"),
                        ("dynamicActiveSecrets", "ACTIVE"),
                        ("dynamicWarmingSecrets", "WARMING"),
                    ];
                    for (key, state) in states {
                        let entries = field(config, key).and_then(Value::as_array).into_iter().flatten();
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

    /// Sorts as `istioctl` does: clusters by service, subset and port, listeners by port and address, tables by name,
    /// numbers first.
    pub(super) fn sort(&mut self) {
        let by_service = |resource: &Value| {
            let (service, port, subset, direction) = parts(name(resource));
            let port: u32 = port.parse().unwrap_or_default();
            (service.to_owned(), subset.to_owned(), port, direction.to_owned())
        };
        self.clusters.sort_by_cached_key(by_service);
        self.endpoints.sort_by_cached_key(by_service);
        self.listeners.sort_by_cached_key(|listener| {
            let address = listener_address(listener).to_owned();
            (listener_port(listener), address, name(listener).to_owned())
        });
        self.routes.sort_by_cached_key(|table| {
            let number = name(table).parse::<u16>().ok();
            (number.is_none(), number, name(table).to_owned())
        });
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

/// A resource in proto-JSON: Envoy writes the names of the .proto files. As it is, where it has parts that are unknown here.
fn canonical(resource: &Value) -> Value {
    let Some(url) = resource["@type"].as_str() else {
        return resource.clone();
    };
    let mut body = resource.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("@type");
    }
    let kind = url.rsplit('/').next().unwrap_or_default();
    lateen_proto::any_from_json(kind, &body)
        .and_then(|any| lateen_proto::any_to_json(&any))
        .unwrap_or_else(|_| resource.clone())
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
pub(crate) fn name(resource: &Value) -> &str {
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
