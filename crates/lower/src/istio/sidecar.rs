//! Sidecar: what a proxy sees and opens.

use std::sync::Arc;

use lateen_api::networking::sidecar as api;
use lateen_model::service::Protocol;
use lateen_model::sidecar::{
    CaptureMode, Egress, EgressHost, EgressNamespace, Ingress, OutboundPolicy, Sidecar, SidecarPort,
};
use lateen_model::{Diagnostic, Selector};
use lateen_names::{Hostname, Namespace};
use lateen_validate::Subject;

use super::destination_rule::lower_connection_pool;
use super::gateway::lower_server_tls;
use super::report::{Report, text};
use crate::Context;
use crate::context::{Meta, labels};

/// Lowers a Sidecar.
pub fn lower(object: &api::Sidecar, meta: &Meta, ctx: &Context<'_>, diags: &mut Vec<Diagnostic>) -> Sidecar {
    let spec = &object.spec;
    let findings = lateen_validate::sidecar::check(spec, &Subject::new(&object.metadata));
    let mut report = Report::new(&meta.origin, findings, diags);
    let egress = spec.egress.iter().enumerate();
    let egress = egress.filter_map(|(at, from)| egress_listener(from, &format!("spec.egress[{at}]"), &mut report));
    let egress = egress.collect();
    let ingress = spec.ingress.iter().enumerate();
    let ingress = ingress.filter_map(|(at, from)| ingress_listener(from, &format!("spec.ingress[{at}]"), &mut report));
    let ingress = ingress.collect();
    Sidecar {
        origin: meta.origin.clone(),
        namespace: meta.namespace.clone(),
        created: meta.created,
        // Without labels it is about the whole namespace.
        selector: (spec.workload_selector.as_ref())
            .filter(|selector| !selector.labels.is_empty())
            .map(|selector| Selector {
                labels: labels(Some(&selector.labels)),
            }),
        egress,
        ingress,
        outbound_policy: spec.outbound_traffic_policy.as_ref().and_then(|policy| {
            let host = |text: &str| ctx.host(text, &meta.namespace);
            lower_outbound_policy(policy, &host, "spec.outboundTrafficPolicy", &mut report)
        }),
        inbound_pool: spec.inbound_connection_pool.as_ref().map(lower_connection_pool),
    }
}

/// Policy toward unknown destinations; an egress proxy by its cluster's name.
fn lower_outbound_policy(
    from: &api::OutboundTrafficPolicy,
    host: &dyn Fn(&str) -> Result<Hostname, lateen_names::InvalidName>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<OutboundPolicy> {
    if from.mode != api::OutboundTrafficPolicyMode::AllowAny {
        return Some(OutboundPolicy::RegistryOnly);
    }
    let Some(proxy) = &from.egress_proxy else {
        return Some(OutboundPolicy::AllowAny);
    };
    let field = format!("{field}.egressProxy");
    let Some(port) = &proxy.port else {
        report.error(&format!("{field}.port"), "the port of the egress proxy is missing");
        return None;
    };
    let host = report.name(&format!("{field}.host"), host(&proxy.host))?;
    let name = format!("outbound|{}|{}|{host}", port.number, proxy.subset);
    Some(OutboundPolicy::EgressProxy(name.into()))
}

fn egress_listener(from: &api::IstioEgressListener, field: &str, report: &mut Report<'_>) -> Option<Egress> {
    let port = match &from.port {
        None => None,
        Some(port) => Some(sidecar_port(port, &from.bind, &format!("{field}.port"), report)?),
    };
    let hosts = from.hosts.iter().enumerate();
    let hosts = hosts
        .filter_map(|(at, host)| egress_host(host, &format!("{field}.hosts[{at}]"), report))
        .collect();
    Some(Egress {
        port,
        bind: text(&from.bind),
        capture: capture(from.capture_mode),
        hosts,
    })
}

/// `namespace/host`, where the namespace may be `*`, `.` or `~`.
fn egress_host(from: &str, field: &str, report: &mut Report<'_>) -> Option<EgressHost> {
    let Some((namespace, host)) = from.split_once('/') else {
        report.error(
            field,
            format!("`{from}` lacks a namespace; write namespace/host, such as ./* or istio-system/*"),
        );
        return None;
    };
    let namespace = match namespace {
        "*" => EgressNamespace::Any,
        "." => EgressNamespace::Own,
        "~" => EgressNamespace::None,
        name => EgressNamespace::Named(report.name(field, Namespace::new(name))?),
    };
    Some(EgressHost {
        namespace,
        host: report.name(field, Hostname::lower(host))?,
    })
}

fn ingress_listener(from: &api::IstioIngressListener, field: &str, report: &mut Report<'_>) -> Option<Ingress> {
    let Some(port) = &from.port else {
        report.error(
            &format!("{field}.port"),
            "the port is missing; give number and protocol",
        );
        return None;
    };
    Some(Ingress {
        port: sidecar_port(port, &from.bind, &format!("{field}.port"), report)?,
        bind: text(&from.bind),
        capture: capture(from.capture_mode),
        default_endpoint: text(&from.default_endpoint),
        tls: from.tls.as_ref().map(lower_server_tls),
        pool: from.connection_pool.as_ref().map(lower_connection_pool),
    })
}

fn sidecar_port(from: &api::SidecarPort, bind: &str, field: &str, report: &mut Report<'_>) -> Option<SidecarPort> {
    // Unix sockets have no number.
    let number = if from.number == 0 && bind.starts_with("unix://") {
        0
    } else {
        report.port(&format!("{field}.number"), from.number)?
    };
    Some(SidecarPort {
        number,
        name: Arc::from(from.name.as_str()),
        protocol: protocol(&from.protocol),
    })
}

/// A protocol by its name in any case.
pub(crate) fn protocol(name: &str) -> Protocol {
    match name.to_ascii_lowercase().as_str() {
        "" => Protocol::Unspecified,
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "https" => Protocol::Https,
        "tls" => Protocol::Tls,
        "tcp" => Protocol::Tcp,
        "mongo" => Protocol::Mongo,
        "redis" => Protocol::Redis,
        "mysql" => Protocol::MySql,
        "udp" => Protocol::Udp,
        "hbone" => Protocol::Hbone,
        _ => Protocol::Unsupported,
    }
}

fn capture(mode: api::CaptureMode) -> CaptureMode {
    match mode {
        api::CaptureMode::Iptables => CaptureMode::Iptables,
        api::CaptureMode::None => CaptureMode::None,
        _ => CaptureMode::Default,
    }
}
