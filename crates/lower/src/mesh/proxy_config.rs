//! ProxyConfig, as far as it changes what a proxy is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::mesh::proxy_config::{
    CustomTagType, ForwardClientCertDetails, InboundInterceptionMode, MetadataExchangeMode, ProxyConfig as Api,
    ProxyHeaders as ApiHeaders, Tracer as ApiTracer, Tracing,
};
use lateen_model::mesh::{ProxyConfig, ProxyHeaders, ProxyTracing, Tracer};
use lateen_model::policy::TagSource;
use lateen_model::proxy::Interception;

use crate::istio::destination_rule::lower_client_tls;

/// Lowers a ProxyConfig.
pub fn lower(config: &Api) -> ProxyConfig {
    let topology = config.gateway_topology.as_ref();
    ProxyConfig {
        tracing: config.tracing.as_ref().map(tracing).unwrap_or_default(),
        headers: config.proxy_headers.as_ref().map(headers).unwrap_or_default(),
        trusted_proxies: topology
            .map(|topology| topology.num_trusted_proxies)
            .unwrap_or_default(),
        forward_client_cert: topology.and_then(|topology| forward(topology.forward_client_cert_details)),
        proxy_protocol: topology.is_some_and(|topology| topology.proxy_protocol.is_some()),
        private_key_provider: config
            .private_key_provider
            .as_ref()
            .and_then(|provider| serde_json::to_string(provider).ok())
            .map(Arc::from),
        status_port: u16::try_from(config.status_port).unwrap_or_default(),
        drain: config.drain_duration.and_then(lateen_api::Duration::to_std),
        interception: match config.interception_mode {
            InboundInterceptionMode::Redirect => None,
            InboundInterceptionMode::Tproxy => Some(Interception::Tproxy),
            InboundInterceptionMode::None => Some(Interception::None),
        },
        access_log_service: config
            .envoy_access_log_service
            .as_ref()
            .map(|service| service.address.as_str().into()),
        ca_certificates: config
            .ca_certificates_pem
            .iter()
            .map(|pem| pem.as_str().into())
            .collect(),
    }
}

fn tracing(tracing: &Tracing) -> ProxyTracing {
    let tags = tracing.custom_tags.iter().filter_map(|(name, tag)| {
        let source = match tag.r#type()? {
            CustomTagType::Literal(literal) => TagSource::Literal(literal.value.as_str().into()),
            CustomTagType::Environment(environment) => TagSource::Environment(
                environment.name.as_str().into(),
                environment.default_value.as_str().into(),
            ),
            CustomTagType::Header(header) => {
                TagSource::Header(header.name.as_str().into(), header.default_value.as_str().into())
            }
        };
        Some((Arc::from(name.as_str()), source))
    });
    ProxyTracing {
        tracer: tracing.tracer().map(|tracer| {
            let (kind, address, token) = match tracer {
                ApiTracer::Zipkin(zipkin) => ("zipkin", zipkin.address.as_str(), None),
                ApiTracer::Lightstep(lightstep) => {
                    ("lightstep", lightstep.address.as_str(), Some(&lightstep.access_token))
                }
                ApiTracer::Datadog(datadog) => ("datadog", datadog.address.as_str(), None),
                ApiTracer::Stackdriver(_) => ("stackdriver", "", None),
                ApiTracer::OpenCensusAgent(agent) => ("openCensusAgent", agent.address.as_str(), None),
            };
            Tracer {
                kind: kind.into(),
                address: address.into(),
                access_token: token.map(|token| token.as_str().into()),
            }
        }),
        // 0 is what an absent number reads as: Istio takes its default then.
        sampling: (tracing.sampling > 0.0).then(|| (tracing.sampling.min(100.0) * 10_000.0) as u32),
        max_path_tag_length: tracing.max_path_tag_length,
        tags: tags.collect::<BTreeMap<_, _>>(),
        istio_tags: tracing.enable_istio_tags,
        tls: tracing.tls_settings.as_ref().map(lower_client_tls),
    }
}

fn headers(headers: &ApiHeaders) -> ProxyHeaders {
    let enabled = |disabled: Option<bool>| !disabled.unwrap_or_default();
    ProxyHeaders {
        forwarded_client_cert: forward(headers.forwarded_client_cert),
        set_current_client_cert_details: headers.set_current_client_cert_details.as_ref().map(|details| {
            let on = |value: Option<bool>| value.unwrap_or_default();
            (
                on(details.subject),
                on(details.cert),
                on(details.chain),
                on(details.dns),
                on(details.uri),
            )
        }),
        request_id: headers.request_id.as_ref().map(|header| enabled(header.disabled)),
        server: headers
            .server
            .as_ref()
            .and_then(|header| match enabled(header.disabled) {
                false => Some(None),
                true if header.value.is_empty() => None,
                true => Some(Some(header.value.as_str().into())),
            }),
        attempt_count: headers.attempt_count.as_ref().map(|header| enabled(header.disabled)),
        envoy_debug_headers: headers
            .envoy_debug_headers
            .as_ref()
            .map(|header| enabled(header.disabled)),
        metadata_exchange_in_mesh: headers
            .metadata_exchange_headers
            .as_ref()
            .is_some_and(|headers| headers.mode == MetadataExchangeMode::InMesh),
        preserve_http1_case: headers.preserve_http1_header_case,
        x_forwarded_host: headers.x_forwarded_host.as_ref().and_then(|header| header.enabled),
        x_forwarded_port: headers.x_forwarded_port.as_ref().and_then(|header| header.enabled),
    }
}

/// Envoy's numbers; `None` where Istio's default holds.
fn forward(details: ForwardClientCertDetails) -> Option<i32> {
    match details {
        ForwardClientCertDetails::Undefined => None,
        ForwardClientCertDetails::Sanitize => Some(0),
        ForwardClientCertDetails::ForwardOnly => Some(1),
        ForwardClientCertDetails::AppendForward => Some(2),
        ForwardClientCertDetails::SanitizeSet => Some(3),
        ForwardClientCertDetails::AlwaysForwardOnly => Some(4),
    }
}
