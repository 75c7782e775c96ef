//! What a proxy should hold, in the form of Envoy's admin interface. Private keys are left out.

use axum::extract::{Extension, Json, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lateen_distribute::ConnectedProxy;
use lateen_proto::Any;
use lateen_proto::envoy::admin::v3::clusters_config_dump::DynamicCluster;
use lateen_proto::envoy::admin::v3::ecds_config_dump::EcdsFilterConfig;
use lateen_proto::envoy::admin::v3::endpoints_config_dump::DynamicEndpointConfig;
use lateen_proto::envoy::admin::v3::listeners_config_dump::{DynamicListener, DynamicListenerState};
use lateen_proto::envoy::admin::v3::routes_config_dump::DynamicRouteConfig;
use lateen_proto::envoy::admin::v3::secrets_config_dump::DynamicSecret;
use lateen_proto::envoy::admin::v3::{
    BootstrapConfigDump, ClustersConfigDump, EcdsConfigDump, EndpointsConfigDump, ListenersConfigDump,
    RoutesConfigDump, ScopedRoutesConfigDump, SecretsConfigDump,
};
use lateen_proto::envoy::config::core::v3::DataSource;
use lateen_proto::envoy::config::core::v3::data_source::Specifier;
use lateen_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
use lateen_xds::{Resource, ResourceSet, types};
use prost::Message as _;
use serde_json::json;

use super::access::Caller;
use super::{Debug, Which, not_connected};

/// Types by the short names that `?types=` takes.
const SHORT: &[(&str, &str)] = &[
    ("cds", types::CLUSTER),
    ("lds", types::LISTENER),
    ("rds", types::ROUTE),
    ("eds", types::ENDPOINTS),
    ("sds", types::SECRET),
    ("ecds", types::EXTENSION),
    ("nds", types::NAME_TABLE),
    ("pcds", types::PROXY_CONFIG),
    ("vhds", types::VIRTUAL_HOST),
];

/// `/debug/config_dump`.
pub(super) async fn config_dump(
    State(debug): State<Debug>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Response {
    answer(&debug, &caller, &which)
}

/// `/debug/edsz`.
pub(super) async fn edsz(debug: State<Debug>, caller: Extension<Caller>, which: Query<Which>) -> Response {
    of_type("eds", debug, caller, which)
}

/// `/debug/ecdsz`.
pub(super) async fn ecdsz(debug: State<Debug>, caller: Extension<Caller>, which: Query<Which>) -> Response {
    of_type("ecds", debug, caller, which)
}

/// `/debug/ndsz`.
pub(super) async fn ndsz(debug: State<Debug>, caller: Extension<Caller>, which: Query<Which>) -> Response {
    of_type("nds", debug, caller, which)
}

fn of_type(
    short: &str,
    State(debug): State<Debug>,
    Extension(caller): Extension<Caller>,
    Query(mut which): Query<Which>,
) -> Response {
    short.clone_into(&mut which.types);
    answer(&debug, &caller, &which)
}

fn answer(debug: &Debug, caller: &Caller, which: &Which) -> Response {
    if which.proxy.is_empty() {
        return (StatusCode::BAD_REQUEST, "name a proxy: ?proxyID=<pod>.<namespace>\n").into_response();
    }
    let Some(proxy) = debug.proxy(&which.proxy, caller) else {
        return not_connected(&which.proxy);
    };
    let configs = if which.types.is_empty() {
        configs(&proxy, which.include_eds.is_some())
    } else {
        let mut configs = Vec::new();
        for short in which.types.split(',') {
            let Some((_, url)) = SHORT.iter().find(|(name, _)| name.eq_ignore_ascii_case(short)) else {
                let known: Vec<&str> = SHORT.iter().map(|(name, _)| *name).collect();
                let text = format!("there is no type `{short}`; there are {}\n", known.join(", "));
                return (StatusCode::BAD_REQUEST, text).into_response();
            };
            configs.extend(resources(&proxy, url).into_iter().map(|(_, body)| body));
        }
        configs
    };
    let configs: Result<Vec<_>, _> = configs.iter().map(lateen_proto::any_to_json).collect();
    match configs {
        Ok(configs) => Json(json!({"configs": configs})).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The parts of Envoy's own dump, in its order.
pub(super) fn configs(proxy: &ConnectedProxy, with_endpoints: bool) -> Vec<Any> {
    let version = proxy.wanted.version.to_string();
    let of = |url: &str| resources(proxy, url).into_iter();
    let cluster = |body: Any| DynamicCluster {
        version_info: version.clone(),
        cluster: Some(body),
        ..DynamicCluster::default()
    };
    let clusters = ClustersConfigDump {
        version_info: version.clone(),
        dynamic_active_clusters: of(types::CLUSTER).map(|(_, body)| cluster(body)).collect(),
        dynamic_warming_clusters: on_demand(proxy).map(|(_, body)| cluster(body)).collect(),
        ..ClustersConfigDump::default()
    };
    let listeners = ListenersConfigDump {
        version_info: version.clone(),
        dynamic_listeners: of(types::LISTENER)
            .map(|(name, body)| DynamicListener {
                name,
                active_state: Some(DynamicListenerState {
                    version_info: version.clone(),
                    listener: Some(body),
                    ..DynamicListenerState::default()
                }),
                ..DynamicListener::default()
            })
            .collect(),
        ..ListenersConfigDump::default()
    };
    let mut all = vec![
        lateen_proto::any(&BootstrapConfigDump::default()),
        lateen_proto::any(&clusters),
    ];
    if with_endpoints {
        all.push(endpoints(proxy, &version));
    }
    all.push(lateen_proto::any(&listeners));
    all.push(lateen_proto::any(&ScopedRoutesConfigDump::default()));
    all.extend(routes_secrets_extensions(proxy, &version));
    all
}

fn endpoints(proxy: &ConnectedProxy, version: &str) -> Any {
    let one = |(_, body)| DynamicEndpointConfig {
        version_info: version.to_owned(),
        endpoint_config: Some(body),
        ..DynamicEndpointConfig::default()
    };
    lateen_proto::any(&EndpointsConfigDump {
        dynamic_endpoint_configs: resources(proxy, types::ENDPOINTS).into_iter().map(one).collect(),
        ..EndpointsConfigDump::default()
    })
}

/// Route tables as Envoy shows them: with their virtual hosts, whichever way these came.
fn tables(proxy: &ConnectedProxy) -> impl Iterator<Item = Any> {
    let hosts = proxy.wanted.set(types::VIRTUAL_HOST);
    resources(proxy, types::ROUTE).into_iter().map(move |(name, body)| {
        let prefix = format!("{name}/");
        let mut more = hosts.iter().flat_map(|hosts| hosts.with_prefix(&prefix)).peekable();
        let table = RouteConfiguration::decode(body.value.as_slice());
        let (Ok(mut table), Some(_)) = (table, more.peek()) else {
            return body;
        };
        table.virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
        let decoded = more.filter_map(|host| VirtualHost::decode(host.body.clone()).ok());
        table.virtual_hosts.extend(decoded);
        lateen_proto::any(&table)
    })
}

fn routes_secrets_extensions(proxy: &ConnectedProxy, version: &str) -> [Any; 3] {
    let of = |url: &str| resources(proxy, url).into_iter();
    let version = || version.to_owned();
    let routes = RoutesConfigDump {
        dynamic_route_configs: tables(proxy)
            .map(|body| DynamicRouteConfig {
                version_info: version(),
                route_config: Some(body),
                ..DynamicRouteConfig::default()
            })
            .collect(),
        ..RoutesConfigDump::default()
    };
    let secrets = SecretsConfigDump {
        dynamic_active_secrets: of(types::SECRET)
            .map(|(name, body)| DynamicSecret {
                name,
                version_info: version(),
                secret: Some(body),
                ..DynamicSecret::default()
            })
            .collect(),
        ..SecretsConfigDump::default()
    };
    let extensions = EcdsConfigDump {
        ecds_filters: of(types::EXTENSION)
            .map(|(_, body)| EcdsFilterConfig {
                version_info: version(),
                ecds_filter: Some(body),
                ..EcdsFilterConfig::default()
            })
            .collect(),
    };
    [
        lateen_proto::any(&routes),
        lateen_proto::any(&secrets),
        lateen_proto::any(&extensions),
    ]
}

/// The resources of a type that a proxy should hold, by name.
fn resources(proxy: &ConnectedProxy, url: &str) -> Vec<(String, Any)> {
    let all = proxy.wanted.set(url).into_iter().flat_map(ResourceSet::iter);
    all.map(|resource| shown(url, resource)).collect()
}

/// Clusters that a proxy gets when it first uses them. Which of them it has is for its stream to know; Envoy, too, shows
/// apart what is not in use yet.
fn on_demand(proxy: &ConnectedProxy) -> impl Iterator<Item = (String, Any)> {
    let unasked = proxy.wanted.set(types::CLUSTER);
    let more = proxy.wanted.by_name.get(types::CLUSTER);
    let named = more.into_iter().flat_map(ResourceSet::iter);
    named
        .filter(move |resource| unasked.is_none_or(|set| set.get(&resource.name).is_none()))
        .map(|resource| shown(types::CLUSTER, resource))
}

fn shown(url: &str, resource: &Resource) -> (String, Any) {
    let value = if url == types::SECRET {
        public(&resource.body)
    } else if url == types::EXTENSION {
        lateen_compile::extension::public(&resource.body)
    } else {
        resource.body.to_vec()
    };
    let body = Any {
        type_url: url.to_owned(),
        value,
    };
    (resource.name.to_string(), body)
}

/// A secret without all that is secret: only certificates are kept.
fn public(bytes: &[u8]) -> Vec<u8> {
    let whole = Secret::decode(bytes).unwrap_or_default();
    let kept = match whole.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: certificate.certificate_chain,
            private_key: certificate.private_key.map(|_| DataSource {
                specifier: Some(Specifier::InlineBytes(b"[redacted]".as_slice().into())),
                ..DataSource::default()
            }),
            ..TlsCertificate::default()
        })),
        Some(secret::Type::ValidationContext(context)) => Some(secret::Type::ValidationContext(context)),
        _ => None,
    };
    Secret {
        name: whole.name,
        r#type: kept,
    }
    .encode_to_vec()
}
