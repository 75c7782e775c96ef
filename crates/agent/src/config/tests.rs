//! Settings from flags, environment and files.

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

/// What `lateen-agent proxy <flags>` reads in this environment.
pub(crate) fn load<const N: usize>(flags: &str, variables: [(&str, &str); N]) -> anyhow::Result<AgentConfig> {
    let cli = Cli::parse_from(["lateen-agent", "proxy"].into_iter().chain(flags.split_whitespace()));
    let Command::Proxy(args) = cli.command else {
        panic!("not proxy")
    };
    AgentConfig::load(&args, Environment::from(variables), false)
}

#[test]
fn the_node_id_names_role_address_pod_and_domain() {
    let config = load(
        "sidecar",
        [
            ("INSTANCE_IP", "10.0.0.7"),
            ("POD_NAME", "reviews-1"),
            ("POD_NAMESPACE", "shop"),
            ("SERVICE_ACCOUNT", "reviews"),
        ],
    )
    .unwrap();
    assert_eq!(
        config.node_id(),
        "sidecar~10.0.0.7~reviews-1.shop~shop.svc.cluster.local"
    );
    assert_eq!(
        config.certificates.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/reviews"
    );
    assert_eq!(config.certificates.ca_address, "istiod.istio-system.svc:15012");
    assert!(config.dns.is_none());
}

#[test]
fn flags_win_over_the_environment() {
    let config = load(
        "router --admin-port 25000 --bind-address 127.1.0.7",
        [("PROXY_CONFIG", "proxyAdminPort: 16000\ndiscovery_address: localhost:1\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\", ISTIO_META_ENABLE_DNS_SERVER: \"true\"}")],
    )
    .unwrap();
    assert_eq!(config.admin(), "127.1.0.7:25000".parse().unwrap());
    assert_eq!(config.upstream.address, "localhost:1");
    assert_eq!(config.upstream.san.as_deref(), Some("istiod.istio-system.svc"));
    assert_eq!(config.dns.unwrap().listen, ["127.1.0.7:15053".parse().unwrap()]);
}

#[test]
fn queries_are_answered_on_every_ip_version_of_the_proxy() {
    let listen = |ips: &str| {
        let variables = [("INSTANCE_IP", ips), ("ISTIO_META_DNS_CAPTURE", "true")];
        load("sidecar", variables).unwrap().dns.unwrap().listen
    };
    assert!(listen("10.0.0.7").contains(&"127.0.0.1:15053".parse().unwrap()));
    assert!(listen("2001:db8::7").contains(&"[::1]:15053".parse().unwrap()));
    assert_eq!(listen("10.0.0.7,2001:db8::7").len(), 2);
}

#[test]
fn the_plaintext_port_of_the_ca_has_no_tls() {
    let config = load("sidecar", [("CA_ADDR", "ca.example.com:15010")]).unwrap();
    assert_eq!(config.certificates.ca_roots, Roots::Plaintext);
    let config = load(
        "sidecar",
        [("CA_ADDR", "ca.example.com:443"), ("CA_ROOT_CA", "/roots.pem")],
    )
    .unwrap();
    assert_eq!(config.certificates.ca_roots, Roots::File("/roots.pem".into()));
    assert_eq!(config.certificates.ca_san, None);
}

#[test]
fn mistakes_are_named() {
    let error = |variables: [(&str, &str); 1]| format!("{:#}", load("sidecar", variables).unwrap_err());
    assert!(error([("INSTANCE_IP", "ten")]).contains("INSTANCE_IP `ten`"));
    assert!(error([("PROXY_CONFIG", "proxyAdminPort: high")]).contains("ProxyConfig"));
    assert!(error([("PROXY_CONFIG", "- 1")]).contains("PROXY_CONFIG"));
    assert!(error([("CA_ADDR", "nowhere")]).contains("CA_ADDR"));
    assert!(error([("WORKLOAD_IDENTITY_SOCKET_FILE", "../x")]).contains("must be a file name"));
    assert!(error([("WORKLOAD_IDENTITY_SOCKET_FILE", "spire")]).contains("nobody listens"));
}
