//! What is in an image, as an SPDX 2.3 document: the crates that the program is made of, Envoy, and the packages of the
//! machine whose files the image carries.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layer::hex;
use super::machine::Package;
use crate::tools::ENVOY_VERSION;
use crate::workspace;

/// Something that an image holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Component {
    name: String,
    version: String,
    license: Option<String>,
    /// Package URL.
    purl: String,
}

/// The crates of the workspace's program `package` for `target`, build-time ones left out.
///
/// # Errors
/// When cargo cannot say.
pub(super) fn crates(package: &str, target: &str) -> Result<Vec<Component>> {
    let output = workspace::cargo()
        .args(["metadata", "--format-version", "1", "--filter-platform", target])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    reached(&metadata, package)
}

fn reached(metadata: &Value, package: &str) -> Result<Vec<Component>> {
    let packages: BTreeMap<&str, &Value> = by_id(&metadata["packages"]);
    let nodes: BTreeMap<&str, &Value> = by_id(&metadata["resolve"]["nodes"]);
    let root = packages
        .iter()
        .find(|(_, value)| value["name"] == package && value["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("the workspace has no package {package}"))?;
    let mut seen = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        for dependency in nodes
            .get(id)
            .and_then(|node| node["deps"].as_array())
            .into_iter()
            .flatten()
        {
            let linked = dependency["dep_kinds"]
                .as_array()
                .is_none_or(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()));
            if linked
                && let Some(id) = dependency["pkg"].as_str()
                && seen.insert(id)
            {
                open.push(id);
            }
        }
    }
    let mut found: Vec<Component> = seen
        .into_iter()
        .filter_map(|id| packages.get(id))
        .map(|package| {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let (name, version) = (text("name"), text("version"));
            Component {
                purl: format!("pkg:cargo/{name}@{version}"),
                license: package["license"].as_str().map(|license| license.replace('/', " OR ")),
                name,
                version,
            }
        })
        .collect();
    found.sort();
    Ok(found)
}

fn by_id(values: &Value) -> BTreeMap<&str, &Value> {
    let values = values.as_array().into_iter().flatten();
    values
        .filter_map(|value| Some((value["id"].as_str()?, value)))
        .collect()
}

/// The pinned Envoy.
pub(super) fn envoy() -> Component {
    Component {
        name: "envoy".to_owned(),
        version: ENVOY_VERSION.to_owned(),
        license: Some("Apache-2.0".to_owned()),
        purl: format!("pkg:github/envoyproxy/envoy@v{ENVOY_VERSION}"),
    }
}

/// A Debian package.
pub(super) fn debian((name, version): Package) -> Component {
    Component {
        purl: format!("pkg:deb/debian/{name}@{version}"),
        license: None,
        name,
        version,
    }
}

/// The document for the image `name`. Equal components make equal bytes.
pub(super) fn document(name: &str, version: &str, components: &[Component]) -> String {
    let packages: Vec<Value> = components
        .iter()
        .enumerate()
        .map(|(number, component)| package(number, component))
        .collect();
    let relationships: Vec<Value> = (0..components.len())
        .map(|number| json!({"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": id(number)}))
        .collect();
    let content = hex(&Sha256::digest(json!(packages).to_string().as_bytes()));
    let image = json!({
        "SPDXID": "SPDXRef-image",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    });
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{name}-{version}"),
        "documentNamespace": format!("https://lateen.dev/spdx/{name}-{version}-{content}"),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo xtask images"]},
        "documentDescribes": ["SPDXRef-image"],
        "packages": std::iter::once(image).chain(packages).collect::<Vec<_>>(),
        "relationships": std::iter::once(
            json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image"})
        ).chain(relationships).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn package(number: usize, component: &Component) -> Value {
    json!({
        "SPDXID": id(number),
        "name": component.name,
        "versionInfo": component.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": component.license.as_deref().unwrap_or("NOASSERTION"),
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": component.purl,
        }],
    })
}

fn id(number: usize) -> String {
    format!("SPDXRef-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Value {
        let package = |name: &str, source: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let registry = json!("registry");
        let dependency = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [
                package("app", Value::Null),
                package("lib", registry.clone()),
                package("deep", registry.clone()),
                package("generator", registry.clone()),
                package("tester", registry),
            ],
            "resolve": {"nodes": [
                {"id": "app", "deps": [
                    dependency("lib", Value::Null),
                    dependency("generator", json!("build")),
                    dependency("tester", json!("dev")),
                ]},
                {"id": "lib", "deps": [dependency("deep", Value::Null)]},
                {"id": "generator", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let found = reached(&metadata(), "app").unwrap();
        let names: Vec<_> = found.iter().map(|component| component.name.as_str()).collect();
        assert_eq!(names, ["app", "deep", "lib"]);
        assert_eq!(found[0].license.as_deref(), Some("MIT OR Apache-2.0"));
        assert!(reached(&metadata(), "absent").is_err());
    }

    #[test]
    fn a_document_contains_every_component_by_an_identifier_of_its_own() {
        let components = [envoy(), debian(("libc6".to_owned(), "2.36".to_owned()))];
        let text = document("proxy", "0.1.0", &components);
        assert_eq!(text, document("proxy", "0.1.0", &components));
        let document: Value = serde_json::from_str(&text).unwrap();
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 3);
        let related: BTreeSet<&str> = document["relationships"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|relationship| relationship["relatedSpdxElement"].as_str())
            .collect();
        assert!(
            packages
                .iter()
                .all(|package| related.contains(package["SPDXID"].as_str().unwrap()))
        );
        assert_eq!(packages[1]["versionInfo"], ENVOY_VERSION);
    }
}
