//! Small proxies for tests, written as Envoy's JSON.

use lateen_proto::envoy::config::listener::v3::Listener;
use lateen_proto::from_json;
use serde_json::{Value, json};

use crate::{Answer, Connection, Entry, Forward, Http, Proxy, Request, Trace, Verdict, simulate};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters";

/// A connection manager as a network filter.
pub(crate) fn manager(table: Value, filters: Vec<Value>, more: Value) -> Value {
    let mut filters = filters;
    filters.push(http_filter("envoy.filters.http.router", "router.v3.Router", json!({})));
    let mut config = json!({
        "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
        "statPrefix": "test",
        "routeConfig": table,
        "httpFilters": filters,
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap());
    json!({"name": "hcm", "typedConfig": config})
}

pub(crate) fn http_filter(name: &str, kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = format!("{TYPE}.http.{kind}").into();
    json!({"name": name, "typedConfig": config})
}

pub(crate) fn tcp_proxy(cluster: &str) -> Value {
    let kind = format!("{TYPE}.network.tcp_proxy.v3.TcpProxy");
    json!({"name": "tcp", "typedConfig": {"@type": kind, "statPrefix": "test", "cluster": cluster}})
}

pub(crate) fn inspector(kind: &str) -> Value {
    let of = match kind {
        "tls" => "tls_inspector.v3.TlsInspector",
        _ => "http_inspector.v3.HttpInspector",
    };
    json!({"name": format!("envoy.filters.listener.{kind}_inspector"), "typedConfig": {"@type": format!("{TYPE}.listener.{of}")}})
}

/// A listener of one chain at an address.
pub(crate) fn listener(name: &str, ip: &str, port: u16, chains: Value, more: Value) -> Value {
    let mut listener = json!({
        "name": name,
        "address": {"socketAddress": {"address": ip, "portValue": port}},
        "filterChains": chains,
    });
    listener
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap());
    listener
}

/// A cluster of one endpoint for each name.
pub(crate) fn proxy(listeners: &[Value], clusters: &[&str]) -> Proxy {
    let mut proxy = Proxy::default();
    for one in listeners {
        proxy.add_listener(from_json::<Listener>(one).unwrap());
    }
    for (index, name) in clusters.iter().enumerate() {
        let address = json!({"socketAddress": {"address": format!("10.9.0.{index}"), "portValue": 80}});
        let cluster = json!({
            "name": name,
            "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}]},
        });
        proxy.add_cluster(from_json(&cluster).unwrap());
    }
    proxy
}

/// A proxy that listens at port 80 and has clusters `a`, `b` and `c`.
pub(crate) fn router(table: Value, filters: Vec<Value>, more: Value) -> Proxy {
    let chain = json!([{"filters": [manager(table, filters, more)]}]);
    proxy(&[listener("door", "0.0.0.0", 80, chain, json!({}))], &["a", "b", "c"])
}

/// Routes of one virtual host for every host.
pub(crate) fn routes(routes: Value) -> Proxy {
    let table = json!({"name": "t", "virtualHosts": [{"name": "v", "domains": ["*"], "routes": routes}]});
    router(table, Vec::new(), json!({}))
}

pub(crate) fn direct(address: &str) -> Connection {
    Connection {
        entry: Entry::Direct(address.parse().unwrap()),
        source: Some("10.1.1.1".parse().unwrap()),
        tls: None,
    }
}

pub(crate) fn ask(proxy: &Proxy, http: Http) -> Trace {
    let request = Request {
        connection: direct("10.0.0.1:80"),
        http: Some(http),
    };
    simulate(proxy, &request)
}

pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Http {
    Http {
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Http::get("shop", path)
    }
}

/// The cluster that a request goes to, or the status that it is answered.
pub(crate) fn end(trace: &Trace) -> String {
    match trace.verdict().unwrap() {
        Verdict::Forwarded(forward) => forward.cluster.clone(),
        Verdict::Answered(answer) => answer.status.to_string(),
        Verdict::Refused { .. } => "refused".to_owned(),
    }
}

pub(crate) fn forwarded(trace: &Trace) -> &Forward {
    match trace.verdict() {
        Some(Verdict::Forwarded(forward)) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

pub(crate) fn answered(trace: &Trace) -> &Answer {
    match trace.verdict() {
        Some(Verdict::Answered(answer)) => answer,
        other => panic!("not answered: {other:?}"),
    }
}
