//! The name table as it is looked up.
//!
//! A host of the mesh has, besides its full name, the short names under which Kubernetes resolves it from the proxy's
//! namespace. For a name that resolvers first try with a search domain appended, the table answers that first try with
//! an alias to the real name, which saves the resolver its other tries.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lateen_proto::istio::networking::nds::v1::NameTable;

/// Where the proxy is, which decides what short names mean.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) namespace: String,
    /// The cluster's domain without the namespace: `svc.cluster.local`.
    pub(super) domain: String,
    /// The first search domain of the machine's resolver.
    pub(super) search: Option<String>,
}

/// Names in lower case without a trailing dot.
#[derive(Debug, Default)]
pub(super) struct LookupTable {
    hosts: HashMap<String, Addresses>,
    aliases: HashMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The real name, where the name asked for is an alias of it.
    pub(super) alias_of: Option<String>,
    /// Of the family asked for. None means that the name exists without addresses of that family: an empty answer, not
    /// NXDOMAIN, which resolvers that ask for both families at once would take for the name's absence.
    pub(super) addresses: Vec<IpAddr>,
}

/// The family asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

// === impl View ===

impl View {
    /// `domain` may begin with the namespace.
    pub(super) fn new(namespace: &str, domain: &str, search: Option<String>) -> Self {
        let rest = domain.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.'));
        Self {
            namespace: namespace.to_owned(),
            domain: rest.unwrap_or(domain).to_owned(),
            search,
        }
    }

    /// Every name of a host.
    fn names(&self, host: &str, info: &lateen_proto::istio::networking::nds::v1::name_table::NameInfo) -> Vec<String> {
        let host = host.trim_end_matches('.');
        let mut names = vec![host.to_owned()];
        if info.registry != "Kubernetes" {
            return names;
        }
        // Another cluster's domain: its short names mean something else here.
        if self.domain.is_empty() || !host.ends_with(&self.domain) {
            return names;
        }
        let (name, namespace) = (&info.shortname, &info.namespace);
        names.push(format!("{name}.{namespace}"));
        if *namespace == self.namespace {
            names.push(name.clone());
        }
        if let Some(first) = self.domain.split('.').next() {
            names.push(format!("{name}.{namespace}.{first}"));
        }
        #[expect(deprecated, reason = "older control planes send it")]
        names.extend(
            info.alt_hosts
                .iter()
                .map(|alias| alias.trim_end_matches('.').to_owned()),
        );
        names
    }
}

// === impl LookupTable ===

impl LookupTable {
    /// Prepares a table for a proxy.
    pub(super) fn new(table: &NameTable, view: &View) -> Self {
        let mut built = Self::default();
        for (host, info) in &table.table {
            let mut addresses = Addresses::default();
            for ip in info.ips.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                match ip {
                    IpAddr::V4(ip) => addresses.v4.push(ip),
                    IpAddr::V6(ip) => addresses.v6.push(ip),
                }
            }
            if addresses == Addresses::default() {
                continue;
            }
            let names: Vec<String> = view
                .names(host, info)
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect();
            for name in &names {
                if let Some(search) = view.search.as_deref().filter(|search| !name.ends_with(*search)) {
                    let expanded = format!("{name}.{search}");
                    // `reviews` with `shop.svc.cluster.local` appended is a real name.
                    if !names.contains(&expanded) {
                        built.aliases.insert(expanded, name.clone());
                    }
                }
                built.hosts.insert(name.clone(), addresses.clone());
            }
        }
        built
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Looks a name up: itself, then as an alias, then under each wildcard that covers it. `name` is in lower case
    /// without a trailing dot.
    pub(super) fn find(&self, name: &str, family: Family) -> Option<Found> {
        let mut candidate = name.to_owned();
        let mut rest = name;
        loop {
            let alias = if self.hosts.contains_key(&candidate) {
                None
            } else {
                self.aliases.get(&candidate)
            };
            if let Some(addresses) = self.hosts.get(alias.unwrap_or(&candidate)) {
                let addresses = match family {
                    Family::V4 => addresses.v4.iter().copied().map(IpAddr::V4).collect(),
                    Family::V6 => addresses.v6.iter().copied().map(IpAddr::V6).collect(),
                };
                // Under a wildcard the alias's target is what was asked for without the search domain.
                let alias_of = alias.map(
                    |target| match (target.strip_prefix("*."), candidate.strip_prefix("*.")) {
                        (Some(target), Some(covered)) => {
                            let head = name.strip_suffix(covered).unwrap_or_default();
                            format!("{head}{target}")
                        }
                        _ => target.clone(),
                    },
                );
                return Some(Found { alias_of, addresses });
            }
            let (_, parent) = rest.split_once('.')?;
            rest = parent;
            candidate = format!("*.{parent}");
        }
    }
}

#[cfg(test)]
mod tests {
    use lateen_proto::istio::networking::nds::v1::name_table::NameInfo;

    use super::*;

    fn table() -> LookupTable {
        let kubernetes = |name: &str, namespace: &str, ips: &[&str]| {
            let info = NameInfo {
                ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
                registry: "Kubernetes".into(),
                shortname: name.into(),
                namespace: namespace.into(),
                ..Default::default()
            };
            (format!("{name}.{namespace}.svc.cluster.local"), info)
        };
        let external = |host: &str, ip: &str| {
            (
                host.to_owned(),
                NameInfo {
                    ips: vec![ip.into()],
                    registry: "External".into(),
                    ..Default::default()
                },
            )
        };
        let table = NameTable {
            table: [
                kubernetes("reviews", "shop", &["10.96.0.5", "2001:db8::5"]),
                kubernetes("db", "data", &["10.96.0.6"]),
                kubernetes("none", "shop", &[]),
                external("www.example.com", "240.240.0.1"),
                external("*.wild.example.com", "240.240.0.2"),
            ]
            .into_iter()
            .collect(),
        };
        let view = View::new("shop", "shop.svc.cluster.local", Some("shop.svc.cluster.local".into()));
        LookupTable::new(&table, &view)
    }

    fn v4(name: &str) -> Option<(Option<String>, Vec<String>)> {
        let found = table().find(name, Family::V4)?;
        Some((
            found.alias_of,
            found.addresses.iter().map(ToString::to_string).collect(),
        ))
    }

    fn plain(ip: &str) -> Option<(Option<String>, Vec<String>)> {
        Some((None, vec![ip.to_owned()]))
    }

    #[test]
    fn hosts_of_the_own_namespace_have_short_names() {
        for name in [
            "reviews",
            "reviews.shop",
            "reviews.shop.svc",
            "reviews.shop.svc.cluster.local",
        ] {
            assert_eq!(v4(name), plain("10.96.0.5"), "{name}");
        }
        for name in ["db.data", "db.data.svc", "db.data.svc.cluster.local"] {
            assert_eq!(v4(name), plain("10.96.0.6"), "{name}");
        }
        assert_eq!(v4("db"), None);
    }

    #[test]
    fn the_first_try_of_a_resolver_is_an_alias() {
        assert_eq!(
            v4("www.example.com.shop.svc.cluster.local"),
            Some((Some("www.example.com".into()), vec!["240.240.0.1".into()]))
        );
        assert_eq!(
            v4("reviews.shop.shop.svc.cluster.local"),
            Some((Some("reviews.shop".into()), vec!["10.96.0.5".into()]))
        );
    }

    #[test]
    fn wildcards_answer_for_what_they_cover() {
        assert_eq!(v4("a.wild.example.com"), plain("240.240.0.2"));
        assert_eq!(v4("a.b.wild.example.com"), plain("240.240.0.2"));
        assert_eq!(v4("wild.example.com"), None);
        assert_eq!(
            v4("a.wild.example.com.shop.svc.cluster.local"),
            Some((Some("a.wild.example.com".into()), vec!["240.240.0.2".into()]))
        );
    }

    #[test]
    fn a_name_without_addresses_of_a_family_exists() {
        assert_eq!(
            table().find("db.data", Family::V6).unwrap().addresses,
            Vec::<IpAddr>::new()
        );
        assert_eq!(
            table().find("reviews", Family::V6).unwrap().addresses,
            ["2001:db8::5".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn what_is_not_in_the_mesh_is_not_found() {
        assert_eq!(v4("example.org"), None);
        assert_eq!(v4("none.shop"), None);
    }
}
