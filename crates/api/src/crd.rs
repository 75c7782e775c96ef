//! The CustomResourceDefinitions, generated from the types.
//!
//! Every served version has the same schema, as in Istio, so no conversion is needed. The names, versions, scope,
//! columns and constraints are those of the definitions that users' clusters already have: either set can be applied
//! over the other, and objects stay valid.

mod check;

use serde_json::{Map, Value, json};

use crate::kinds::{Column, KINDS, KindInfo, Scope};
use crate::schema::structural;
use crate::status::IstioStatus;

pub use self::check::{ObjectSchema, Violation, ViolationKind};

/// The definition of one kind, ready to be written as YAML or applied.
pub fn crd(info: &KindInfo) -> Value {
    let versions: Vec<Value> = info
        .versions
        .iter()
        .map(|version| self::version(info, version))
        .collect();
    let mut names = json!({
        "categories": info.categories,
        "kind": info.kind,
        "listKind": format!("{}List", info.kind),
        "plural": info.plural,
        "singular": info.singular(),
    });
    if !info.short_names.is_empty() {
        names["shortNames"] = json!(info.short_names);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": info.crd_name(),
            // Deleting a definition deletes every object of it, which no uninstallation should do by itself.
            "annotations": { "helm.sh/resource-policy": "keep" },
            "labels": { "app": "istio-pilot", "istio": info.group.split('.').next() },
        },
        "spec": {
            "group": info.group,
            "names": names,
            "scope": match info.scope {
                Scope::Namespaced => "Namespaced",
                Scope::Cluster => "Cluster",
            },
            "versions": versions,
        },
    })
}

/// The name of the file in which the definition of a kind is kept, such as `networking.istio.io_gateways.yaml`.
pub fn file_name(info: &KindInfo) -> String {
    format!("{}_{}.yaml", info.group, info.plural)
}

/// The definitions of all kinds, in the order of [`KINDS`].
pub fn all() -> Vec<Value> {
    KINDS.iter().map(crd).collect()
}

fn version(info: &KindInfo, version: &str) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(version));
    object.insert("served".to_owned(), json!(true));
    object.insert("storage".to_owned(), json!(version == info.storage_version));
    if !info.columns.is_empty() {
        object.insert(
            "additionalPrinterColumns".to_owned(),
            info.columns.iter().map(column).collect(),
        );
    }
    object.insert("subresources".to_owned(), json!({ "status": {} }));
    object.insert("schema".to_owned(), json!({ "openAPIV3Schema": object_schema(info) }));
    Value::Object(object)
}

fn column(column: &Column) -> Value {
    json!({ "name": column.name, "jsonPath": column.json_path, "type": column.r#type })
}

fn object_schema(info: &KindInfo) -> Value {
    let mut status = structural::<IstioStatus>();
    // Controllers of other projects write conditions with fields of their own.
    status["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let mut root = json!({
        "type": "object",
        "properties": { "spec": (info.schema)(), "status": status },
    });
    if info.spec_required {
        root["required"] = json!(["spec"]);
    }
    root
}
