//! The filters of AuthorizationPolicies.

use std::collections::BTreeMap;

use lateen_model::mesh::Mesh;
use lateen_model::policy::{AuthorizationPolicy, AuthzAction};
use lateen_proto::envoy::config::listener::v3::Filter;
use lateen_proto::envoy::config::rbac::v3::{Rbac, rbac::Action};
use lateen_proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use lateen_proto::envoy::extensions::filters::network::rbac::v3::Rbac as TcpRbac;

use super::PolicyInput;
use super::authorizer::{self, Authorizer};
use super::identity::TrustDomains;
use super::rules::{Build, never};
use crate::listener::chain::filter;
use crate::listener::hcm::http_filter;

/// The HTTP filter of rules.
pub(super) const HTTP: &str = "envoy.filters.http.rbac";
/// The network filter of rules.
pub(super) const TCP: &str = "envoy.filters.network.rbac";
/// What names of policies begin with that an external authorizer decides on.
pub(super) const CUSTOM: &str = "istio-ext-authz";
/// What the metadata begin with that tell of such policies.
pub(super) const CUSTOM_METADATA: &str = "istio_ext_authz_";
/// Statistics of network filters.
pub(super) const TCP_STATS: &str = "tcp.";

/// Rules in force and rules on trial, of one action.
#[derive(Default)]
struct Sets {
    enforced: Option<Rbac>,
    trial: Option<Rbac>,
}

/// Builds policies of one action; `prefix` begins the names of their rules.
fn sets<'a>(
    policies: impl Iterator<Item = &'a AuthorizationPolicy>,
    action: Action,
    prefix: &str,
    tcp: bool,
    mesh: &Mesh,
) -> Sets {
    let domains = TrustDomains::of(mesh);
    let mut sets = Sets::default();
    for policy in policies {
        let set = if policy.dry_run {
            &mut sets.trial
        } else {
            &mut sets.enforced
        };
        let set = set.get_or_insert_with(|| Rbac {
            action: action.into(),
            ..Default::default()
        });
        let (namespace, own) = (policy.scope.namespace.as_str(), &policy.scope.origin.key.name);
        let name = |index: usize| format!("{prefix}ns[{namespace}]-policy[{own}]-rule[{index}]");
        let build = Build {
            tcp,
            allows: action == Action::Allow,
            domains: &domains,
            namespace,
        };
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Ok(built) = build.policy(rule) {
                set.policies.insert(name(index), built);
            }
        }
        if policy.rules.is_empty() {
            set.policies.insert(name(0), never());
        }
    }
    sets
}

/// Each action that has policies: noted, refused, allowed.
fn local(input: &PolicyInput, mesh: &Mesh, tcp: bool) -> Vec<Sets> {
    let actions = [
        (AuthzAction::Audit, Action::Log),
        (AuthzAction::Deny, Action::Deny),
        (AuthzAction::Allow, Action::Allow),
    ];
    actions
        .into_iter()
        .map(|(wanted, action)| {
            let policies = input.authorization.iter().map(|policy| &**policy);
            sets(policies.filter(|policy| policy.action == wanted), action, "", tcp, mesh)
        })
        .filter(|sets| sets.enforced.is_some() || sets.trial.is_some())
        .collect()
}

/// What statistics and metadata of rules on trial begin with. Without any it is that of ALLOW, as Istio has it.
fn trial_prefix(trial: Option<&Rbac>) -> String {
    match trial.map_or(Action::Allow, Rbac::action) {
        Action::Allow => "istio_dry_run_allow_".to_owned(),
        Action::Deny => "istio_dry_run_deny_".to_owned(),
        Action::Log => String::new(),
    }
}

/// HTTP filters of rules that the proxy itself decides on.
pub(super) fn local_http(input: &PolicyInput, mesh: &Mesh) -> Vec<HttpFilter> {
    let one = |sets: Sets| {
        let config = HttpRbac {
            shadow_rules_stat_prefix: trial_prefix(sets.trial.as_ref()),
            rules: sets.enforced,
            shadow_rules: sets.trial,
            ..Default::default()
        };
        http_filter(HTTP, &config)
    };
    local(input, mesh, false).into_iter().map(one).collect()
}

/// Network filters of rules that the proxy itself decides on.
pub(super) fn local_tcp(input: &PolicyInput, mesh: &Mesh) -> Vec<Filter> {
    let one = |sets: Sets| {
        let config = TcpRbac {
            shadow_rules_stat_prefix: trial_prefix(sets.trial.as_ref()),
            stat_prefix: TCP_STATS.to_owned(),
            rules: sets.enforced,
            shadow_rules: sets.trial,
            ..Default::default()
        };
        filter(TCP, &config)
    };
    local(input, mesh, true).into_iter().map(one).collect()
}

/// What happens to requests that an external authorizer should decide on.
enum Custom {
    /// The authorizer is not to be had: they are refused.
    Refuse(Rbac),
    /// Rules tell which they are, the authorizer decides.
    Ask(Sets, Box<Authorizer>),
}

/// By provider, in the order of their names.
fn custom(input: &PolicyInput, mesh: &Mesh, tcp: bool) -> Vec<Custom> {
    let mut by_provider: BTreeMap<&str, Vec<&AuthorizationPolicy>> = BTreeMap::new();
    for policy in &input.authorization {
        if let AuthzAction::Custom(provider) = &policy.action {
            by_provider.entry(provider).or_default().push(policy);
        }
    }
    let several = by_provider.len() > 1 && !mesh.feature("PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS", false);
    by_provider
        .into_iter()
        .map(|(provider, policies)| {
            let prefix = if provider.is_empty() {
                format!("{CUSTOM}-")
            } else {
                format!("{CUSTOM}-{provider}-")
            };
            let sets = sets(policies.into_iter(), Action::Deny, &prefix, tcp, mesh);
            let found = if several {
                None
            } else {
                authorizer::build(mesh, provider, &input.authorizers)
            };
            match found {
                Some(authorizer) => Custom::Ask(sets, Box::new(authorizer)),
                None => Custom::Refuse(refused(sets.enforced)),
            }
        })
        .collect()
}

/// The same rules, with names that tell why they refuse.
fn refused(rules: Option<Rbac>) -> Rbac {
    let policies = rules.unwrap_or_default().policies.into_iter();
    Rbac {
        action: Action::Deny.into(),
        policies: policies
            .map(|(name, policy)| (format!("{name}-deny-due-to-bad-CUSTOM-action"), policy))
            .collect(),
        ..Default::default()
    }
}

/// Rules that are only matched, never enforced: the authorizer is asked where one matched.
fn matched(enforced: Option<Rbac>) -> Rbac {
    enforced.unwrap_or_else(|| Rbac {
        action: Action::Deny.into(),
        ..Default::default()
    })
}

/// HTTP filters of rules that external authorizers decide on.
pub(super) fn custom_http(input: &PolicyInput, mesh: &Mesh) -> Vec<HttpFilter> {
    let mut all = Vec::new();
    for custom in custom(input, mesh, false) {
        match custom {
            Custom::Refuse(rules) => {
                all.push(http_filter(
                    HTTP,
                    &HttpRbac {
                        rules: Some(rules),
                        ..Default::default()
                    },
                ));
            }
            Custom::Ask(sets, authorizer) => {
                let rules = HttpRbac {
                    rules: sets.trial,
                    shadow_rules: Some(matched(sets.enforced)),
                    shadow_rules_stat_prefix: CUSTOM_METADATA.to_owned(),
                    ..Default::default()
                };
                all.push(http_filter(HTTP, &rules));
                all.push(http_filter("envoy.filters.http.ext_authz", &authorizer.http));
            }
        }
    }
    all
}

/// Network filters of rules that external authorizers decide on. An authorizer that speaks HTTP is not asked about bytes.
pub(super) fn custom_tcp(input: &PolicyInput, mesh: &Mesh) -> Vec<Filter> {
    let mut all = Vec::new();
    for custom in custom(input, mesh, true) {
        match custom {
            Custom::Refuse(rules) => {
                let config = TcpRbac {
                    rules: Some(rules),
                    stat_prefix: TCP_STATS.to_owned(),
                    ..Default::default()
                };
                all.push(filter(TCP, &config));
            }
            Custom::Ask(sets, authorizer) => {
                let Some(tcp) = &authorizer.tcp else { continue };
                let rules = TcpRbac {
                    rules: sets.trial,
                    shadow_rules: Some(matched(sets.enforced)),
                    shadow_rules_stat_prefix: CUSTOM_METADATA.to_owned(),
                    stat_prefix: TCP_STATS.to_owned(),
                    ..Default::default()
                };
                all.push(filter(TCP, &rules));
                all.push(filter("envoy.filters.network.ext_authz", tcp));
            }
        }
    }
    all
}
