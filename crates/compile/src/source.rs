//! Where Envoy gets configuration from.

use lateen_proto::envoy::config::core::v3::api_config_source::ApiType;
use lateen_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use lateen_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService,
};

/// The stream over which it gets everything else.
pub(crate) fn ads() -> ConfigSource {
    from(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}))
}

/// A stream of its own, to a cluster of the bootstrap.
pub(crate) fn over_grpc(cluster: &str) -> ConfigSource {
    from(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![grpc_service(cluster)],
        ..Default::default()
    }))
}

/// A server of gRPC behind a cluster of the bootstrap.
pub(crate) fn grpc_service(cluster: &str) -> GrpcService {
    let server = EnvoyGrpc {
        cluster_name: cluster.to_owned(),
        ..Default::default()
    };
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(server)),
        ..Default::default()
    }
}

/// What is waited for without limit before it is used.
pub(crate) fn awaited(source: ConfigSource) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(prost_types::Duration::default()),
        ..source
    }
}

fn from(source: ConfigSourceSpecifier) -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(source),
        resource_api_version: ApiVersion::V3.into(),
        ..Default::default()
    }
}
