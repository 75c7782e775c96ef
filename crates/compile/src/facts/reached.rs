//! Hosts that more leads to than routes of HTTP: their clusters must be there before anybody asks for them, since Envoy
//! looks for clusters on demand only where a route sends a request.

use std::collections::BTreeSet;

use lateen_model::Snapshot;
use lateen_names::Hostname;
use serde_json::Value;

use crate::listener::security::host_of;
use crate::scope::destinations_besides;

/// Hosts of mirrors and of routes for bytes, of providers (tracing, access logs, authorization), and of keys for tokens.
/// Empty where no namespace asks for clusters on demand.
pub(super) fn hosts(snapshot: &Snapshot) -> BTreeSet<Hostname> {
    let mut all = BTreeSet::new();
    if snapshot.on_demand().next().is_none() {
        return all;
    }
    let routes = snapshot.virtual_services.values();
    all.extend(routes.flat_map(|route| destinations_besides(route)).cloned());
    for provider in &snapshot.mesh.providers {
        if let Ok(config) = serde_json::from_str(&provider.config) {
            services(&config, &mut all);
        }
    }
    let rules = snapshot
        .request_authentications
        .values()
        .flat_map(|policy| &policy.rules);
    let keys = rules.filter_map(|rule| host_of(rule.jwks_uri.as_deref()?));
    all.extend(keys.filter_map(|(host, _)| Hostname::lower(host).ok()));
    all
}

/// The hosts of every field `service` (`host` or `namespace/host`), at whatever depth.
fn services(config: &Value, all: &mut BTreeSet<Hostname>) {
    match config {
        Value::Object(fields) => {
            let service = fields.get("service").and_then(Value::as_str);
            let host = service.and_then(|service| Hostname::lower(service.rsplit('/').next()?).ok());
            all.extend(host);
            fields.values().for_each(|value| services(value, all));
        }
        Value::Array(items) => items.iter().for_each(|value| services(value, all)),
        _ => {}
    }
}
