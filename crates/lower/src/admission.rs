//! What an API server and Istio's webhook would say to an object: may it be stored?
//!
//! Three kinds of rules: fields that the kind does not have, the schema of the kind's CustomResourceDefinition (all but
//! its CEL rules), and what `lateen-validate` knows of the kind. Core objects are taken as they are.

mod schema;

use std::collections::BTreeMap;

use lateen_validate::Subject;
pub use lateen_validate::{Finding, Level};
use serde_json::Value;

use crate::object::{Kind, Object, Scope};

/// Code of findings that come from a kind's schema.
pub const SCHEMA: &str = "LTN0002";

/// The schemas of all kinds; made once, since making them takes some time.
#[derive(Debug, Clone)]
pub struct Admission {
    schemas: BTreeMap<(Kind, String), Value>,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl Admission {
    /// Generates the schemas.
    pub fn new() -> Self {
        let mut schemas = BTreeMap::new();
        for info in lateen_api::KINDS {
            let Some(kind) = Kind::find(info.group, info.kind) else {
                continue;
            };
            let definition = lateen_api::crd::crd(info);
            let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
            for version in versions.into_iter().flatten() {
                let name = version.get("name").and_then(Value::as_str).unwrap_or_default();
                if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
                    schemas.insert((kind, name.to_owned()), schema.clone());
                }
            }
        }
        Self { schemas }
    }

    /// Whether objects of this kind are judged: custom resources are, core objects are taken as they are.
    pub fn judges(kind: Kind) -> bool {
        lateen_api::KINDS
            .iter()
            .any(|info| info.group == kind.group() && info.kind == kind.name())
            || kind.group() == lateen_api::gateway_api::GROUP
    }

    /// Whether a finding comes from the kind's schema, which an API server checks, or from Istio's webhook.
    pub fn is_schema(finding: &Finding) -> bool {
        finding.code == SCHEMA
    }

    /// Everything that is wrong with an object: as it was given, as it was read, and the fields that found no place.
    pub fn check(&self, raw: &Value, object: &Object, unknown: &[String]) -> Vec<Finding> {
        let kind = object.kind();
        let custom = Self::judges(kind);
        let mut findings: Vec<Finding> = Vec::new();
        for field in unknown.iter().filter(|field| !field.starts_with("status")) {
            findings.push(Finding {
                level: if custom { Level::Error } else { Level::Warning },
                field: field.clone(),
                code: SCHEMA,
                message: format!("{kind} has no such field; correct its name, or remove it"),
            });
        }
        if kind.scope() == Scope::Namespaced
            && raw
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
        {
            findings.push(error("metadata.name", "an object needs a name".to_owned()));
        }
        let api_version = raw.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if let Some(schema) = self.schemas.get(&(kind, version.to_owned())) {
            schema::check(schema, raw, &mut findings);
        } else if self.schemas.keys().any(|(known, _)| *known == kind) {
            let served = self
                .schemas
                .keys()
                .filter(|(known, _)| *known == kind)
                .map(|(_, version)| version.as_str());
            let served = served.collect::<Vec<_>>().join(", ");
            findings.push(error(
                "apiVersion",
                format!("{kind} is not served in version `{version}`, but in {served}"),
            ));
        }
        let told = semantic(object)
            .into_iter()
            .filter(|finding| finding.level != Level::Advice);
        findings.extend(told);
        findings
    }
}

fn error(field: &str, message: String) -> Finding {
    Finding {
        level: Level::Error,
        field: field.to_owned(),
        code: SCHEMA,
        message,
    }
}

/// What validation knows of the kind.
fn semantic(object: &Object) -> Vec<Finding> {
    let subject = Subject::new(object.metadata());
    match object {
        Object::VirtualService(object) => lateen_validate::virtual_service::check(&object.spec, &subject),
        Object::DestinationRule(object) => lateen_validate::destination_rule::check(&object.spec, &subject),
        Object::Gateway(object) => lateen_validate::gateway::check(&object.spec, &subject),
        Object::Sidecar(object) => lateen_validate::sidecar::check(&object.spec, &subject),
        Object::EnvoyFilter(object) => lateen_validate::envoy_filter::check(&object.spec, &subject),
        Object::PeerAuthentication(object) => lateen_validate::peer_authentication::check(&object.spec, &subject),
        Object::RequestAuthentication(object) => lateen_validate::request_authentication::check(&object.spec, &subject),
        Object::AuthorizationPolicy(object) => lateen_validate::authorization_policy::check(&object.spec, &subject),
        Object::Telemetry(object) => lateen_validate::telemetry::check(&object.spec, &subject),
        Object::TrafficExtension(object) => lateen_validate::extension::check(&object.spec, &subject),
        Object::WasmPlugin(object) => lateen_validate::extension::check_plugin(&object.spec, &subject),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Vec<String> {
        let raw = crate::yaml::parse(yaml).unwrap();
        let group = raw["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .map_or("", |(group, _)| group);
        let kind = Kind::find(group, raw["kind"].as_str().unwrap()).unwrap();
        let decoded = Object::decode(kind, &raw).unwrap();
        let findings = Admission::new().check(&raw, &decoded.value, &decoded.unknown);
        findings
            .iter()
            .filter(|finding| finding.level == Level::Error)
            .map(|finding| finding.field.clone())
            .collect()
    }

    const SERVICE_ENTRY: &str =
        "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, spec: SPEC}";

    #[test]
    fn a_good_object_is_let_in() {
        let spec = "{hosts: [a.b], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}";
        assert!(check(&SERVICE_ENTRY.replace("SPEC", spec)).is_empty());
    }

    #[test]
    fn unknown_fields_and_broken_schemas_are_named() {
        assert_eq!(
            check(&SERVICE_ENTRY.replace("SPEC", "{hosts: [a.b], port: []}")),
            ["spec.port"]
        );
        assert_eq!(
            check(&SERVICE_ENTRY.replace("SPEC", "{resolution: DNS}")),
            ["spec.hosts"]
        );
        assert_eq!(
            check(&SERVICE_ENTRY.replace("SPEC", "{hosts: [a.b], ports: [{number: 80}]}")),
            ["spec.ports[0].name"]
        );
        assert_eq!(
            check(
                "{apiVersion: networking.istio.io/v9, kind: Sidecar, metadata: {name: a}, spec: {egress: [{hosts: [./*]}]}}"
            ),
            ["apiVersion"]
        );
    }
}
