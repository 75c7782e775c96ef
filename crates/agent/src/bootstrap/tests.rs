//! Bootstraps against what users rely on.

use super::*;
use crate::config::load_for_test as load;

#[test]
fn metadata_has_the_keys_that_control_planes_read() {
    let config = load(
        "sidecar",
        [
            ("INSTANCE_IP", "127.0.0.9"),
            ("POD_NAME", "reviews-1"),
            ("POD_NAMESPACE", "shop"),
            ("SERVICE_ACCOUNT", "reviews"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            (
                "ISTIO_METAJSON_LABELS",
                r#"{"app":"reviews","version":"v1","istio-locality":"region.zone"}"#,
            ),
            ("ISTIO_METAJSON_ANY", r#"{"sidecar.istio.io/x":"y"}"#),
        ],
    )
    .unwrap();
    let node = build(&config).unwrap()["node"].clone();
    assert_eq!(node["id"], "sidecar~127.0.0.9~reviews-1.shop~shop.svc.cluster.local");
    assert_eq!(node["cluster"], "reviews.shop");
    assert_eq!(node["locality"], json!({ "region": "region", "zone": "zone" }));
    let mut metadata = node["metadata"].clone();
    let own = metadata.as_object_mut().unwrap().remove("LATEEN_VERSION");
    assert!(own.is_some());
    assert_eq!(
        metadata,
        json!({
            "CLUSTER_ID": "Kubernetes",
            "ENVOY_PROMETHEUS_PORT": 15090,
            "ENVOY_STATUS_PORT": 15021,
            "INSTANCE_IPS": "127.0.0.9",
            "INTERCEPTION_MODE": "REDIRECT",
            "ISTIO_VERSION": ISTIO_VERSION,
            "LABELS": { "app": "reviews", "version": "v1", "istio-locality": "region/zone" },
            "STATIC_LABELS": { "app": "reviews", "version": "v1", "istio-locality": "region/zone" },
            "LATEEN_ON_DEMAND": "true",
            "METADATA_DISCOVERY": "false",
            "NAME": "reviews-1",
            "NAMESPACE": "shop",
            "PILOT_SAN": ["istiod.istio-system.svc"],
            "PROXY_CONFIG": {
                "binaryPath": "/usr/local/bin/envoy",
                "configPath": "./etc/istio/proxy",
                "controlPlaneAuthPolicy": "MUTUAL_TLS",
                "discoveryAddress": "istiod.istio-system.svc:15012",
                "drainDuration": "45s",
                "proxyAdminPort": 15000,
                "serviceCluster": "istio-proxy",
                "statNameLength": 189,
                "statusPort": 15020,
                "terminationDrainDuration": "5s",
            },
            "SERVICE_ACCOUNT": "reviews",
            "WORKLOAD_IDENTITY_SOCKET_FILE": "socket",
            "WORKLOAD_NAME": "reviews-v1",
            // As Istio's agent: what a JSON variable holds is also metadata of its own.
            "app": "reviews",
            "version": "v1",
            "istio-locality": "region.zone",
            "sidecar.istio.io/x": "y",
        })
    );
}

#[test]
fn one_flag_moves_everything_that_is_bound() {
    let config = load("sidecar --bind-address 127.1.0.7", [("INSTANCE_IP", "127.1.0.7")]).unwrap();
    let bootstrap = build(&config).unwrap();
    let text = bootstrap.to_string();
    assert!(!text.contains("0.0.0.0") && !text.contains("\"127.0.0.1\""), "{text}");
    assert_eq!(bootstrap["static_resources"]["listeners"][0]["name"], "127.1.0.7_15090");
}

#[test]
fn service_clusters() {
    let cluster = |variables: [(&str, &str); 3]| node::service_cluster(&load("sidecar", variables).unwrap());
    let labels = (
        "ISTIO_METAJSON_LABELS",
        r#"{"app":"web","service.istio.io/canonical-name":"shop-web"}"#,
    );
    let ns = ("POD_NAMESPACE", "shop");
    assert_eq!(cluster([labels, ns, ("PROXY_CONFIG", "")]), "web.shop");
    assert_eq!(cluster([labels, ns, ("PROXY_CONFIG", "serviceCluster: mine")]), "mine");
    assert_eq!(
        cluster([labels, ns, ("PROXY_CONFIG", "tracingServiceName: CANONICAL_NAME_ONLY")]),
        "shop-web"
    );
    assert_eq!(
        cluster([
            labels,
            ns,
            ("PROXY_CONFIG", "tracingServiceName: CANONICAL_NAME_AND_NAMESPACE")
        ]),
        "shop-web.shop"
    );
    assert_eq!(cluster([("A", ""), ns, ("PROXY_CONFIG", "")]), "istio-proxy.shop");
}

mod golden;
