//! Clusters that are there whatever the services are.

use envoy::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use lateen_model::Shared;
use lateen_proto::envoy::config::cluster::v3 as envoy;
use lateen_proto::envoy::config::endpoint::v3 as endpoint;

use super::settings::Settings;
use super::{http, inbound, pool, tls, values};
use crate::built::{Built, Resource};
use crate::names;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Where connections end.
    BlackHole,
    /// Where connections to nobody known go on to.
    Passthrough,
    /// The same for inbound ones.
    InboundPassthrough,
    /// An SDS server in the pod.
    CredentialSocket,
}

/// What one is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Fixed {
    pub(crate) kind: Kind,
    pub(crate) settings: Shared<Settings>,
}

impl Fixed {
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::BlackHole => names::BLACK_HOLE,
            Kind::Passthrough => names::PASSTHROUGH,
            Kind::InboundPassthrough => names::INBOUND_PASSTHROUGH,
            Kind::CredentialSocket => tls::EXTERNAL,
        }
    }

    pub(crate) fn build(&self) -> Built {
        let cluster = match self.kind {
            Kind::BlackHole => self.plain(names::BLACK_HOLE, DiscoveryType::Static),
            Kind::Passthrough => self.passthrough(),
            Kind::InboundPassthrough => {
                let mut cluster = self.passthrough();
                cluster.name = names::INBOUND_PASSTHROUGH.to_owned();
                cluster.upstream_bind_config = Some(inbound::bind(&self.settings, true));
                cluster
            }
            Kind::CredentialSocket => self.credential_socket(),
        };
        Built::new(Resource::encode(self.name(), &cluster), [])
    }

    fn plain(&self, name: &str, kind: DiscoveryType) -> envoy::Cluster {
        envoy::Cluster {
            name: name.to_owned(),
            alt_stat_name: format!("{name};"),
            connect_timeout: Some(values::duration(self.settings.connect_timeout)),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
            ..envoy::Cluster::default()
        }
    }

    fn passthrough(&self) -> envoy::Cluster {
        let mut cluster = self.plain(names::PASSTHROUGH, DiscoveryType::OriginalDst);
        cluster.lb_policy = LbPolicy::ClusterProvided.into();
        let limits = self.settings.default_policy.pool.clone().unwrap_or_default();
        pool::limit(&mut cluster, &limits, None, &self.settings);
        let options = http::passthrough(self.settings.keeps_case);
        cluster
            .typed_extension_protocol_options
            .insert(http::KEY.to_owned(), options);
        cluster
    }

    fn credential_socket(&self) -> envoy::Cluster {
        let mut cluster = self.plain(tls::EXTERNAL, DiscoveryType::Static);
        cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
            cluster_name: tls::EXTERNAL.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![endpoint::LbEndpoint {
                    host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                        address: Some(values::pipe("./var/run/secrets/credential-uds/socket")),
                        ..endpoint::Endpoint::default()
                    })),
                    ..endpoint::LbEndpoint::default()
                }],
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        });
        cluster
            .typed_extension_protocol_options
            .insert(http::KEY.to_owned(), http::http2());
        cluster
    }
}
