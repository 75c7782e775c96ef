//! From what a proxy would get over ADS to a configuration that Envoy reads without any server.
//!
//! Nothing of a resource changes but where the rest of it comes from: endpoints stand in their cluster, route tables in
//! their listener, secrets among the static ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Key material that takes the place of every secret.
pub(crate) struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    /// A certificate signed by itself.
    pub(crate) fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["proxy.test".to_owned()]).unwrap();
        Self {
            certificate: certified.cert.pem(),
            key: certified.signing_key.serialize_pem(),
        }
    }
}

/// A static bootstrap of all that is rendered for a proxy.
pub(crate) fn of_proxy(directory: &Path, proxy: &str, identity: &Identity) -> Value {
    let resources = |kind: &str| -> BTreeMap<String, Value> {
        let Ok(text) = fs::read(directory.join(format!("{proxy}.{kind}.json"))) else {
            return BTreeMap::new();
        };
        let resources: Vec<Value> = serde_json::from_slice(&text).unwrap();
        let name = |resource: &Value| {
            let name = resource["name"].as_str().or(resource["clusterName"].as_str());
            name.expect("every resource has a name").to_owned()
        };
        resources
            .into_iter()
            .map(|mut resource| {
                resource
                    .as_object_mut()
                    .expect("a resource is an object")
                    .remove("@type");
                (name(&resource), resource)
            })
            .collect()
    };
    let (endpoints, tables, extensions) = (resources("endpoints"), resources("routes"), resources("extensions"));
    let mut parts = Parts {
        tables: &tables,
        extensions: &extensions,
        secrets: BTreeMap::new(),
        identity,
    };
    let clusters: Vec<Value> = resources("clusters")
        .into_values()
        .map(|mut cluster| {
            inline_endpoints(&mut cluster, &endpoints);
            parts.inline(&mut cluster);
            cluster
        })
        .collect();
    let listeners: Vec<Value> = resources("listeners")
        .into_values()
        .map(|mut listener| {
            parts.inline(&mut listener);
            listener
        })
        .collect();
    json!({
        "node": {"id": "validation", "cluster": "validation"},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }],
        "static_resources": {
            "clusters": clusters,
            "listeners": listeners,
            "secrets": parts.secrets.into_values().collect::<Vec<_>>(),
        },
    })
}

fn inline_endpoints(cluster: &mut Value, endpoints: &BTreeMap<String, Value>) {
    if cluster["type"] != "EDS" {
        return;
    }
    let name = cluster["edsClusterConfig"]["serviceName"]
        .as_str()
        .filter(|name| !name.is_empty());
    let name = name
        .or(cluster["name"].as_str())
        .expect("an EDS cluster has a name")
        .to_owned();
    let assignment = endpoints
        .get(&name)
        .cloned()
        .unwrap_or_else(|| json!({"clusterName": name}));
    let cluster = cluster.as_object_mut().expect("a cluster is an object");
    cluster.insert("type".to_owned(), json!("STATIC"));
    cluster.remove("edsClusterConfig");
    cluster.insert("loadAssignment".to_owned(), assignment);
}

/// What resources refer to, and what has been found of it.
struct Parts<'a> {
    tables: &'a BTreeMap<String, Value>,
    extensions: &'a BTreeMap<String, Value>,
    secrets: BTreeMap<String, Value>,
    identity: &'a Identity,
}

impl Parts<'_> {
    fn inline(&mut self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                if let Some(rds) = object.remove("rds") {
                    let name = rds["routeConfigName"].as_str().expect("rds has a name");
                    let mut table = self
                        .tables
                        .get(name)
                        .unwrap_or_else(|| panic!("no route table `{name}`"))
                        .clone();
                    // Over RDS Envoy does not ask for the clusters to be there: they may come later.
                    table["validateClusters"] = json!(false);
                    object.insert("routeConfig".to_owned(), table);
                }
                if object.remove("configDiscovery").is_some() {
                    let name = object["name"].as_str().expect("a filter has a name");
                    let extension = self
                        .extensions
                        .get(name)
                        .unwrap_or_else(|| panic!("no extension `{name}`"));
                    object.insert("typedConfig".to_owned(), extension["typedConfig"].clone());
                }
                self.secrets_of(object);
                object.values_mut().for_each(|value| self.inline(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.inline(item)),
            _ => {}
        }
    }

    /// A secret that is named without a source is a static one.
    fn secrets_of(&mut self, object: &mut Map<String, Value>) {
        let text = |text: &str| json!({"inline_string": text});
        for (key, secret) in object.iter_mut() {
            let named: Vec<&mut Value> = match (key.as_str(), secret) {
                ("tlsCertificateSdsSecretConfigs", Value::Array(items)) => items.iter_mut().collect(),
                ("validationContextSdsSecretConfig", secret) => vec![secret],
                _ => continue,
            };
            for reference in named {
                let reference = reference.as_object_mut().expect("a reference to a secret is an object");
                reference.remove("sdsConfig");
                let name = reference["name"].as_str().expect("a secret has a name").to_owned();
                let secret = if key == "validationContextSdsSecretConfig" {
                    json!({"name": name, "validation_context": {"trusted_ca": text(&self.identity.certificate)}})
                } else {
                    json!({"name": name, "tls_certificate": {
                        "certificate_chain": text(&self.identity.certificate),
                        "private_key": text(&self.identity.key),
                    }})
                };
                self.secrets.insert(name, secret);
            }
        }
    }
}
