//! Listeners and filter chains.

use serde_json::{Value, json};

use crate::testing::{direct, end, inspector, listener, manager, proxy, tcp_proxy};
use crate::{Connection, Entry, Http, Kind, Proxy, Request, Tls, Verdict, Version, simulate};

fn to(cluster: &str) -> Value {
    json!([{"filters": [tcp_proxy(cluster)]}])
}

fn connect(proxy: &Proxy, connection: Connection, http: Option<Http>) -> String {
    end(&simulate(proxy, &Request { connection, http }))
}

fn outbound(address: &str) -> Connection {
    Connection {
        entry: Entry::Outbound(address.parse().unwrap()),
        ..direct("0.0.0.0:0")
    }
}

fn tls(sni: &str, alpn: &[&str], peer: &[&str]) -> Option<Tls> {
    let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
    Some(Tls {
        sni: Some(sni.to_owned()),
        alpn: owned(alpn),
        peer: owned(peer),
    })
}

#[test]
fn intercepted_connections_go_to_the_most_exact_listener() {
    let catching = json!([
        {"filters": [tcp_proxy("blocked")], "filterChainMatch": {"destinationPort": 15001}},
        {"filters": [tcp_proxy("passed")]},
    ]);
    let unbound = || json!({"bindToPort": false, "trafficDirection": "OUTBOUND"});
    let proxy = proxy(
        &[
            listener(
                "virtualOutbound",
                "0.0.0.0",
                15001,
                catching,
                json!({"useOriginalDst": true}),
            ),
            listener("0.0.0.0_80", "0.0.0.0", 80, to("any"), unbound()),
            listener("10.0.0.1_80", "10.0.0.1", 80, to("exact"), unbound()),
            listener("in", "0.0.0.0", 15006, to("in"), json!({"trafficDirection": "INBOUND"})),
        ],
        &["any", "exact", "passed", "blocked", "in"],
    );
    for (address, wanted) in [
        ("10.0.0.1:80", "exact"),
        ("10.0.0.2:80", "any"),
        ("10.0.0.1:81", "passed"),
        ("10.0.0.1:15001", "blocked"),
        // Inbound listeners are none of those for the way out.
        ("10.0.0.1:15006", "passed"),
        // Other families have wildcards of their own.
        ("[fd00::1]:80", "passed"),
    ] {
        assert_eq!(connect(&proxy, outbound(address), None), wanted, "{address}");
    }
}

/// The chain that takes a connection to `10.0.0.1:80`, by its cluster.
fn chosen(chains: &[(&str, Value)], connection: Connection, http: Option<Http>) -> String {
    let made: Vec<Value> = chains
        .iter()
        .map(|(cluster, matched)| json!({"filters": [tcp_proxy(cluster)], "filterChainMatch": matched}))
        .collect();
    let more = json!({"listenerFilters": [inspector("tls"), inspector("http")], "defaultFilterChain": {"filters": [tcp_proxy("default")]}});
    let mut names: Vec<&str> = chains.iter().map(|(cluster, _)| *cluster).collect();
    names.push("default");
    let proxy = proxy(&[listener("l", "0.0.0.0", 80, made.into(), more)], &names);
    connect(&proxy, connection, http)
}

fn plain() -> Connection {
    direct("10.0.0.1:80")
}

fn with(tls: Option<Tls>) -> Connection {
    Connection { tls, ..plain() }
}

#[test]
fn ports_come_before_addresses_and_are_never_given_up() {
    let range = |prefix: &str, length: u32| json!([{"addressPrefix": prefix, "prefixLen": length}]);
    let chains = [
        ("wide", json!({"prefixRanges": range("10.0.0.0", 8)})),
        ("narrow", json!({"prefixRanges": range("10.0.0.0", 24)})),
        ("other", json!({"prefixRanges": range("10.0.1.0", 24)})),
    ];
    assert_eq!(chosen(&chains, plain(), None), "narrow");
    let chains = [
        ("narrow", json!({"prefixRanges": range("10.0.0.0", 24)})),
        ("port", json!({"destinationPort": 80})),
    ];
    assert_eq!(chosen(&chains, plain(), None), "port");
    // The port decides first; that its chain then does not fit brings no other chain back.
    let chains = [
        ("any", json!({})),
        (
            "port",
            json!({"destinationPort": 80, "prefixRanges": range("10.0.1.0", 24)}),
        ),
    ];
    assert_eq!(chosen(&chains, plain(), None), "default");
}

#[test]
fn server_names_match_exactly_then_by_longest_suffix() {
    let chains = [
        ("exact", json!({"serverNames": ["a.example.com"]})),
        ("short", json!({"serverNames": ["*.com"]})),
        ("long", json!({"serverNames": ["*.example.com"]})),
        ("none", json!({})),
    ];
    for (sni, wanted) in [
        ("A.example.com", "exact"),
        ("b.example.com", "long"),
        ("b.a.example.com", "long"),
        ("example.com", "short"),
        ("example.org", "none"),
    ] {
        assert_eq!(chosen(&chains, with(tls(sni, &[], &[])), None), wanted, "{sni}");
    }
    assert_eq!(chosen(&chains, plain(), None), "none");
    // A name that fits excludes chains without names, though nothing else of its chain fits.
    let chains = [
        ("named", json!({"serverNames": ["a"], "applicationProtocols": ["h2"]})),
        ("none", json!({})),
    ];
    assert_eq!(chosen(&chains, with(tls("a", &["http/1.1"], &[])), None), "default");
}

#[test]
fn inspectors_tell_transport_and_protocol() {
    let chains = [
        ("tls", json!({"transportProtocol": "tls"})),
        (
            "http",
            json!({"transportProtocol": "raw_buffer", "applicationProtocols": ["http/1.1", "h2c"]}),
        ),
        ("raw", json!({"transportProtocol": "raw_buffer"})),
    ];
    let http = |version| {
        Some(Http {
            version,
            ..Http::get("a", "/")
        })
    };
    assert_eq!(chosen(&chains, with(tls("", &[], &[])), http(Version::Http11)), "tls");
    assert_eq!(chosen(&chains, plain(), http(Version::Http11)), "http");
    assert_eq!(chosen(&chains, plain(), http(Version::Http2)), "http");
    assert_eq!(chosen(&chains, plain(), http(Version::Http10)), "raw");
    assert_eq!(chosen(&chains, plain(), None), "raw");
}

#[test]
fn the_first_protocol_that_the_client_offers_wins() {
    let chains = [
        ("one", json!({"applicationProtocols": ["h2"]})),
        ("two", json!({"applicationProtocols": ["istio"]})),
    ];
    assert_eq!(chosen(&chains, with(tls("", &["istio", "h2"], &[])), None), "two");
    assert_eq!(chosen(&chains, with(tls("", &["h2", "istio"], &[])), None), "one");
    assert_eq!(chosen(&chains, with(tls("", &["x"], &[])), None), "default");
}

#[test]
fn sources_are_asked_for_last() {
    let range = |prefix: &str| json!([{"addressPrefix": prefix, "prefixLen": 24}]);
    let chains = [
        ("near", json!({"sourcePrefixRanges": range("10.1.1.0")})),
        ("direct", json!({"directSourcePrefixRanges": range("10.1.1.0")})),
        ("far", json!({"sourcePrefixRanges": range("10.1.2.0")})),
    ];
    assert_eq!(chosen(&chains, plain(), None), "direct");
    let from = |ip: &str| Connection {
        source: Some(ip.parse().unwrap()),
        ..plain()
    };
    assert_eq!(chosen(&chains, from("10.1.2.1"), None), "far");
    let chains = [
        ("local", json!({"sourceType": "SAME_IP_OR_LOOPBACK"})),
        ("remote", json!({"sourceType": "EXTERNAL"})),
    ];
    assert_eq!(chosen(&chains, from("127.0.0.1"), None), "local");
    assert_eq!(chosen(&chains, from("10.1.2.1"), None), "remote");
}

#[test]
fn inspectors_can_be_off_for_ports() {
    let off = json!({"filterDisabled": {"destinationPortRange": {"start": 80, "end": 81}}});
    let mut tls_inspector = inspector("tls");
    tls_inspector
        .as_object_mut()
        .unwrap()
        .extend(off.as_object().cloned().unwrap());
    let chains = json!([
        {"filters": [tcp_proxy("tls")], "filterChainMatch": {"transportProtocol": "tls"}},
        {"filters": [tcp_proxy("raw")], "filterChainMatch": {"transportProtocol": "raw_buffer"}},
    ]);
    let inbound = |port: u16| Connection {
        entry: Entry::Inbound(([10, 0, 0, 1], port).into()),
        tls: tls("", &[], &[]),
        ..plain()
    };
    let more = json!({"trafficDirection": "INBOUND", "listenerFilters": [tls_inspector]});
    let proxy = proxy(
        &[listener("virtualInbound", "0.0.0.0", 15006, chains, more)],
        &["tls", "raw"],
    );
    assert_eq!(connect(&proxy, inbound(80), None), "raw");
    assert_eq!(connect(&proxy, inbound(81), None), "tls");
}

#[test]
fn tls_must_be_what_the_chain_expects() {
    let socket = |mutual: bool| {
        json!({"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "requireClientCertificate": mutual,
        }})
    };
    let table = json!({"virtualHosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]});
    let of = |socket: Option<Value>, tls: Option<Tls>| {
        let mut chain = json!({"filters": [manager(table.clone(), Vec::new(), json!({}))]});
        if let Some(socket) = socket {
            chain["transportSocket"] = socket;
        }
        let proxy = proxy(&[listener("l", "0.0.0.0", 80, json!([chain]), json!({}))], &["a"]);
        connect(&proxy, with(tls), Some(Http::get("a", "/")))
    };
    let peer = || tls("a", &[], &["spiffe://t/ns/n/sa/s"]);
    let nobody = || tls("a", &[], &[]);
    assert_eq!(of(None, None), "a");
    assert_eq!(of(None, nobody()), "refused");
    assert_eq!(of(Some(socket(false)), nobody()), "a");
    assert_eq!(of(Some(socket(false)), None), "refused");
    assert_eq!(of(Some(socket(true)), nobody()), "refused");
    assert_eq!(of(Some(socket(true)), peer()), "a");
}

#[test]
fn bytes_are_no_http_and_closed_ports_are_refused() {
    let table = json!({"virtualHosts": []});
    let chain = json!([{"filters": [manager(table, Vec::new(), json!({}))]}]);
    let proxy = proxy(&[listener("l", "0.0.0.0", 80, chain, json!({}))], &[]);
    assert_eq!(connect(&proxy, plain(), None), "refused");
    assert_eq!(connect(&proxy, direct("10.0.0.1:81"), None), "refused");
}

#[test]
fn what_lost_is_told_with_its_reason() {
    let chains = json!([
        {"name": "secure", "filters": [tcp_proxy("a")], "filterChainMatch": {"transportProtocol": "tls"}},
        {"name": "open", "filters": [tcp_proxy("a")]},
    ]);
    let proxy = proxy(&[listener("l", "0.0.0.0", 80, chains, json!({}))], &["a"]);
    let trace = simulate(
        &proxy,
        &Request {
            connection: plain(),
            http: None,
        },
    );
    let chain = trace.steps.iter().find(|step| step.kind == Kind::FilterChain).unwrap();
    assert_eq!(chain.name, "open");
    assert_eq!(chain.beaten[0].reason, "it is for TLS, the connection is plain text");
    assert!(matches!(trace.verdict(), Some(Verdict::Forwarded(forward)) if forward.http.is_none()));
}
