//! Peer identities in rules: trust domains that count as the same, and matchers of SPIFFE names.

use std::sync::Arc;

use lateen_model::mesh::Mesh;
use lateen_proto::envoy::r#type::matcher::v3::StringMatcher;

use super::matchers;

/// What every identity begins with.
const SCHEME: &str = "spiffe://";
/// What rules may always call the mesh's own trust domain.
const LOCAL: &str = "cluster.local";

/// The mesh's trust domain, then its aliases.
pub(super) struct TrustDomains<'a>(Vec<&'a str>);

impl<'a> TrustDomains<'a> {
    pub(super) fn of(mesh: &'a Mesh) -> Self {
        let aliases = mesh.trust_domain_aliases.iter().map(|alias| &**alias);
        Self(std::iter::once(mesh.trust_domain.as_str()).chain(aliases).collect())
    }

    /// Principals that name one of the mesh's trust domains hold for all of them.
    pub(super) fn principals(&self, values: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut all = Vec::new();
        for value in values {
            match own_domain(value) {
                Some((domain, rest)) if domain == LOCAL || self.0.iter().any(|own| overlap(domain, own)) => {
                    let mut made: Vec<Arc<str>> = Vec::new();
                    for own in &self.0 {
                        // A domain with a wildcard that covers this one says it already.
                        let covered = domain.strip_prefix('*').is_some_and(|suffix| own.ends_with(suffix));
                        let one = if covered {
                            Arc::clone(value)
                        } else {
                            format!("{own}/{rest}").into()
                        };
                        if !made.contains(&one) {
                            made.push(one);
                        }
                    }
                    all.extend(made);
                }
                _ => all.push(Arc::clone(value)),
            }
        }
        all
    }

    /// A trust domain of the mesh stands for all of them.
    pub(super) fn domains(&self, values: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = Vec::new();
        for value in values {
            let same: Vec<Arc<str>> = if self.0.contains(&&**value) {
                self.0.iter().map(|own| Arc::from(*own)).collect()
            } else {
                vec![Arc::clone(value)]
            };
            for one in same {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}

/// The trust domain of `domain/ns/x/sa/y` and what follows it; none where the value leaves it open.
fn own_domain(principal: &str) -> Option<(&str, &str)> {
    let (domain, rest) = principal.split_once('/')?;
    (rest.split('/').count() == 4 && domain != "*").then_some((domain, rest))
}

/// Whether one covers the other, with `*` at either end.
fn overlap(one: &str, other: &str) -> bool {
    let covers = |pattern: &str, text: &str| {
        pattern.strip_suffix('*').is_some_and(|start| text.starts_with(start))
            || pattern.strip_prefix('*').is_some_and(|end| text.ends_with(end))
    };
    one == other || covers(one, other) || covers(other, one)
}

pub(super) fn principal(value: &str) -> StringMatcher {
    matchers::after(SCHEME, value)
}

/// Identities of a namespace; `*` within stands for anything.
pub(super) fn namespace(value: &str) -> StringMatcher {
    let parts: Vec<String> = value.split('*').map(matchers::escaped).collect();
    matchers::regex(format!(".*/ns/{}/.*", parts.join(".*")))
}

/// Identities of a service account, `namespace/name` or a name in the policy's namespace. Further parts may stand between
/// the two and after them, but a longer name is another account.
pub(super) fn service_account(value: &str, own_namespace: &str) -> StringMatcher {
    let (namespace, name) = value.split_once('/').unwrap_or((own_namespace, value));
    let (namespace, name) = (matchers::escaped(namespace), matchers::escaped(name));
    matchers::regex(format!("{SCHEME}.+/ns/{namespace}/(.+/|)sa/{name}(/.+)?"))
}

/// Identities of a trust domain; one `*` within stands for anything but a slash.
pub(super) fn trust_domain(value: &str) -> StringMatcher {
    match value.split_once('*') {
        Some(("", "")) => matchers::prefix(SCHEME),
        Some((start, end)) => matchers::regex(format!(
            "{SCHEME}{}[^/]*{}/.*",
            matchers::escaped(start),
            matchers::escaped(end)
        )),
        None => matchers::prefix(format!("{SCHEME}{value}/")),
    }
}
