//! Wildcard services whose hosts are resolved as they are asked for (`DYNAMIC_DNS`): a filter looks the name up before
//! the request, or connection, is sent on. It shares its cache, by name and settings, with the cluster.

use lateen_names::Hostname;
use lateen_proto::envoy::config::listener::v3 as pb;
use lateen_proto::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use lateen_proto::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as http;
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_proto::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;

use super::Common;
use super::chain::filter;
use super::hcm::http_filter;
use crate::cluster::settings;
use crate::names;

/// A service that is looked up, and the port at which its hosts are called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Forward {
    pub(super) host: Hostname,
    pub(super) port: u16,
}

impl Forward {
    fn cache(&self, common: &Common) -> DnsCacheConfig {
        DnsCacheConfig {
            name: names::dns_cache(&self.host),
            dns_lookup_family: settings::lookup_family(common.families, settings::dual_stack(&common.mesh)).into(),
            ..Default::default()
        }
    }

    /// Looks up the server name of a TLS connection.
    pub(super) fn network_filter(&self, common: &Common) -> pb::Filter {
        let config = sni::FilterConfig {
            dns_cache_config: Some(self.cache(common)),
            port_specifier: Some(sni::filter_config::PortSpecifier::PortValue(self.port.into())),
            ..Default::default()
        };
        filter("envoy.extensions.filters.network.sni_dynamic_forward_proxy", &config)
    }

    /// Looks up the host of a request.
    pub(super) fn http_filter(&self, common: &Common) -> hcm::HttpFilter {
        let config = http::FilterConfig {
            implementation_specifier: Some(http::filter_config::ImplementationSpecifier::DnsCacheConfig(
                self.cache(common),
            )),
            ..Default::default()
        };
        http_filter("envoy.filters.http.dynamic_forward_proxy", &config)
    }
}
