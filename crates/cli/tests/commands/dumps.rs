//! A dump of a proxy's configuration.

use base64::Engine as _;
use serde_json::{Value, json};

fn certificate() -> String {
    let params = rcgen::CertificateParams::new(vec!["proxy.test".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// A dump as the control plane writes it, and with field names as Envoy writes them.
pub(crate) fn dumps() -> [Value; 2] {
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate());
    let camel = json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters": [
                {"cluster": {
                    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                    "name": "outbound|9080|v1|ratings.shop.svc.cluster.local", "type": "EDS", "connectTimeout": "5s",
                    "metadata": {"filterMetadata": {"istio": {
                        "config": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/ratings",
                    }}},
                }},
                {"cluster": {"name": "PassthroughCluster", "type": "ORIGINAL_DST"}},
            ],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "dynamic_listeners": [{"name": "virtualInbound", "active_state": {"listener": {
                "name": "virtualInbound",
                "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}},
                "filterChains": [
                    {
                        "filterChainMatch": {"destinationPort": 9080, "transportProtocol": "tls"},
                        "filters": [{"typedConfig": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                            "rds": {"routeConfigName": "9080"},
                        }}],
                    },
                    {"filters": [{"typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "cluster": "InboundPassthroughCluster",
                    }}]},
                ],
            }}}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": [{"route_config": {"name": "9080", "virtualHosts": [{
                "name": "ratings:9080",
                "domains": ["ratings", "ratings:9080", "ratings.shop", "ratings.shop.svc", "ratings.shop.svc.cluster.local", "ratings.shop.svc.cluster.local."],
                "routes": [{
                    "match": {"prefix": "/api", "headers": [{"name": "end-user"}]},
                    "metadata": {"filterMetadata": {"istio": {
                        "config": "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/ratings",
                    }}},
                    "route": {"weightedClusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]}},
                }],
            }]}}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": [{"endpoint_config": {
                "clusterName": "outbound|9080|v1|ratings.shop.svc.cluster.local",
                "endpoints": [{
                    "locality": {"region": "r1", "zone": "z1"},
                    "lbEndpoints": [{
                        "endpoint": {"address": {"socketAddress": {"address": "fd00::1", "portValue": 9080}}},
                        "healthStatus": "UNHEALTHY",
                    }],
                }],
            }}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [{"name": "default", "secret": {"name": "default", "tlsCertificate": {
                "certificateChain": {"inlineBytes": certificate}, "privateKey": {"inlineString": "hidden"},
            }}}],
            "dynamic_warming_secrets": [{"name": "kubernetes://late"}],
        },
    ]});
    let mut text = camel.to_string();
    for (from, to) in [
        ("connectTimeout", "connect_timeout"),
        ("filterMetadata", "filter_metadata"),
        ("socketAddress", "socket_address"),
        ("portValue", "port_value"),
        ("filterChains", "filter_chains"),
        ("filterChainMatch", "filter_chain_match"),
        ("destinationPort", "destination_port"),
        ("transportProtocol", "transport_protocol"),
        ("typedConfig", "typed_config"),
        ("routeConfigName", "route_config_name"),
        ("virtualHosts", "virtual_hosts"),
        ("weightedClusters", "weighted_clusters"),
        ("clusterName", "cluster_name"),
        ("lbEndpoints", "lb_endpoints"),
        ("healthStatus", "health_status"),
        ("tlsCertificate", "tls_certificate"),
        ("certificateChain", "certificate_chain"),
        ("inlineBytes", "inline_bytes"),
        ("privateKey", "private_key"),
        ("inlineString", "inline_string"),
    ] {
        text = text.replace(from, to);
    }
    [camel, serde_json::from_str(&text).unwrap()]
}
