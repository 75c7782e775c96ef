//! Sidecar.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::gateway::ServerTlsMode;
use lateen_api::networking::sidecar::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, SidecarPort, SidecarSpec,
};

use crate::text::Protocol;
use crate::{Finding, Findings, Subject, destination_rule, gateway, policy, text};

/// What is wrong with a Sidecar.
pub fn check(spec: &SidecarSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    if let Some(selector) = &spec.workload_selector {
        policy::labels(&selector.labels, "spec.workloadSelector.labels", &mut findings);
        if selector.labels.is_empty() {
            findings.warning(
                "spec.workloadSelector",
                "the selector has no labels, so it selects every workload of the namespace",
            );
        }
    }
    if spec.egress.is_empty()
        && spec.ingress.is_empty()
        && spec.outbound_traffic_policy.is_none()
        && spec.inbound_connection_pool.is_none()
    {
        findings.error(
            "spec",
            "says nothing; give `egress`, `ingress`, `outboundTrafficPolicy` or `inboundConnectionPool`",
        );
    }
    let mut ports = BTreeSet::new();
    for (at, listener) in spec.ingress.iter().enumerate() {
        ingress(listener, &mut ports, &format!("spec.ingress[{at}]"), &mut findings);
    }
    if let Some(pool) = &spec.inbound_connection_pool {
        destination_rule::connection_pool(pool, "spec.inboundConnectionPool", &mut findings);
    }
    let mut listeners = BTreeSet::new();
    for (at, listener) in spec.egress.iter().enumerate() {
        let field = format!("spec.egress[{at}]");
        if let Some(port) = &listener.port {
            egress_port(port, listener, &field, &mut findings);
            let key = if port.number == 0 {
                listener.bind.clone()
            } else {
                port.number.to_string()
            };
            if !listeners.insert(key) {
                findings.error(format!("{field}.port"), "another listener has the same port or socket");
            }
        } else if at + 1 != spec.egress.len() {
            findings.error(format!("{field}.port"), "only the last listener can be without port");
        }
        egress_hosts(&listener.hosts, subject.namespace(), &field, &mut findings);
    }
    if let Some(policy) = &spec.outbound_traffic_policy
        && let Some(proxy) = &policy.egress_proxy
    {
        let field = "spec.outboundTrafficPolicy.egressProxy";
        if policy.mode != OutboundTrafficPolicyMode::AllowAny {
            findings.error(field, "needs `mode: ALLOW_ANY`");
        }
        findings.check(format!("{field}.host"), text::wildcard_domain(&proxy.host));
        match &proxy.port {
            None => findings.error(format!("{field}.port"), "the port is missing"),
            Some(port) => findings.check(format!("{field}.port.number"), text::port(port.number.into())),
        }
    }
    findings.0
}

fn common_port(port: &SidecarPort, field: &str, findings: &mut Findings) {
    if !port.name.is_empty() {
        findings.check(format!("{field}.port.name"), text::port_name(&port.name));
    }
    if port.target_port > 0 {
        findings.error(
            format!("{field}.port.targetPort"),
            "has no effect on sidecars; remove it",
        );
    }
    if !port.protocol.is_empty() && text::protocol(&port.protocol).is_none() {
        findings.error(
            format!("{field}.port.protocol"),
            format!("`{}` is no protocol", port.protocol),
        );
    }
}

fn ip_port(port: &SidecarPort, bind: &str, field: &str, findings: &mut Findings) {
    findings.check(format!("{field}.port.number"), text::port(port.number.into()));
    if !bind.is_empty() && bind.parse::<std::net::IpAddr>().is_err() {
        findings.error(format!("{field}.bind"), format!("`{bind}` is no IP address"));
    }
}

fn ingress(listener: &IstioIngressListener, ports: &mut BTreeSet<u32>, field: &str, findings: &mut Findings) {
    let Some(port) = &listener.port else {
        return findings.error(format!("{field}.port"), "the port is missing");
    };
    common_port(port, field, findings);
    ip_port(port, &listener.bind, field, findings);
    if !ports.insert(port.number) {
        findings.error(
            format!("{field}.port.number"),
            format!("another listener has port {} too", port.number),
        );
    }
    if !listener.default_endpoint.is_empty() {
        findings.check(
            format!("{field}.defaultEndpoint"),
            default_endpoint(&listener.default_endpoint),
        );
    }
    let protocol = text::protocol(&port.protocol);
    if let Some(tls) = &listener.tls {
        let field = format!("{field}.tls");
        let unsupported = [
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
            ("httpsRedirect", tls.https_redirect),
            ("credentialName", !tls.credential_name.is_empty()),
            ("credentialNames", !tls.credential_names.is_empty()),
            ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ];
        for (name, _) in unsupported.iter().filter(|(_, given)| *given) {
            findings.error(format!("{field}.{name}"), "is not supported in sidecars");
        }
        if matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough) {
            findings.error(
                format!("{field}.mode"),
                format!("{} is not supported in sidecars", tls.mode),
            );
        }
        if protocol != Some(Protocol::Tls) {
            findings.error(
                &field,
                format!("{} has no TLS; use protocol HTTPS or TLS", port.protocol),
            );
        }
        gateway::server_tls(tls, &field, findings);
    }
    if let Some(pool) = &listener.connection_pool {
        let field = format!("{field}.connectionPool");
        destination_rule::connection_pool(pool, &field, findings);
        if pool.http.is_some() && protocol != Some(Protocol::Http) {
            findings.warning(
                format!("{field}.http"),
                format!("has no effect: protocol {} is not HTTP", port.protocol),
            );
        }
    }
}

/// `127.0.0.1:port`, `[::1]:port`, the same with the unspecified addresses, `:port`, or a Unix socket.
fn default_endpoint(text: &str) -> Result<(), String> {
    if let Some(path) = text.strip_prefix("unix://") {
        return text::unix_socket(path);
    }
    let form = || {
        format!(
            "`{text}` must be 127.0.0.1:<port>, [::1]:<port>, 0.0.0.0:<port>, [::]:<port>, :<port> or unix://<path>"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
    if !matches!(host, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]") {
        return Err(form());
    }
    text::port(port.parse::<i64>().map_err(|_| form())?)
}

fn egress_port(port: &SidecarPort, listener: &IstioEgressListener, field: &str, findings: &mut Findings) {
    common_port(port, field, findings);
    if port.number != 0 {
        return ip_port(port, &listener.bind, field, findings);
    }
    match listener.bind.strip_prefix("unix://") {
        Some(path) => findings.check(format!("{field}.bind"), text::unix_socket(path)),
        None => findings.error(
            format!("{field}.bind"),
            "without port it must be a Unix socket, unix://<path>",
        ),
    }
    if listener.capture_mode == CaptureMode::Iptables {
        findings.error(
            format!("{field}.captureMode"),
            "a Unix socket cannot be captured; use DEFAULT or NONE",
        );
    }
}

fn egress_hosts(hosts: &[String], own: &str, field: &str, findings: &mut Findings) {
    if hosts.is_empty() {
        findings.error(
            format!("{field}.hosts"),
            "there is no host; give at least one, for example `*/*`",
        );
    }
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (at, host) in hosts.iter().enumerate() {
        let field = format!("{field}.hosts[{at}]");
        findings.check(&field, text::namespaced_host(host, false));
        let Some((namespace, name)) = host
            .split_once('/')
            .filter(|(namespace, _)| !namespace.starts_with('~'))
        else {
            continue;
        };
        let known = seen.entry(if namespace == "." { own } else { namespace }).or_default();
        let doubled = if name == "*" {
            !known.is_empty()
        } else {
            known.contains(name) || known.contains("*")
        };
        if doubled {
            findings.warning(field, format!("`{host}` overlaps with another entry"));
        }
        known.insert(name);
    }
    if seen.get("*").is_some_and(|names| names.contains("*")) && seen.len() > 1 {
        findings.warning(
            format!("{field}.hosts"),
            "`*/*` already is everything; the other entries have no effect",
        );
    }
}
