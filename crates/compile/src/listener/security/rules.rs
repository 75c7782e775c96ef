//! One rule as a policy of Envoy's RBAC filters: permissions say what is asked for, principals who asks.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lateen_model::policy::{AuthzCondition, AuthzOperation, AuthzRule, AuthzSource, Values};
use lateen_proto::any;
use lateen_proto::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use lateen_proto::envoy::config::rbac::v3::permission::Rule;
use lateen_proto::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use lateen_proto::envoy::config::rbac::v3::{Permission, Policy, Principal, permission, principal};
use lateen_proto::envoy::r#type::matcher::v3::{MetadataMatcher, PathMatcher, StringMatcher, path_matcher};

use super::identity::{self, TrustDomains};
use super::matchers;
use crate::listener::chain;

/// A rule cannot be said where it is asked for, so that it must not allow anything.
#[derive(Debug)]
pub(super) struct Unmatchable;

/// How rules are built.
pub(super) struct Build<'a> {
    /// Whether connections are judged, which have no requests.
    pub tcp: bool,
    /// Whether matching lets pass. Then what cannot be built spoils its rule; else it is left out, and the rule covers more.
    pub allows: bool,
    /// Trust domains of the mesh.
    pub domains: &'a TrustDomains<'a>,
    /// Namespace of the policy.
    pub namespace: &'a str,
}

/// The algebra that permissions and principals share.
trait Term: Sized + Clone {
    fn all(terms: Vec<Self>) -> Self;
    fn one_of(terms: Vec<Self>) -> Self;
    fn not(self) -> Self;
    fn anything() -> Self;
}

impl Term for Permission {
    fn all(rules: Vec<Self>) -> Self {
        permission_of(Rule::AndRules(permission::Set { rules }))
    }
    fn one_of(rules: Vec<Self>) -> Self {
        permission_of(Rule::OrRules(permission::Set { rules }))
    }
    fn not(self) -> Self {
        permission_of(Rule::NotRule(Box::new(self)))
    }
    fn anything() -> Self {
        permission_of(Rule::Any(true))
    }
}

impl Term for Principal {
    fn all(ids: Vec<Self>) -> Self {
        principal_of(Identifier::AndIds(principal::Set { ids }))
    }
    fn one_of(ids: Vec<Self>) -> Self {
        principal_of(Identifier::OrIds(principal::Set { ids }))
    }
    fn not(self) -> Self {
        principal_of(Identifier::NotId(Box::new(self)))
    }
    fn anything() -> Self {
        principal_of(Identifier::Any(true))
    }
}

fn permission_of(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn principal_of(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

/// A policy that matches nothing, which still tells that there is a policy.
pub(super) fn never() -> Policy {
    Policy {
        permissions: vec![Permission::anything().not()],
        principals: vec![Principal::anything().not()],
        ..Default::default()
    }
}

impl Build<'_> {
    /// The policy of a rule.
    pub(super) fn policy(&self, rule: &AuthzRule) -> Result<Policy, Unmatchable> {
        let (mut wanted, mut who) = (Vec::new(), Vec::new());
        for condition in &rule.when {
            self.condition(condition, &mut wanted, &mut who)?;
        }
        let permissions = if rule.to.is_empty() {
            vec![joined(wanted)]
        } else {
            let each = rule.to.iter().map(|operation| {
                let mut terms = self.operation(operation)?;
                terms.extend(wanted.iter().cloned());
                Ok(joined(terms))
            });
            each.collect::<Result<_, Unmatchable>>()?
        };
        let principals = if rule.from.is_empty() {
            vec![joined(who)]
        } else {
            let each = rule.from.iter().map(|source| {
                let mut terms = self.source(source)?;
                terms.extend(who.iter().cloned());
                Ok(joined(terms))
            });
            each.collect::<Result<_, Unmatchable>>()?
        };
        Ok(Policy {
            permissions,
            principals,
            ..Default::default()
        })
    }

    fn operation(&self, operation: &AuthzOperation) -> Result<Vec<Permission>, Unmatchable> {
        let mut terms = Vec::new();
        self.each(&operation.hosts, &mut terms, |value| {
            self.request_header(":authority", value, true)
        })?;
        self.each(&operation.methods, &mut terms, |value| {
            self.request_header(":method", value, false)
        })?;
        self.each(&operation.paths, &mut terms, |value| (!self.tcp).then(|| path(value)))?;
        self.each(&operation.ports, &mut terms, destination_port)?;
        Ok(terms)
    }

    fn source(&self, source: &AuthzSource) -> Result<Vec<Principal>, Unmatchable> {
        let mut terms = Vec::new();
        self.principals(&source.principals, &mut terms)?;
        self.together(&source.request_principals, &mut terms, |values| {
            self.request_principals(values)
        })?;
        self.each(&source.service_accounts, &mut terms, |value| {
            self.service_account(value)
        })?;
        self.trust_domains(&source.trust_domains, &mut terms)?;
        self.each(&source.namespaces, &mut terms, |value| {
            Some(peer(identity::namespace(value)))
        })?;
        self.each(&source.remote_ip_blocks, &mut terms, remote_ip)?;
        self.each(&source.ip_blocks, &mut terms, peer_ip)?;
        Ok(terms)
    }

    /// A condition, which tells of the request or of who sends it.
    fn condition(
        &self,
        condition: &AuthzCondition,
        wanted: &mut Vec<Permission>,
        who: &mut Vec<Principal>,
    ) -> Result<(), Unmatchable> {
        let values = &condition.values;
        match &*condition.key {
            "destination.ip" => self.each(values, wanted, destination_ip),
            "destination.port" => self.each(values, wanted, destination_port),
            "connection.sni" => self.each(values, wanted, |value| {
                Some(permission_of(Rule::RequestedServerName(matchers::text(value))))
            }),
            "source.ip" => self.each(values, who, peer_ip),
            "remote.ip" => self.each(values, who, remote_ip),
            "source.namespace" => self.each(values, who, |value| Some(peer(identity::namespace(value)))),
            "source.trustDomain" => self.trust_domains(values, who),
            "source.serviceAccount" => self.each(values, who, |value| self.service_account(value)),
            "source.principal" => self.principals(values, who),
            "request.auth.principal" => self.together(values, who, |values| self.request_principals(values)),
            "request.auth.audiences" => self.together(values, who, |values| self.claim(&["aud"], values)),
            "request.auth.presenter" => self.together(values, who, |values| self.claim(&["azp"], values)),
            key => {
                if let Some(rest) = key.strip_prefix("experimental.envoy.filters.") {
                    let name = rest.strip_suffix(']').and_then(|rest| rest.split_once('['));
                    self.together(values, wanted, |values| filter_metadata(name?, values))
                } else if let Some(rest) = key.strip_prefix("request.headers") {
                    let name = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                    self.each(values, who, |value| {
                        (!self.tcp).then_some(principal_of(Identifier::Header(matchers::header(name?, value, false))))
                    })
                } else if let Some(rest) = key.strip_prefix("request.auth.claims") {
                    let claims = claim_path(rest);
                    self.together(values, who, |values| self.claim(claims.as_ref()?, values))
                } else {
                    self.unless_allowing()
                }
            }
        }
    }

    fn unless_allowing(&self) -> Result<(), Unmatchable> {
        if self.allows { Err(Unmatchable) } else { Ok(()) }
    }

    /// One term for each value.
    fn each<T: Term>(
        &self,
        values: &Values,
        terms: &mut Vec<T>,
        make: impl Fn(&str) -> Option<T>,
    ) -> Result<(), Unmatchable> {
        // Of the values that must not match, one that cannot be built excludes nothing.
        let wanted: Option<Vec<T>> = values.any.iter().map(|value| make(value)).collect();
        let unwanted: Vec<T> = values.none.iter().filter_map(|value| make(value)).collect();
        if wanted.is_none() || unwanted.len() < values.none.len() {
            self.unless_allowing()?;
        }
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            terms.push(T::one_of(wanted));
        }
        if !unwanted.is_empty() {
            terms.push(T::one_of(unwanted).not());
        }
        Ok(())
    }

    /// One term for all values.
    fn together<T: Term>(
        &self,
        values: &Values,
        terms: &mut Vec<T>,
        make: impl Fn(&[Arc<str>]) -> Option<T>,
    ) -> Result<(), Unmatchable> {
        for (list, negated) in [(&values.any, false), (&values.none, true)] {
            if list.is_empty() {
                continue;
            }
            match make(list) {
                Some(term) if negated => terms.push(term.not()),
                Some(term) => terms.push(term),
                None => self.unless_allowing()?,
            }
        }
        Ok(())
    }

    fn principals(&self, values: &Values, terms: &mut Vec<Principal>) -> Result<(), Unmatchable> {
        let values = Values {
            any: self.domains.principals(&values.any),
            none: self.domains.principals(&values.none),
        };
        self.each(&values, terms, |value| Some(peer(identity::principal(value))))
    }

    fn trust_domains(&self, values: &Values, terms: &mut Vec<Principal>) -> Result<(), Unmatchable> {
        let values = Values {
            any: self.domains.domains(&values.any),
            none: self.domains.domains(&values.none),
        };
        self.each(&values, terms, |value| Some(peer(identity::trust_domain(value))))
    }

    fn service_account(&self, value: &str) -> Option<Principal> {
        Some(peer(identity::service_account(value, self.namespace)))
    }

    fn request_header(&self, name: &str, value: &str, ignore_case: bool) -> Option<Permission> {
        (!self.tcp).then(|| permission_of(Rule::Header(matchers::header(name, value, ignore_case))))
    }

    /// Tokens by `issuer/subject`.
    fn request_principals(&self, values: &[Arc<str>]) -> Option<Principal> {
        if self.tcp {
            return None;
        }
        let one = |value: &Arc<str>| {
            let (issuer, subject) = issuer_and_subject(value);
            let claims = [matchers::claim("iss", issuer), matchers::claim("sub", subject)];
            Principal::all(claims.into_iter().map(in_metadata).collect())
        };
        let mut made: Vec<Principal> = values.iter().map(one).collect();
        if made.len() == 1 {
            made.pop()
        } else {
            Some(Principal::one_of(made))
        }
    }

    fn claim<T: AsRef<str>>(&self, path: &[T], values: &[Arc<str>]) -> Option<Principal> {
        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
        (!self.tcp).then(|| in_metadata(matchers::claim_of(&path, values)))
    }
}

fn joined<T: Term>(mut terms: Vec<T>) -> T {
    if terms.is_empty() {
        terms.push(T::anything());
    }
    T::all(terms)
}

fn peer(name: StringMatcher) -> Principal {
    principal_of(Identifier::Authenticated(Authenticated {
        principal_name: Some(name),
    }))
}

#[expect(deprecated, reason = "Istio's proxies, whatever their version, know this form")]
fn in_metadata(matcher: MetadataMatcher) -> Principal {
    principal_of(Identifier::Metadata(matcher))
}

/// What other filters left in their metadata; `[x]` is a list that has `x`.
#[expect(deprecated, reason = "Istio's proxies, whatever their version, know this form")]
fn filter_metadata((filter, key): (&str, &str), values: &[Arc<str>]) -> Option<Permission> {
    let one = |value: &Arc<str>| match value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(element) => matchers::list_value(matchers::string_value(matchers::text(element))),
        None => matchers::string_value(matchers::text(value)),
    };
    let filter = format!("envoy.filters.{filter}");
    let wanted = matchers::one_of(values.iter().map(one).collect());
    Some(permission_of(Rule::Metadata(matchers::metadata(
        &filter,
        &[key],
        wanted,
    ))))
}

/// An address or a range of them.
fn range(value: &str) -> Option<CidrRange> {
    let net = if value.contains('/') {
        value.parse().ok()?
    } else {
        IpNet::from(value.parse::<IpAddr>().ok()?)
    };
    Some(chain::range(&net))
}

fn peer_ip(value: &str) -> Option<Principal> {
    Some(principal_of(Identifier::DirectRemoteIp(range(value)?)))
}

fn remote_ip(value: &str) -> Option<Principal> {
    Some(principal_of(Identifier::RemoteIp(range(value)?)))
}

fn destination_ip(value: &str) -> Option<Permission> {
    Some(permission_of(Rule::DestinationIp(range(value)?)))
}

fn destination_port(value: &str) -> Option<Permission> {
    Some(permission_of(Rule::DestinationPort(value.parse::<u16>().ok()?.into())))
}

/// A path; `{*}` is one segment, `{**}` any number of them.
fn path(value: &str) -> Permission {
    if value.contains("{*}") || value.contains("{**}") {
        let template = UriTemplate {
            path_template: value.replace("{*}", "*").replace("{**}", "**"),
        };
        return permission_of(Rule::UriTemplate(TypedExtensionConfig {
            name: "uri-template".to_owned(),
            typed_config: Some(any(&template)),
        }));
    }
    permission_of(Rule::UrlPath(PathMatcher {
        rule: Some(path_matcher::Rule::Path(matchers::text(value))),
    }))
}

/// `UriTemplateMatchConfig`: a path with wildcards for whole segments.
#[derive(Clone, PartialEq, prost::Message)]
struct UriTemplate {
    #[prost(string, tag = "1")]
    path_template: String,
}

impl prost::Name for UriTemplate {
    const NAME: &'static str = "UriTemplateMatchConfig";
    const PACKAGE: &'static str = "envoy.extensions.path.match.uri_template.v3";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

/// Matchers of `issuer/subject`. The issuer may have slashes of its own; a wildcard stands at one end of the whole.
fn issuer_and_subject(value: &str) -> (StringMatcher, StringMatcher) {
    if value == "*" {
        return (matchers::anything(), matchers::anything());
    }
    let Some((issuer, subject)) = value.rsplit_once('/') else {
        // Without slash, it is the end of the subject, the start of the issuer, or an issuer without subject.
        return if let Some(end) = value.strip_prefix('*') {
            (matchers::anything(), matchers::suffix(end))
        } else if let Some(start) = value.strip_suffix('*') {
            (matchers::prefix(start), matchers::anything())
        } else {
            (matchers::exact(value), matchers::exact(""))
        };
    };
    if value.starts_with('*') {
        return (matchers::text(issuer), matchers::exact(subject));
    }
    let subject = match subject.strip_suffix('*') {
        Some("") => matchers::anything(),
        Some(start) => matchers::prefix(start),
        None => matchers::exact(subject),
    };
    (matchers::exact(issuer), subject)
}

/// The claims of `[a][b]`. Text that is not made so but stands in brackets is one claim.
fn claim_path(brackets: &str) -> Option<Vec<&str>> {
    let inner = brackets.strip_prefix('[')?.strip_suffix(']')?;
    let nested: Vec<&str> = inner.split("][").collect();
    if nested.iter().any(|name| name.contains(['[', ']'])) {
        Some(vec![inner])
    } else {
        Some(nested)
    }
}
