//! Resources as tables for people, in the columns of `istioctl proxy-config`.

mod listener;
mod route;

use std::time::SystemTime;

use lateen_pki::Certificate;
use serde_json::Value;

use super::What;
use super::dump::{Dump, Secret, at, field, items, name, text};
use crate::print::table;

pub(super) use listener::{address as listener_address, kind as listener_kind, port as listener_port};

/// The table of one kind; without details, listeners and route tables have one line each.
pub(super) fn of(what: What, dump: &Dump, details: bool) -> String {
    match what {
        What::Cluster => {
            let header = [
                "SERVICE FQDN",
                "PORT",
                "SUBSET",
                "DIRECTION",
                "TYPE",
                "DESTINATION RULE",
            ];
            table(&header, dump.clusters.iter().map(cluster))
        }
        What::Listener if details => table(
            &["ADDRESSES", "PORT", "MATCH", "DESTINATION"],
            dump.listeners.iter().flat_map(listener::rows),
        ),
        What::Listener => table(&["ADDRESSES", "PORT", "TYPE"], dump.listeners.iter().map(listener::row)),
        What::Route if details => {
            let header = ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];
            table(&header, dump.routes.iter().flat_map(route::rows))
        }
        What::Route => table(&["NAME", "VIRTUAL HOSTS"], dump.routes.iter().map(route::row)),
        What::Endpoint => {
            let header = ["NAME", "STATUS", "LOCALITY", "CLUSTER"];
            table(&header, dump.endpoints.iter().flat_map(endpoints))
        }
        What::Secret | What::All if dump.secrets.is_empty() => {
            "no secrets; those of sidecars are their agents', and their Envoys show them (--admin URL)\n".to_owned()
        }
        What::Secret | What::All => {
            let now = SystemTime::now();
            let header = [
                "RESOURCE NAME",
                "TYPE",
                "STATUS",
                "VALID CERT",
                "SERIAL NUMBER",
                "NOT AFTER",
                "NOT BEFORE",
            ];
            table(&header, dump.secrets.iter().map(|entry| secret(entry, now)))
        }
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// `outbound|80|v1|host` says it all; other names stand for themselves.
fn cluster(cluster: &Value) -> Vec<String> {
    let kind = match (text(cluster, &["type"]), text(cluster, &["clusterType", "name"])) {
        ("", "") => "STATIC",
        ("", name) => name,
        (kind, _) => kind,
    };
    let (service, port, subset, direction) = parts(name(cluster));
    vec![
        service.to_owned(),
        dash(port),
        dash(subset),
        dash(direction),
        kind.to_owned(),
        origin(cluster),
    ]
}

/// Service, port, subset and direction of a cluster by its name.
pub(super) fn parts(name: &str) -> (&str, &str, &str, &str) {
    let parts: Vec<&str> = name.splitn(4, '|').collect();
    match parts[..] {
        [direction, port, subset, service] => (service, port, subset, direction),
        _ => (name, "", "", ""),
    }
}

/// The object that a cluster or route was made by, as `<name>.<namespace>`.
fn origin(resource: &Value) -> String {
    // /apis/networking.istio.io/<version>/namespaces/<namespace>/<kind>/<name>
    let path = text(resource, &["metadata", "filterMetadata", "istio", "config"]);
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "apis", _, _, "namespaces", namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

fn endpoints(assignment: &Value) -> Vec<Vec<String>> {
    let localities = items(assignment, &["endpoints"]);
    let rows = localities.flat_map(|locality| {
        let place = ["region", "zone", "subZone"].map(|key| text(locality, &["locality", key]));
        let place = place.join("/").trim_end_matches('/').to_owned();
        items(locality, &["lbEndpoints"]).map(move |endpoint| {
            vec![
                addresses(endpoint).join(","),
                // As the resource says; whether Envoy agrees is in its /clusters.
                match text(endpoint, &["healthStatus"]) {
                    "" | "UNKNOWN" => "HEALTHY".to_owned(),
                    status => status.to_owned(),
                },
                place.clone(),
                name(assignment).to_owned(),
            ]
        })
    });
    rows.collect()
}

/// The addresses of an endpoint, the first one first.
pub(super) fn addresses(endpoint: &Value) -> Vec<String> {
    let Some(inner) = field(endpoint, "endpoint") else {
        return vec![dash(text(endpoint, &["endpointName"]))];
    };
    let additional = items(inner, &["additionalAddresses"]).filter_map(|one| field(one, "address"));
    let all = field(inner, "address").into_iter().chain(additional);
    all.map(address).collect()
}

fn address(address: &Value) -> String {
    if let Some(socket) = field(address, "socketAddress") {
        let (host, port) = (
            text(socket, &["address"]),
            field(socket, "portValue").map(Value::to_string).unwrap_or_default(),
        );
        return if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
    }
    let internal = text(address, &["envoyInternalAddress", "serverListenerName"]);
    if internal.is_empty() {
        dash(text(address, &["pipe", "path"]))
    } else {
        let id = text(address, &["envoyInternalAddress", "endpointId"]);
        format!("envoy://{internal}/{id}")
    }
}

/// Of a chain the leaf counts, of roots the first that ends.
fn secret(entry: &Secret, now: SystemTime) -> Vec<String> {
    let secret = &entry.secret;
    let (kind, source) = if let Some(source) = at(secret, &["tlsCertificate", "certificateChain"]) {
        ("Cert Chain", Some(source))
    } else if let Some(source) = at(secret, &["validationContext", "trustedCa"]) {
        ("CA", Some(source))
    } else {
        ("", None)
    };
    let mut certificates = source
        .and_then(content)
        .and_then(|pem| Certificate::parse_pem(&pem).ok())
        .unwrap_or_default();
    if kind == "CA" {
        certificates.sort_by_key(Certificate::not_after);
    }
    let certificate = certificates.first();
    let time = |time: Option<SystemTime>| {
        time.map(|time| humantime::format_rfc3339_seconds(time).to_string())
            .unwrap_or_default()
    };
    vec![
        name(secret).to_owned(),
        kind.to_owned(),
        entry.state.to_owned(),
        certificate.is_some_and(|one| one.validity().contains(now)).to_string(),
        certificate.map(|one| one.serial().to_owned()).unwrap_or_default(),
        time(certificate.map(Certificate::not_after)),
        time(certificate.map(Certificate::not_before)),
    ]
}

fn content(source: &Value) -> Option<Vec<u8>> {
    use base64::Engine as _;
    match text(source, &["inlineString"]) {
        "" => base64::engine::general_purpose::STANDARD
            .decode(text(source, &["inlineBytes"]))
            .ok(),
        text => Some(text.as_bytes().to_vec()),
    }
}
