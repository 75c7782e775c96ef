//! A connection from the listener to the filter that ends it.

use lateen_proto::envoy::config::core::v3::transport_socket;
use lateen_proto::envoy::config::listener::v3::filter::ConfigType;
use lateen_proto::envoy::config::listener::v3::{Filter, FilterChain};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_proto::envoy::extensions::filters::network::rbac::v3::Rbac;
use lateen_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use lateen_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use lateen_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use crate::headers::Headers;
use crate::matching::Metadata;
use crate::proxy::Proxy;
use crate::rbac::{self, Decision, Facts};
use crate::request::Request;
use crate::trace::{Forward, Kind, Outcome, Step, Trace, Verdict};
use crate::{chain, http, listener, upstream};

/// Ends of type names of filters that let connections pass as they are.
const HARMLESS: &[&str] = &[
    "set_filter_state.v3.Config",
    "mongo_proxy.v3.MongoProxy",
    "metadata_exchange.MetadataExchange",
    "sni_dynamic_forward_proxy.v3.FilterConfig",
];

/// Follows a request through a proxy.
pub fn simulate(proxy: &Proxy, request: &Request) -> Trace {
    let mut steps = Vec::new();
    match connect(proxy, request, &mut steps) {
        Ok(outcomes) => Trace::of(outcomes),
        Err(reason) => Trace::of(vec![Outcome {
            share: 1.0,
            steps,
            verdict: Verdict::Refused { reason },
        }]),
    }
}

fn connect(proxy: &Proxy, request: &Request, steps: &mut Vec<Step>) -> Result<Vec<Outcome>, String> {
    let connection = &request.connection;
    let (listener, step) = listener::choose(proxy, connection.entry)?;
    steps.push(step);
    let detected = listener::inspect(listener, request);
    let chain = match chain::choose(listener, connection, &detected) {
        Ok((chain, step)) => {
            steps.push(step);
            chain
        }
        Err((reason, beaten)) => {
            steps.push(Step::new(Kind::FilterChain, "none", reason.clone()).with_beaten(beaten));
            return Err(reason);
        }
    };
    let terminated = terminate(chain, request, steps)?;
    let mut by_name = false;
    for filter in &chain.filters {
        let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
            unsimulated(filter, steps);
            continue;
        };
        let is = |end: &str| config.type_url.ends_with(end);
        if is("http_connection_manager.v3.HttpConnectionManager") {
            let Ok(manager) = config.to_msg::<HttpConnectionManager>() else {
                return Err("the connection manager cannot be read".to_owned());
            };
            let Some(asked) = &request.http else {
                return Err("HTTP is expected, but the client speaks something else".to_owned());
            };
            if connection.tls.is_some() && !terminated {
                return Err("HTTP in plain text is expected, but the client speaks TLS".to_owned());
            }
            return Ok(http::run(
                proxy,
                &manager,
                connection,
                terminated,
                asked,
                std::mem::take(steps),
            ));
        }
        if is("tcp_proxy.v3.TcpProxy") {
            let Ok(config) = config.to_msg::<TcpProxy>() else {
                return Err("the TCP proxy cannot be read".to_owned());
            };
            return Ok(bytes(proxy, request, &config, by_name, terminated, steps));
        }
        if is("network.rbac.v3.RBAC") {
            if let Some(rules) = config.to_msg::<Rbac>().ok().and_then(|config| config.rules) {
                authorize(filter, &rules, request, terminated, steps)?;
            }
        } else if is("sni_cluster.v3.SniCluster") {
            by_name = true;
        } else if !HARMLESS.iter().any(|end| is(end)) {
            unsimulated(filter, steps);
        }
    }
    Err("no filter of the chain passes the connection on".to_owned())
}

fn unsimulated(filter: &Filter, steps: &mut Vec<Step>) {
    let why = "this filter is not simulated: the connection passes it unchanged";
    steps.push(Step::new(Kind::NetworkFilter, &filter.name, why));
}

/// Ends the client's TLS where the chain does; whether it did.
fn terminate(chain: &FilterChain, request: &Request, steps: &mut [Step]) -> Result<bool, String> {
    let Some(socket) = &chain.transport_socket else {
        return Ok(false);
    };
    let Some(transport_socket::ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Ok(false);
    };
    if !config.type_url.ends_with("tls.v3.DownstreamTlsContext") {
        return Ok(false);
    }
    let Some(tls) = &request.connection.tls else {
        return Err("TLS is expected, but the client speaks plain text".to_owned());
    };
    let Ok(context) = config.to_msg::<DownstreamTlsContext>() else {
        return Err("the settings of TLS cannot be read".to_owned());
    };
    let mutual = context.require_client_certificate == Some(true);
    if mutual && tls.peer.is_empty() {
        return Err("a client certificate is demanded, and the client shows none".to_owned());
    }
    if let Some(step) = steps.last_mut() {
        step.notes.push(if mutual {
            format!("mutual TLS with {}", tls.peer.join(", "))
        } else {
            "TLS ends here".to_owned()
        });
    }
    Ok(true)
}

fn authorize(
    filter: &Filter,
    rules: &lateen_proto::envoy::config::rbac::v3::Rbac,
    request: &Request,
    terminated: bool,
    steps: &mut Vec<Step>,
) -> Result<(), String> {
    let connection = &request.connection;
    let facts = Facts {
        destination: connection.entry.destination(),
        source: connection.source,
        client: connection.source,
        tls: connection.tls.as_ref().filter(|_| terminated),
        headers: &Headers::default(),
        metadata: &Metadata::default(),
    };
    match rbac::decide(rules, &facts) {
        Decision::Allowed(why) => steps.push(Step::new(Kind::NetworkFilter, &filter.name, why)),
        Decision::Open(why) => {
            let step = Step::new(Kind::NetworkFilter, &filter.name, why);
            steps.push(step.note("told is what happens if the connection may pass"));
        }
        Decision::Denied(why) => {
            steps.push(Step::new(Kind::NetworkFilter, &filter.name, why.clone()));
            return Err(why);
        }
    }
    Ok(())
}

/// Passes bytes to a cluster.
fn bytes(
    proxy: &Proxy,
    request: &Request,
    config: &TcpProxy,
    by_name: bool,
    terminated: bool,
    steps: &mut Vec<Step>,
) -> Vec<Outcome> {
    let connection = &request.connection;
    let clusters: Vec<(String, f64)> = match (&config.cluster_specifier, by_name) {
        (_, true) => vec![(
            connection
                .tls
                .as_ref()
                .and_then(|tls| tls.sni.clone())
                .unwrap_or_default(),
            1.0,
        )],
        (Some(ClusterSpecifier::Cluster(name)), _) => vec![(name.clone(), 1.0)],
        (Some(ClusterSpecifier::WeightedClusters(weighted)), _) => {
            let total: f64 = weighted.clusters.iter().map(|one| f64::from(one.weight)).sum();
            let share = |weight: u32| f64::from(weight) / total;
            let used = weighted.clusters.iter().filter(|one| one.weight > 0);
            used.map(|one| (one.name.clone(), share(one.weight))).collect()
        }
        (None, _) => Vec::new(),
    };
    let mut step = Step::new(
        Kind::NetworkFilter,
        "envoy.filters.network.tcp_proxy",
        "bytes are passed on as they are",
    );
    if connection.tls.is_some() && !terminated {
        step = step.note("the client's TLS passes through");
    }
    if let Some(tunnel) = &config.tunneling_config {
        step = step.note(format!("in an HTTP tunnel to {}", tunnel.hostname));
    }
    steps.push(step);
    let one = |(cluster, share): (String, f64)| {
        let mut steps = steps.clone();
        let refused = |steps, reason| Outcome {
            share,
            steps,
            verdict: Verdict::Refused { reason },
        };
        let Some(found) = proxy.clusters.get(&cluster) else {
            return refused(steps, format!("there is no cluster {cluster}"));
        };
        let upstream = upstream::describe(proxy, found, connection);
        steps.push(upstream::step(&upstream, share));
        if upstream.is_empty() {
            return refused(steps, format!("no endpoint of the cluster {cluster} takes connections"));
        }
        Outcome {
            share,
            steps,
            verdict: Verdict::Forwarded(Box::new(Forward {
                cluster,
                upstream: Some(upstream),
                http: None,
                delay: None,
            })),
        }
    };
    clusters.into_iter().map(one).collect()
}
