//! From what is compiled to files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lateen_compile::{Family, Resource};
use lateen_model::{Diagnostic, Proxy, Snapshot};
use lateen_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use lateen_proto::{Any, any_to_json};
use prost::Message as _;
use serde::Serialize as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Kinds of files, by the end of the type URL whose resources they hold.
const KINDS: &[(&str, &str)] = &[
    ("envoy.config.cluster.v3.Cluster", "clusters"),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", "endpoints"),
    ("envoy.config.listener.v3.Listener", "listeners"),
    ("envoy.config.route.v3.RouteConfiguration", "routes"),
    ("envoy.config.core.v3.TypedExtensionConfig", "extensions"),
    ("istio.networking.nds.v1.NameTable", "nametable"),
];

/// Files that are written though there is nothing in them: every proxy asks for these.
const ALWAYS: &[&str] = &["clusters", "endpoints", "listeners", "routes"];

/// What one proxy would get.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// `<pod>.<namespace>`.
    pub proxy: String,
    /// Resources by the name of their file (`clusters`, `secrets-names`, …), sorted by their own names.
    pub resources: BTreeMap<&'static str, Vec<Value>>,
    /// Findings of compiling.
    pub diagnostics: Vec<Diagnostic>,
}

impl Rendered {
    /// Writes `<pod>.<namespace>.<kind>.json` files into a directory.
    ///
    /// # Errors
    /// When a file cannot be written; the error names it.
    pub fn write(&self, directory: &Path) -> Result<()> {
        for (kind, resources) in &self.resources {
            let path = directory.join(format!("{}.{kind}.json", self.proxy));
            write_json(&path, Value::Array(resources.clone()))?;
        }
        Ok(())
    }
}

/// Compiles what a proxy would get, and keeps what it would ask for.
///
/// # Errors
/// When a resource has no JSON form.
pub fn render(snapshot: &Snapshot, proxy: &Proxy) -> Result<Rendered> {
    let mut by_kind: BTreeMap<&'static str, BTreeMap<String, Value>> =
        ALWAYS.iter().map(|kind| (*kind, BTreeMap::new())).collect();
    let mut secrets: BTreeMap<String, Secret> = BTreeMap::new();
    let mut diagnostics = Vec::new();
    for (family, built) in lateen_compile::compile_alone(snapshot, proxy) {
        diagnostics.extend(built.diagnostics.iter().cloned());
        let Some(resource) = &built.resource else { continue };
        let url = family.type_url();
        let name = url.rsplit('/').next().unwrap_or_default();
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
            // Of several resources with one name the first counts, as for the server.
            if let std::collections::btree_map::Entry::Vacant(free) =
                by_kind.entry(kind).or_default().entry(resource.name.to_string())
            {
                free.insert(json_of(url, resource)?);
            }
        } else if let Ok(secret) = Secret::decode(resource.bytes.clone()) {
            secrets.entry(resource.name.to_string()).or_insert(secret);
        }
    }
    let empty = BTreeMap::new();
    let (clusters, listeners) = (
        by_kind.get("clusters").unwrap_or(&empty),
        by_kind.get("listeners").unwrap_or(&empty),
    );
    let (tables, sets, wanted) = (
        route_tables(listeners),
        endpoint_sets(clusters),
        secret_names([clusters, listeners]),
    );
    let keep =
        |kind: &str, wanted: &BTreeSet<String>, by_kind: &mut BTreeMap<&'static str, BTreeMap<String, Value>>| {
            if let Some(resources) = by_kind.get_mut(kind) {
                resources.retain(|name, _| wanted.contains(name));
            }
        };
    let extensions = extension_names(listeners);
    keep("extensions", &extensions, &mut by_kind);
    by_kind.retain(|kind, resources| ALWAYS.contains(kind) || !resources.is_empty());
    keep("routes", &tables, &mut by_kind);
    keep("endpoints", &sets, &mut by_kind);
    let mut resources: BTreeMap<&'static str, Vec<Value>> = by_kind
        .into_iter()
        .map(|(kind, resources)| (kind, resources.into_values().collect()))
        .collect();
    resources.insert(
        "secrets-names",
        wanted.iter().map(|name| secret_row(name, secrets.get(name))).collect(),
    );
    diagnostics.sort();
    diagnostics.dedup();
    Ok(Rendered {
        proxy: format!("{}.{}", proxy.name, proxy.namespace),
        resources,
        diagnostics,
    })
}

fn json_of(url: &str, resource: &Resource) -> Result<Value> {
    let any = Any {
        type_url: url.to_owned(),
        value: match url == Family::Extensions.type_url() {
            true => lateen_compile::extension::public(&resource.bytes),
            false => resource.bytes.to_vec(),
        },
    };
    any_to_json(&any).with_context(|| format!("{} cannot be written as JSON", resource.name))
}

/// The names of route tables that listeners ask for.
fn route_tables(listeners: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for listener in listeners.values() {
        walk(listener, &mut |object| {
            if let Some(name) = object
                .get("rds")
                .and_then(|rds| rds.get("routeConfigName"))
                .and_then(Value::as_str)
            {
                names.insert(name.to_owned());
            }
        });
    }
    names
}

/// The names by which filters ask for their configuration.
fn extension_names(listeners: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for listener in listeners.values() {
        walk(listener, &mut |object| {
            if let (Some(name), true) = (
                object.get("name").and_then(Value::as_str),
                object.contains_key("configDiscovery"),
            ) {
                names.insert(name.to_owned());
            }
        });
    }
    names
}

/// The names by which clusters ask for their endpoints.
fn endpoint_sets(clusters: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let eds = clusters.values().filter(|cluster| cluster["type"] == "EDS");
    let name = |cluster: &Value| match cluster["edsClusterConfig"]["serviceName"].as_str() {
        Some(name) if !name.is_empty() => Some(name.to_owned()),
        _ => cluster["name"].as_str().map(str::to_owned),
    };
    eds.filter_map(name).collect()
}

/// The names of secrets that are asked for over SDS.
fn secret_names(all: [&BTreeMap<String, Value>; 2]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for resource in all.into_iter().flat_map(BTreeMap::values) {
        walk(resource, &mut |object| {
            if let (Some(name), true) = (
                object.get("name").and_then(Value::as_str),
                object.contains_key("sdsConfig"),
            ) {
                names.insert(name.to_owned());
            }
        });
    }
    names
}

fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|value| walk(value, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}

/// What can be told of a secret: that it is served, and the hash of its public part.
fn secret_row(name: &str, secret: Option<&Secret>) -> Value {
    // The agent itself answers for the workload's identity and for mounted files.
    let by_agent = matches!(name, "default" | "ROOTCA") || name.starts_with("file-");
    if by_agent {
        return json!({"name": name, "source": "agent"});
    }
    let public = secret.and_then(|secret| match secret.r#type.as_ref()? {
        secret::Type::TlsCertificate(certificate) => Some(("tlsCertificate", certificate.certificate_chain.as_ref()?)),
        secret::Type::ValidationContext(context) => Some(("validationContext", context.trusted_ca.as_ref()?)),
        _ => None,
    });
    match public.and_then(|(kind, source)| Some((kind, content(source)?))) {
        Some((kind, bytes)) => {
            let hash = Sha256::digest(bytes).iter().fold(String::new(), |mut hash, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hash, "{byte:02x}");
                hash
            });
            json!({"name": name, "source": "istiod", "served": true, "kind": kind, "sha256": hash})
        }
        None => json!({"name": name, "source": "istiod", "served": false}),
    }
}

fn content(source: &DataSource) -> Option<&[u8]> {
    match source.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => Some(bytes),
        Specifier::InlineString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// Writes JSON with sorted keys, indented by one space.
///
/// # Errors
/// When the file cannot be written; the error names it.
pub fn write_json(path: &Path, mut value: Value) -> Result<()> {
    value.sort_all_objects();
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
