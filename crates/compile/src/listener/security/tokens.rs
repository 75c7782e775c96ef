//! RequestAuthentication: which tokens are valid. A request without token passes, for rules to judge it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lateen_model::Snapshot;
use lateen_model::mesh::Mesh;
use lateen_model::policy::{JwtRule, KeySource};
use lateen_proto::envoy::config::core::v3::http_uri::HttpUpstreamType;
use lateen_proto::envoy::config::core::v3::{DataSource, HttpUri, data_source};
use lateen_proto::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use lateen_proto::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, RemoteJwks, RequirementRule,
};

use super::{PolicyInput, Upstream, matchers};
use crate::listener::chain::texts;
use crate::listener::tcp::duration;
use crate::names;

/// Claims that are always lists separated by spaces (RFC 8693 §4.2 and Istio's own).
const LISTS: [&str; 2] = ["permission", "scope"];
/// How long fetching keys may take where the rule does not say: Istio's default.
const TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 5, nanos: 0 };
/// The same, for the control plane.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Envoy keeps keys: Istio's default.
const CACHED: prost_types::Duration = prost_types::Duration { seconds: 300, nanos: 0 };

/// Keys that no token is signed with, for issuers whose keys are not to be had: Envoy refuses a provider without keys. The
/// point's abscissa is the SHA-256 of `lateen: keys of this issuer could not be had 1`, so that nobody can know a secret
/// that belongs to it.
const NOBODYS_KEYS: &str = concat!(
    r#"{"keys":[{"kty":"EC","crv":"P-256","x":"WqEWHwXFCnRPUEy-xMW3JZCMwPAv01Xyf-MURRZHEXI","#,
    r#""y":"5i9XKzmKoWRNj91GpzTqYSxZDYZ-fHk5zynzvF7uoyc"}]}"#
);

/// Who fetches keys (`PILOT_JWT_ENABLE_REMOTE_JWKS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchMode {
    /// The control plane.
    ControlPlane,
    /// The proxy, where the service is one of the mesh, else the control plane.
    Hybrid,
    /// The proxy.
    Proxy,
}

pub(super) fn fetch_mode(mesh: &Mesh) -> FetchMode {
    match mesh
        .environment
        .get("PILOT_JWT_ENABLE_REMOTE_JWKS")
        .map(|value| &**value)
    {
        Some("hybrid" | "true") => FetchMode::Hybrid,
        Some("envoy") => FetchMode::Proxy,
        _ => FetchMode::ControlPlane,
    }
}

/// The places that the control plane must fetch keys from, each with the longest time that a rule gives it. Proxies fetch
/// the others themselves (`PILOT_JWT_ENABLE_REMOTE_JWKS`).
pub fn key_sources(snapshot: &Snapshot) -> BTreeMap<KeySource, Duration> {
    let mode = fetch_mode(&snapshot.mesh);
    let mut sources = BTreeMap::new();
    for rule in snapshot
        .request_authentications
        .values()
        .flat_map(|policy| &policy.rules)
    {
        let Some(source) = rule.key_source() else { continue };
        let proxies_fetch = match (&source, mode) {
            (KeySource::Issuer(_), _) | (_, FetchMode::ControlPlane) => false,
            (KeySource::Uri(_), FetchMode::Proxy) => true,
            (KeySource::Uri(uri), FetchMode::Hybrid) => {
                host_of(uri).is_some_and(|(host, port)| Upstream::find(snapshot, host, port).is_some())
            }
        };
        if !proxies_fetch {
            let longest = sources.entry(source).or_insert(Duration::ZERO);
            *longest = (*longest).max(rule.timeout.unwrap_or(DEFAULT_TIMEOUT));
        }
    }
    sources
}

/// Host and port of an `http` or `https` URI.
pub(crate) fn host_of(uri: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = uri.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => authority
            .split_once(':')
            .map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) if !port.is_empty() => port.parse().ok()?,
        _ => default,
    };
    (!host.is_empty()).then_some((host, port))
}

/// The filter; none without issuers.
pub(super) fn filter(input: &PolicyInput, mesh: &Mesh, clear_route_cache: bool) -> Option<JwtAuthentication> {
    let mut rules: Vec<&JwtRule> = input.request.iter().flat_map(|policy| &policy.rules).collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let names: Vec<String> = (0..rules.len()).map(|index| format!("origins-{index}")).collect();
    let each: Vec<JwtRequirement> = names
        .iter()
        .zip(&rules)
        .map(|(name, rule)| {
            if rule.required {
                valid(name)
            } else {
                valid_if_there(name)
            }
        })
        .collect();
    let requires = match <[JwtRequirement; 1]>::try_from(each) {
        Ok([only]) => only,
        Err(none) if none.is_empty() => return None,
        // Every token must be valid; but where issuers share a place for tokens, one that is valid for one of them is not
        // for the others, so that it is enough.
        Err(each) => {
            let all = RequiresType::RequiresAll(JwtRequirementAndList { requirements: each });
            one_of(names.iter().map(|name| valid(name)).chain([requirement(all)]).collect())
        }
    };
    let providers: BTreeMap<String, JwtProvider> = names
        .iter()
        .cloned()
        .zip(rules.iter().map(|rule| provider(rule, input, mesh, clear_route_cache)))
        .collect();
    Some(JwtAuthentication {
        providers,
        rules: vec![RequirementRule {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            requirement_type: Some(RequirementType::Requires(requires)),
        }],
        bypass_cors_preflight: true,
        ..Default::default()
    })
}

fn requirement(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}

fn one_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

fn valid(name: &str) -> JwtRequirement {
    requirement(RequiresType::ProviderName(name.to_owned()))
}

fn valid_if_there(name: &str) -> JwtRequirement {
    one_of(vec![valid(name), requirement(RequiresType::AllowMissing(()))])
}

fn provider(rule: &JwtRule, input: &PolicyInput, mesh: &Mesh, clear_route_cache: bool) -> JwtProvider {
    let claim_to_headers = rule.output_claims.iter().map(|(header, claim)| JwtClaimToHeader {
        header_name: header.to_string(),
        claim_name: claim.to_string(),
        ..Default::default()
    });
    let from_headers = rule.from_headers.iter().map(|header| JwtHeader {
        name: header.name.to_string(),
        value_prefix: header.prefix.to_string(),
    });
    let lists: BTreeSet<&str> = rule
        .space_delimited_claims
        .iter()
        .map(|claim| &**claim)
        .chain(LISTS)
        .collect();
    JwtProvider {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        forward: rule.forward,
        from_headers: from_headers.collect(),
        from_params: texts(&rule.from_params),
        from_cookies: texts(&rule.from_cookies),
        forward_payload_header: rule.output_payload_to_header.as_deref().unwrap_or_default().to_owned(),
        payload_in_metadata: matchers::PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: lists.into_iter().map(str::to_owned).collect(),
        }),
        claim_to_headers: claim_to_headers.collect(),
        clear_route_cache,
        jwks_source_specifier: Some(keys(rule, input, mesh)),
        ..Default::default()
    }
}

/// Where the keys of an issuer come from.
fn keys(rule: &JwtRule, input: &PolicyInput, mesh: &Mesh) -> JwksSourceSpecifier {
    let mode = fetch_mode(mesh);
    if let Some(uri) = rule.jwks_uri.as_deref().filter(|_| mode != FetchMode::ControlPlane) {
        let cluster = match (input.keys.get(uri), mode, host_of(uri)) {
            (Some(upstream), ..) => Some(upstream.cluster.to_string()),
            // No such cluster: fetching fails, and so do tokens, until the service is there.
            (None, FetchMode::Proxy, Some((host, port))) => Some(names::outbound(port, "", host)),
            _ => None,
        };
        if let Some(cluster) = cluster {
            return JwksSourceSpecifier::RemoteJwks(RemoteJwks {
                http_uri: Some(HttpUri {
                    uri: uri.to_owned(),
                    timeout: Some(rule.timeout.map_or(TIMEOUT, duration)),
                    http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
                }),
                cache_duration: Some(CACHED),
                ..Default::default()
            });
        }
    }
    let keys = rule
        .jwks
        .as_deref()
        .filter(|keys| !keys.is_empty())
        .or(rule.fetched.as_deref())
        .unwrap_or(NOBODYS_KEYS);
    JwksSourceSpecifier::LocalJwks(DataSource {
        specifier: Some(data_source::Specifier::InlineString(keys.to_owned())),
        ..Default::default()
    })
}
