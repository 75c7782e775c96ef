//! What of a class's routes is replaced where only some hosts differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::service::Resolution;
use lateen_names::Hostname;

use super::{
    HostInput, Input, Named, apart, attempt_count, fallback, is_sniffed, named, outbound_policy, routable,
    sniffed_hosts, virtual_hosts,
};
use crate::facts::OutboundFacts;
use crate::scope::Sight;

/// So many hosts are looked at by themselves in any mesh.
const MANY: usize = 16;

/// What of a class's routes is replaced where only these hosts differ from what it saw before. `None` where other hosts may
/// have a say: where a Sidecar or a wildcard chooses, where a host has no service but routes, or several services, where a
/// host may mean what another one means, or where a virtual host has nothing to do on a port of its service.
pub(in crate::route) fn replaced(
    before: Sight<'_>,
    now: Sight<'_>,
    facts: &OutboundFacts,
    only: &BTreeSet<Hostname>,
) -> Option<Replaced> {
    // Of many hosts the parts cost more than the whole.
    if only.len() > MANY.max(now.scope.services.len() / 4) {
        return None;
    }
    let mut counts = before.scope.counts.get()?.clone()?;
    let (tables_before, tables) = (named(before, facts), named(now, facts));
    let old = part(before, facts, only, &tables_before)?;
    let new = part(now, facts, only, &tables)?;
    if !same_tables(&tables_before, &tables, only) || !apart::are_apart(now.scope, facts, only) {
        return None;
    }
    let shared: BTreeSet<Arc<str>> = old
        .hosts
        .iter()
        .chain(&new.hosts)
        .map(|host| host.table.clone())
        .collect();
    for host in &old.hosts {
        let count = counts.get_mut(&host.table)?;
        *count = count.checked_sub(1)?;
    }
    for host in &new.hosts {
        *counts.entry(Arc::clone(&host.table)).or_default() += 1;
    }
    let fallback = Arc::new(fallback(outbound_policy(now.snapshot, now.scope), attempt_count(facts)));
    let shared = shared.into_iter().map(|name| Input {
        more: counts.get(&name).is_some_and(|&hosts| hosts > 0),
        name,
        hosts: vec![Arc::clone(&fallback)],
        ignore_port: true,
        mesh: now.snapshot.mesh.clone(),
    });
    let tables = new.tables.into_iter().chain(shared).collect();
    let _ = now.scope.counts.set(Some(counts));
    Some(Replaced {
        gone: old,
        made: Part { tables, ..new },
    })
}

/// See [`replaced`].
#[derive(Debug)]
pub(crate) struct Replaced {
    /// What there was of the hosts.
    pub(crate) gone: Part,
    /// What there is now, and the tables that they share with others.
    pub(crate) made: Part,
}

/// What of a class's routes belongs to some hosts.
#[derive(Debug)]
pub(crate) struct Part {
    /// The tables that single services have to themselves.
    pub(crate) tables: Vec<Input>,
    /// Virtual hosts of the others.
    pub(crate) hosts: Vec<HostInput>,
}

fn part(sight: Sight<'_>, facts: &OutboundFacts, only: &BTreeSet<Hostname>, named: &Named) -> Option<Part> {
    let Sight { snapshot, scope } = sight;
    let [entry] = scope.egress.as_slice() else { return None };
    let decided_elsewhere =
        |host: &Hostname| host.is_wildcard() || (only.contains(host) && scope.service(host).is_none());
    let mut routed = entry.virtual_services.iter().flat_map(|route| &route.hosts);
    if entry.egress.is_some() || routed.any(decided_elsewhere) || !only.iter().all(|host| scope.is_single(host)) {
        return None;
    }
    let services: Vec<_> = only.iter().filter_map(|host| scope.service(host)).collect();
    if services.iter().any(|service| !service.shadows.is_empty()) {
        return None;
    }
    let mut part = Part {
        tables: Vec::new(),
        hosts: Vec::new(),
    };
    for (name, &(_, port)) in named {
        let expected = services
            .iter()
            .filter(|service| service.resolution != Resolution::Alias)
            .flat_map(|service| &service.ports)
            .filter(|p| (port == 0 || p.number == port) && routable(p))
            .count();
        if expected == 0 {
            continue;
        }
        let (hosts, _) = virtual_hosts(entry, port, scope, facts, Some(only));
        if hosts.len() != expected {
            return None;
        }
        if is_sniffed(name, port) {
            let hosts = sniffed_hosts(&hosts, name);
            if !hosts.is_empty() {
                part.tables.push(Input {
                    name: Arc::clone(name),
                    hosts,
                    ignore_port: true,
                    more: false,
                    mesh: snapshot.mesh.clone(),
                });
            }
            continue;
        }
        part.hosts.extend(hosts.into_iter().map(|host| HostInput {
            table: Arc::clone(name),
            host,
            mesh: snapshot.mesh.clone(),
        }));
    }
    Some(part)
}

/// Whether there are the same tables, but for those that these hosts have to themselves: which service has a table of its own
/// may depend on the others at its address.
fn same_tables(before: &Named, now: &Named, only: &BTreeSet<Hostname>) -> bool {
    let own = |name: &str, port: u16| {
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        is_sniffed(name, port) && only.iter().any(|own| own.as_str() == host)
    };
    let extra = |these: &Named, those: &Named| {
        let mut these = these.iter();
        these.any(|(name, chosen)| those.get(name) != Some(chosen) && !own(name, chosen.1))
    };
    !extra(before, now) && !extra(now, before)
}
