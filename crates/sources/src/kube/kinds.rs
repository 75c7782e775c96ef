//! What is watched, and what one must be allowed for that.

use std::collections::BTreeMap;

use kube::api::{ApiResource, GroupVersionKind};
use lateen_api::{KindInfo, gateway_api};
use lateen_lower::Kind;
use serde::Serialize;

/// Versions of an API, the best first.
const PREFERENCE: &[&str] = &["v1", "v1beta1", "v1alpha3", "v1alpha2", "v1alpha1"];

/// Secrets that hold neither a certificate nor what a registry of images asks for are not even asked for.
const SECRETS: &str = "type!=kubernetes.io/service-account-token,type!=helm.sh/release.v1,\
    type!=kubernetes.io/dockercfg,type!=bootstrap.kubernetes.io/token,\
    type!=kubernetes.io/basic-auth,type!=kubernetes.io/ssh-auth";

/// Group and resource of the definitions of custom resources.
pub(super) const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// A kind that is watched.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub kind: Kind,
    /// Plural in lower case, as in URLs.
    pub plural: &'static str,
    /// The versions that can be read, the best first.
    pub versions: Vec<&'static str>,
    /// Whether every API server has it; others have it by a definition.
    pub built_in: bool,
    /// A selector of fields.
    pub fields: Option<&'static str>,
}

impl Watched {
    /// The name of its definition.
    pub(super) fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.kind.group())
    }

    /// Where it is served in a version.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.kind.group(), version, self.kind.name());
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }
}

/// Everything that is watched: all kinds that the index takes in.
pub(super) fn watched() -> Vec<Watched> {
    Kind::ALL.iter().filter_map(|kind| of(*kind)).collect()
}

fn of(kind: Kind) -> Option<Watched> {
    let (plural, fields) = match kind {
        Kind::Namespace => ("namespaces", None),
        Kind::Node => ("nodes", None),
        Kind::Service => ("services", None),
        Kind::EndpointSlice => ("endpointslices", None),
        Kind::Pod => ("pods", None),
        Kind::Secret => ("secrets", Some(SECRETS)),
        Kind::ConfigMap => ("configmaps", None),
        Kind::Ingress => ("ingresses", None),
        Kind::IngressClass => ("ingressclasses", None),
        // The index has no use for them.
        Kind::ServiceAccount => return None,
        _ => return Some(custom(kind)),
    };
    Some(Watched {
        kind,
        plural,
        versions: vec!["v1"],
        built_in: true,
        fields,
    })
}

fn custom(kind: Kind) -> Watched {
    let is = |info: &&KindInfo| info.group == kind.group() && info.kind == kind.name();
    let (plural, known): (&'static str, &'static [&'static str]) = match lateen_api::KINDS.iter().find(is) {
        Some(info) => (info.plural, info.versions),
        None => gateway(kind),
    };
    Watched {
        kind,
        plural,
        versions: PREFERENCE
            .iter()
            .copied()
            .filter(|version| known.contains(version))
            .collect(),
        built_in: false,
        fields: None,
    }
}

/// Kinds of Gateway API, with the versions that one type reads.
fn gateway(kind: Kind) -> (&'static str, &'static [&'static str]) {
    debug_assert_eq!(kind.group(), gateway_api::GROUP);
    let served = gateway_api::KINDS.iter().find(|served| served.kind == kind.name());
    // A kind that is missing there is never served; a test sees to it that none is.
    served.map_or(("", &[]), |served| (served.plural, served.versions))
}

/// What one must be allowed in the whole cluster: a rule of a ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// API groups; the empty one is the core's.
    pub api_groups: Vec<&'static str>,
    /// Resources, in plural.
    pub resources: Vec<&'static str>,
    /// What is done with them.
    pub verbs: Vec<&'static str>,
}

/// All that reading a cluster needs, and no more, a rule for each group.
pub fn rules() -> Vec<Rule> {
    let mut groups: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
    for watched in watched() {
        groups.entry(watched.kind.group()).or_default().push(watched.plural);
    }
    let rule = |(group, mut resources): (&'static str, Vec<&'static str>)| {
        resources.sort_unstable();
        Rule {
            api_groups: vec![group],
            resources,
            verbs: vec!["list", "watch"],
        }
    };
    let mut rules: Vec<Rule> = groups.into_iter().map(rule).collect();
    rules.push(Rule {
        api_groups: vec![DEFINITIONS.0],
        resources: vec![DEFINITIONS.1],
        verbs: vec!["get", "list", "watch"],
    });
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_the_index_takes_is_watched_in_some_version() {
        let all = watched();
        assert_eq!(all.len(), Kind::ALL.len() - 1);
        for watched in all {
            assert!(!watched.plural.is_empty(), "{}", watched.kind);
            assert!(!watched.versions.is_empty(), "{}", watched.kind);
        }
    }

    #[test]
    fn the_best_version_comes_first() {
        let versions = |kind| of(kind).unwrap().versions;
        assert_eq!(versions(Kind::VirtualService), ["v1", "v1beta1", "v1alpha3"]);
        assert_eq!(versions(Kind::Telemetry), ["v1", "v1alpha1"]);
        assert_eq!(versions(Kind::TlsRoute), ["v1", "v1alpha3", "v1alpha2"]);
        assert_eq!(versions(Kind::Pod), ["v1"]);
    }

    #[test]
    fn a_rule_names_one_group_and_never_all() {
        let rules = rules();
        assert!(rules.iter().any(|rule| rule.api_groups == [""]));
        for rule in &rules {
            assert_eq!(rule.api_groups.len(), 1);
            let texts = rule.resources.iter().chain(&rule.verbs).chain(&rule.api_groups);
            assert!(texts.into_iter().all(|text| !text.contains('*')), "{rule:?}");
            assert!(rule.verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)));
        }
        let service_accounts = rules.iter().any(|rule| rule.resources.contains(&"serviceaccounts"));
        assert!(!service_accounts, "nobody reads them");
    }
}
