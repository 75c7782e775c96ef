//! How an upstream is spoken to: HTTP/1, HTTP/2, or as the client spoke.

use lateen_model::destination::{ConnectionPool, H2Upgrade, HttpPool};
use lateen_model::service::Protocol;
use lateen_proto::any;
use lateen_proto::envoy::config::common::matcher::v3 as matcher;
use lateen_proto::envoy::config::core::v3 as core;
use lateen_proto::envoy::config::route::v3 as route;
use lateen_proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use lateen_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use lateen_proto::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use lateen_proto::envoy::r#type::matcher::v3 as string;
use options::explicit_http_config::ProtocolConfig;
use prost_types::Any;

use super::settings::Settings;
use super::values;
use crate::alpn::Spoken;

/// The key under which a cluster has these options.
pub(crate) const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// HTTP options under construction; nothing is sent while nothing is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct HttpOptions(Option<HttpProtocolOptions>);

impl HttpOptions {
    /// What the port's protocol asks for.
    pub(crate) fn of_port(protocol: Protocol, settings: &Settings) -> Self {
        let mut own = Self::default();
        if protocol.is_http2() {
            own.use_http2();
            return own;
        }
        if (protocol.is_http() || protocol.is_sniffed()) && settings.keeps_case {
            own.get().upstream_protocol_options = Some(explicit(ProtocolConfig::HttpProtocolOptions(http1(true))));
        }
        // A gateway does not sniff; it would speak HTTP/2 to whom it was only offered to it.
        if settings.sidecar && protocol.is_sniffed() {
            own.follow_client();
        }
        own
    }

    fn get(&mut self) -> &mut HttpProtocolOptions {
        self.0.get_or_insert_default()
    }

    fn use_http2(&mut self) {
        self.get().upstream_protocol_options.get_or_insert_with(|| {
            explicit(ProtocolConfig::Http2ProtocolOptions(
                core::Http2ProtocolOptions::default(),
            ))
        });
    }

    fn follow_client(&mut self) {
        let own = self.get();
        let http1 = match own.upstream_protocol_options.take() {
            Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(http1)),
            })) => http1,
            _ => core::Http1ProtocolOptions::default(),
        };
        own.upstream_protocol_options = Some(options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            options::UseDownstreamHttpConfig {
                http_protocol_options: Some(http1),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                http3_protocol_options: None,
            },
        ));
    }

    fn http2(&mut self) -> Option<&mut core::Http2ProtocolOptions> {
        match self.0.as_mut()?.upstream_protocol_options.as_mut()? {
            options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
            }) => Some(http2),
            _ => None,
        }
    }

    /// Whether HTTP/2 is spoken always.
    pub(crate) fn is_http2(&mut self) -> bool {
        self.http2().is_some()
    }

    /// What is spoken to servers.
    pub(crate) fn spoken(&mut self) -> Spoken {
        let follows = self.0.as_ref().is_some_and(|own| {
            matches!(
                own.upstream_protocol_options,
                Some(options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(_))
            )
        });
        match (follows, self.is_http2()) {
            (true, _) => Spoken::AsClient,
            (false, true) => Spoken::Http2,
            (false, false) => Spoken::Http1,
        }
    }

    /// Turns HTTP/1 into HTTP/2 where the rule or the mesh asks for it; the mesh only for ports known to be HTTP.
    pub(crate) fn upgrade(&mut self, pool: Option<&HttpPool>, protocol: Protocol, settings: &Settings) {
        let (asked, client) = pool.map_or((H2Upgrade::Default, false), |pool| {
            (pool.h2_upgrade, pool.use_client_protocol)
        });
        let upgrade = match asked {
            _ if client => false,
            H2Upgrade::Upgrade => true,
            H2Upgrade::DoNotUpgrade => false,
            H2Upgrade::Default => protocol.is_http() && settings.h2_upgrade,
        };
        if upgrade {
            self.use_http2();
        }
    }

    /// Time-outs and limits of the pool.
    pub(crate) fn limit(&mut self, pool: &ConnectionPool) {
        let http = pool.http.clone().unwrap_or_default();
        let tcp = pool.tcp.clone().unwrap_or_default();
        let idle = http.idle_timeout.or(tcp.idle_timeout);
        let requests = http.max_requests_per_connection.filter(|n| *n > 0);
        let streams = http.max_concurrent_streams.filter(|n| *n > 0);
        let pings = http.h2_keepalive;
        let life = tcp.max_connection_duration;
        if idle.is_some() || requests.is_some() || streams.is_some() || pings.is_some() || life.is_some() {
            let common = self.get().common_http_protocol_options.get_or_insert_default();
            common.idle_timeout = idle.map(values::duration);
            common.max_requests_per_connection = requests;
            common.max_connection_duration = life.map(values::duration);
            if let Some(http2) = self.http2() {
                http2.max_concurrent_streams = streams;
                http2.connection_keepalive = pings.map(|pings| core::KeepaliveSettings {
                    interval: pings.interval.map(values::duration),
                    timeout: pings.timeout.map(values::duration),
                    ..core::KeepaliveSettings::default()
                });
            }
        }
        if http.use_client_protocol {
            self.follow_client();
        }
    }

    /// Which status codes count as an endpoint's failure.
    pub(crate) fn count_errors(&mut self, codes: &[u16]) {
        let rules: Vec<_> = codes.iter().map(|code| has_status(*code)).collect();
        let rule = match <[_; 1]>::try_from(rules) {
            Ok([single]) => single,
            Err(rules) if rules.is_empty() => return,
            Err(rules) => matcher::MatchPredicate {
                rule: Some(matcher::match_predicate::Rule::OrMatch(
                    matcher::match_predicate::MatchSet { rules },
                )),
            },
        };
        self.get().outlier_detection = Some(options::OutlierDetection {
            error_matcher: Some(rule),
        });
    }

    /// The server name of TLS follows the request's host, and the certificate has to be for it.
    pub(crate) fn follow_host(&mut self, sni: bool, certificate: bool) {
        if sni || certificate {
            let upstream = self.get().upstream_http_protocol_options.get_or_insert_default();
            upstream.auto_sni |= sni;
            upstream.auto_san_validation |= certificate;
        }
    }

    /// The options, packed; HTTP/1 where some are set but no protocol is.
    pub(crate) fn pack(mut self) -> Option<Any> {
        let own = self.0.as_mut()?;
        own.upstream_protocol_options.get_or_insert_with(|| {
            explicit(ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            ))
        });
        Some(any(own))
    }
}

/// Options of clusters that pass connections on as they came: idle ones are closed after five minutes.
pub(crate) fn passthrough(keeps_case: bool) -> Any {
    any(&HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
            ..core::HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            options::UseDownstreamHttpConfig {
                http_protocol_options: Some(http1(keeps_case)),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                http3_protocol_options: None,
            },
        )),
        ..HttpProtocolOptions::default()
    })
}

/// Options of clusters that speak gRPC.
pub(crate) fn http2() -> Any {
    any(&HttpProtocolOptions {
        upstream_protocol_options: Some(explicit(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions::default(),
        ))),
        ..HttpProtocolOptions::default()
    })
}

fn explicit(protocol: ProtocolConfig) -> options::UpstreamProtocolOptions {
    options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
        protocol_config: Some(protocol),
    })
}

fn http1(keeps_case: bool) -> core::Http1ProtocolOptions {
    use core::http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat};
    core::Http1ProtocolOptions {
        header_key_format: keeps_case.then(|| HeaderKeyFormat {
            header_format: Some(HeaderFormat::StatefulFormatter(core::TypedExtensionConfig {
                name: "preserve_case".to_owned(),
                typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
            })),
        }),
        ..core::Http1ProtocolOptions::default()
    }
}

fn has_status(code: u16) -> matcher::MatchPredicate {
    let header = route::HeaderMatcher {
        name: ":status".to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
            string::StringMatcher {
                match_pattern: Some(string::string_matcher::MatchPattern::Exact(code.to_string())),
                ..string::StringMatcher::default()
            },
        )),
        ..route::HeaderMatcher::default()
    };
    matcher::MatchPredicate {
        rule: Some(matcher::match_predicate::Rule::HttpResponseHeadersMatch(
            matcher::HttpHeadersMatch { headers: vec![header] },
        )),
    }
}
