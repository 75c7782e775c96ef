//! What a proxy holds, for the simulator.

use anyhow::Result;
use lateen_compile::route::RouteOrigin;
use lateen_compile::{Classes, Family, Input, Scope, select};
use lateen_model::Snapshot;

/// Compiles what a proxy would hold, and says of each route what it is made of.
pub(super) fn of(snapshot: &Snapshot, proxy: &lateen_model::Proxy) -> Result<lateen_simulate::Proxy> {
    let classes = Classes::of(snapshot, proxy);
    let scope = Scope::new(snapshot, &classes.outbound);
    let mut resources = Vec::new();
    let mut origins = Vec::new();
    for family in Family::ALL {
        // Secrets and names decide nothing about a request.
        if matches!(family, Family::Secrets | Family::NameTable) {
            continue;
        }
        for input in select(family, snapshot, &scope, &classes) {
            if let Input::Routes(routes) = &input {
                for host in &routes.hosts {
                    let named: Vec<String> = host.route_origins().iter().map(origin).collect();
                    origins.push((routes.name.to_string(), host.name.to_string(), named));
                }
            }
            resources.extend(
                input
                    .build()
                    .resource
                    .map(|resource| (family.type_url(), resource.bytes)),
            );
        }
    }
    let all = resources.iter().map(|(url, bytes)| (*url, &bytes[..]));
    let mut held = lateen_simulate::Proxy::decode(all)?;
    for (table, host, named) in origins {
        held.name_routes(&table, &host, named);
    }
    Ok(held)
}

fn origin(origin: &RouteOrigin) -> String {
    let alternative = origin
        .alternative
        .map(|index| format!(".match[{index}]"))
        .unwrap_or_default();
    format!("{} {}{alternative}", origin.object, origin.field)
}
