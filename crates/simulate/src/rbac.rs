//! Envoy's rules on who may do what. What configuration and request do not tell stays open.

use std::net::{IpAddr, SocketAddr};

use lateen_proto::any_to_json;
use lateen_proto::envoy::config::core::v3::CidrRange;
use lateen_proto::envoy::config::rbac::v3::permission::Rule;
use lateen_proto::envoy::config::rbac::v3::principal::Identifier;
use lateen_proto::envoy::config::rbac::v3::rbac::Action;
use lateen_proto::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac};
use lateen_proto::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};

use crate::headers::Headers;
use crate::matching::{Metadata, full_match, header, metadata, network, text};
use crate::path::without_query;
use crate::request::Tls;

/// What rules may look at.
pub(crate) struct Facts<'a> {
    pub destination: SocketAddr,
    /// The peer's address.
    pub source: Option<IpAddr>,
    /// The client's address, which trusted proxies may tell.
    pub client: Option<IpAddr>,
    /// The handshake.
    pub tls: Option<&'a Tls>,
    pub headers: &'a Headers,
    pub metadata: &'a Metadata,
}

/// What the rules say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may pass.
    Allowed(String),
    /// It may not.
    Denied(String),
    /// It depends on what is not known.
    Open(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Open,
}

impl Truth {
    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Open => Self::Open,
        }
    }

    fn all(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::Yes, |all, one| match (all, one) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Open,
        })
    }

    fn any(each: impl Iterator<Item = Self>) -> Self {
        Self::all(each.map(Self::not)).not()
    }
}

impl From<bool> for Truth {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// The first policy that matches; the flag tells of policies that may.
pub(crate) fn matching<'a>(rules: &'a Rbac, facts: &Facts<'_>) -> (Option<&'a str>, Option<&'a str>) {
    let mut open = None;
    for (name, policy) in &rules.policies {
        match policy_matches(policy, facts) {
            Truth::Yes => return (Some(name), open),
            Truth::Open => open = open.or(Some(name.as_str())),
            Truth::No => {}
        }
    }
    (None, open)
}

pub(crate) fn decide(rules: &Rbac, facts: &Facts<'_>) -> Decision {
    let (matched, open) = matching(rules, facts);
    let all = || rules.policies.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match (rules.action(), matched, open) {
        (Action::Log, _, _) => Decision::Allowed("it is only noted".to_owned()),
        (Action::Allow, Some(name), _) => Decision::Allowed(format!("{name} allows it")),
        (Action::Deny, Some(name), _) => Decision::Denied(format!("{name} denies it")),
        (_, None, Some(name)) => Decision::Open(format!("{name} depends on what is not known")),
        (Action::Allow, None, None) => Decision::Denied(format!("none of the rules allows it: {}", all())),
        (Action::Deny, None, None) => Decision::Allowed(format!("none of the rules denies it: {}", all())),
    }
}

fn policy_matches(policy: &Policy, facts: &Facts<'_>) -> Truth {
    let wanted = Truth::any(policy.permissions.iter().map(|one| permission(one, facts)));
    let who = Truth::any(policy.principals.iter().map(|one| principal(one, facts)));
    let condition = if policy.condition.is_some() || policy.checked_condition.is_some() {
        Truth::Open
    } else {
        Truth::Yes
    };
    Truth::all([wanted, who, condition].into_iter())
}

fn permission(permission_: &Permission, facts: &Facts<'_>) -> Truth {
    match &permission_.rule {
        Some(Rule::AndRules(set)) => Truth::all(set.rules.iter().map(|one| permission(one, facts))),
        Some(Rule::OrRules(set)) => Truth::any(set.rules.iter().map(|one| permission(one, facts))),
        Some(Rule::NotRule(rule)) => permission(rule, facts).not(),
        Some(Rule::Any(any)) => (*any).into(),
        Some(Rule::Header(matcher)) => header(matcher, facts.headers).into(),
        Some(Rule::UrlPath(matcher)) => path(matcher, facts),
        Some(Rule::DestinationIp(range)) => within(range, Some(facts.destination.ip())),
        Some(Rule::DestinationPort(port)) => (*port == u32::from(facts.destination.port())).into(),
        Some(Rule::DestinationPortRange(range)) => (range.start..range.end)
            .contains(&i32::from(facts.destination.port()))
            .into(),
        Some(Rule::Metadata(matcher)) => metadata(matcher, facts.metadata).into(),
        Some(Rule::SourcedMetadata(sourced)) => sourced
            .metadata_matcher
            .as_ref()
            .map_or(Truth::Open, |matcher| metadata(matcher, facts.metadata).into()),
        Some(Rule::RequestedServerName(matcher)) => {
            let sni = facts.tls.and_then(|tls| tls.sni.as_deref()).unwrap_or_default();
            text(matcher, sni).into()
        }
        Some(Rule::UriTemplate(template)) => template
            .typed_config
            .as_ref()
            .and_then(|config| any_to_json(config).ok())
            .and_then(|config| config.get("pathTemplate")?.as_str().map(template_regex))
            .map_or(Truth::Open, |regex| full_match(&regex, &asked_path(facts)).into()),
        Some(Rule::Matcher(_)) => Truth::Open,
        None => Truth::No,
    }
}

fn principal(principal_: &Principal, facts: &Facts<'_>) -> Truth {
    match &principal_.identifier {
        Some(Identifier::AndIds(set)) => Truth::all(set.ids.iter().map(|one| principal(one, facts))),
        Some(Identifier::OrIds(set)) => Truth::any(set.ids.iter().map(|one| principal(one, facts))),
        Some(Identifier::NotId(id)) => principal(id, facts).not(),
        Some(Identifier::Any(any)) => (*any).into(),
        Some(Identifier::Authenticated(wanted)) => match (facts.tls, &wanted.principal_name) {
            (None, _) => Truth::No,
            (Some(_), None) => Truth::Yes,
            // A client without certificate has the empty name.
            (Some(tls), Some(name)) if tls.peer.is_empty() => text(name, "").into(),
            (Some(tls), Some(name)) => tls.peer.iter().any(|peer| text(name, peer)).into(),
        },
        Some(Identifier::SourceIp(range) | Identifier::DirectRemoteIp(range)) => within(range, facts.source),
        Some(Identifier::RemoteIp(range)) => within(range, facts.client),
        Some(Identifier::Header(matcher)) => header(matcher, facts.headers).into(),
        Some(Identifier::UrlPath(matcher)) => path(matcher, facts),
        Some(Identifier::Metadata(matcher)) => metadata(matcher, facts.metadata).into(),
        Some(Identifier::SourcedMetadata(sourced)) => sourced
            .metadata_matcher
            .as_ref()
            .map_or(Truth::Open, |matcher| metadata(matcher, facts.metadata).into()),
        Some(Identifier::FilterState(_) | Identifier::Custom(_)) => Truth::Open,
        None => Truth::No,
    }
}

fn asked_path(facts: &Facts<'_>) -> String {
    let path = facts.headers.get(":path").unwrap_or_default();
    without_query(&path).to_owned()
}

fn path(matcher: &PathMatcher, facts: &Facts<'_>) -> Truth {
    let Some(path_matcher::Rule::Path(wanted)) = &matcher.rule else {
        return Truth::No;
    };
    // Without a request there is no path, and nothing matches.
    if facts.headers.get(":path").is_none() {
        return Truth::No;
    }
    text(wanted, &asked_path(facts)).into()
}

fn within(range: &CidrRange, ip: Option<IpAddr>) -> Truth {
    match (network(range), ip) {
        (Some(range), Some(ip)) => range.contains(&ip).into(),
        (None, _) => Truth::No,
        (_, None) => Truth::Open,
    }
}

/// `*` stands for one segment, `**` for any number.
fn template_regex(template: &str) -> String {
    let any = regex::escape("**");
    regex::escape(template)
        .replace(&any, "\u{0}")
        .replace(&regex::escape("*"), "[^/]+")
        .replace('\u{0}', ".*")
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::config::rbac::v3::{permission, principal};

    use super::*;

    fn rules(action: Action, permission: Rule, principal: Identifier) -> Rbac {
        let policy = Policy {
            permissions: vec![Permission { rule: Some(permission) }],
            principals: vec![Principal {
                identifier: Some(principal),
            }],
            ..Default::default()
        };
        Rbac {
            action: action.into(),
            policies: [("p".to_owned(), policy)].into(),
            ..Default::default()
        }
    }

    fn range(prefix: &str, length: u32) -> CidrRange {
        CidrRange {
            address_prefix: prefix.to_owned(),
            prefix_len: Some(length),
        }
    }

    fn decide_with(rules: &Rbac, source: Option<&str>) -> Decision {
        let source = source.map(|ip| ip.parse().unwrap());
        decide(
            rules,
            &Facts {
                destination: "10.0.0.1:80".parse().unwrap(),
                source,
                client: source,
                tls: None,
                headers: &Headers::default(),
                metadata: &Metadata::default(),
            },
        )
    }

    #[test]
    fn rules_allow_and_deny_what_matches() {
        let from = || Identifier::DirectRemoteIp(range("10.1.0.0", 16));
        let allow = rules(Action::Allow, Rule::DestinationPort(80), from());
        let deny = rules(Action::Deny, Rule::DestinationPort(80), from());
        assert!(matches!(decide_with(&allow, Some("10.1.2.3")), Decision::Allowed(_)));
        assert!(matches!(decide_with(&allow, Some("10.2.2.3")), Decision::Denied(_)));
        assert!(matches!(decide_with(&deny, Some("10.1.2.3")), Decision::Denied(_)));
        assert!(matches!(decide_with(&deny, Some("10.2.2.3")), Decision::Allowed(_)));
        let other = rules(Action::Allow, Rule::DestinationPort(81), from());
        assert!(matches!(decide_with(&other, Some("10.1.2.3")), Decision::Denied(_)));
    }

    #[test]
    fn what_is_not_known_leaves_the_decision_open_only_where_it_matters() {
        let from = Identifier::DirectRemoteIp(range("10.1.0.0", 16));
        let open = rules(Action::Allow, Rule::DestinationPort(80), from.clone());
        assert!(matches!(decide_with(&open, None), Decision::Open(_)));
        let settled = rules(Action::Allow, Rule::DestinationPort(81), from.clone());
        assert!(matches!(decide_with(&settled, None), Decision::Denied(_)));
        let either = Identifier::OrIds(principal::Set {
            ids: [from, Identifier::Any(true)]
                .map(|one| Principal { identifier: Some(one) })
                .into(),
        });
        let settled = rules(Action::Deny, Rule::DestinationPort(80), either);
        assert!(matches!(decide_with(&settled, None), Decision::Denied(_)));
    }

    #[test]
    fn negation_and_conjunction_hold() {
        let port = |port| Permission {
            rule: Some(Rule::DestinationPort(port)),
        };
        let both = |first, second| {
            Rule::AndRules(permission::Set {
                rules: vec![
                    port(first),
                    Permission {
                        rule: Some(Rule::NotRule(Box::new(port(second)))),
                    },
                ],
            })
        };
        let allows = |rule| decide_with(&rules(Action::Allow, rule, Identifier::Any(true)), None);
        assert!(matches!(allows(both(80, 81)), Decision::Allowed(_)));
        assert!(matches!(allows(both(80, 80)), Decision::Denied(_)));
    }

    #[test]
    fn templates_match_segments() {
        for (template, path, fits) in [
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/x/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**/d.x", "/a/b/c/d.x", true),
            ("/a/**/d.x", "/a/b/c/dyx", false),
        ] {
            assert_eq!(full_match(&template_regex(template), path), fits, "{template} {path}");
        }
    }
}
