//! Conditions of routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lateen_api::networking::virtual_service::{
    HttpMatchRequest, L4MatchAttributes, StringMatch, StringMatchType, TlsMatchAttributes,
};
use lateen_model::route::{GatewayRef, HttpMatch, L4Match, NamedMatch, PathMatch, SourceMatch, TextMatch};
use lateen_names::Hostname;

use super::Lowering;
use crate::context::labels;
use crate::istio::report::text;

impl Lowering<'_> {
    /// One alternative; `None` where it cannot match anything.
    pub(super) fn http_match(&mut self, from: &HttpMatchRequest, field: &str) -> Option<HttpMatch> {
        let port = self.match_port(from.port, field)?;
        Some(HttpMatch {
            name: text(&from.name),
            source: self.source(&from.source_labels, &from.source_namespace, &from.gateways, field)?,
            path: from.uri.as_ref().and_then(path_match),
            ignore_path_case: from.ignore_uri_case,
            scheme: from.scheme.as_ref().map(text_match),
            method: from.method.as_ref().map(text_match),
            authority: from.authority.as_ref().map(text_match),
            headers: named(&from.headers),
            without_headers: named(&from.without_headers),
            query: named(&from.query_params),
            port,
            stat_prefix: text(&from.stat_prefix),
        })
    }

    /// One alternative of a TLS route; `None` where it cannot match anything.
    pub(super) fn tls_match(&mut self, from: &TlsMatchAttributes, field: &str) -> Option<L4Match> {
        let sni: Vec<Hostname> = (from.sni_hosts.iter().enumerate())
            .filter_map(|(at, host)| {
                self.report
                    .name(&format!("{field}.sniHosts[{at}]"), Hostname::lower(host))
            })
            .collect();
        if sni.is_empty() {
            self.report.error(
                &format!("{field}.sniHosts"),
                "the match names no host; give at least one",
            );
            return None;
        }
        Some(L4Match {
            sni,
            source: self.source(&from.source_labels, &from.source_namespace, &from.gateways, field)?,
            destination_subnets: self.subnets(&from.destination_subnets, &format!("{field}.destinationSubnets"))?,
            port: self.match_port(from.port, field)?,
        })
    }

    /// One alternative of a TCP route; `None` where it cannot match anything.
    pub(super) fn tcp_match(&mut self, from: &L4MatchAttributes, field: &str) -> Option<L4Match> {
        Some(L4Match {
            sni: Vec::new(),
            source: self.source(&from.source_labels, &from.source_namespace, &from.gateways, field)?,
            destination_subnets: self.subnets(&from.destination_subnets, &format!("{field}.destinationSubnets"))?,
            port: self.match_port(from.port, field)?,
        })
    }

    /// `None` for a port that cannot be, `Some(None)` for any.
    fn match_port(&mut self, port: u32, field: &str) -> Option<Option<u16>> {
        if port == 0 {
            Some(None)
        } else {
            self.report.port(&format!("{field}.port"), port).map(Some)
        }
    }

    fn source(
        &mut self,
        source_labels: &BTreeMap<String, String>,
        namespace: &str,
        gateways: &[String],
        field: &str,
    ) -> Option<SourceMatch> {
        let references: Vec<GatewayRef> = self.gateways(gateways, &format!("{field}.gateways"));
        // A match for gateways that cannot be must not become one for all of them.
        if references.is_empty() && !gateways.is_empty() {
            return None;
        }
        Some(SourceMatch {
            labels: labels(Some(source_labels)),
            namespace: text(namespace),
            gateways: references,
        })
    }

    /// `None` where addresses were asked for, but none of them is one.
    fn subnets(&mut self, from: &[String], field: &str) -> Option<Vec<IpNet>> {
        let mut subnets = Vec::with_capacity(from.len());
        for (at, subnet) in from.iter().enumerate() {
            match subnet
                .parse::<IpNet>()
                .or_else(|_| subnet.parse::<IpAddr>().map(IpNet::from))
            {
                Ok(subnet) => subnets.push(subnet),
                Err(_) => self.report.error(
                    &format!("{field}[{at}]"),
                    format!("`{subnet}` is no address range; write it like 10.0.0.0/8"),
                ),
            }
        }
        (!subnets.is_empty() || from.is_empty()).then_some(subnets)
    }
}

fn path_match(from: &StringMatch) -> Option<PathMatch> {
    Some(match from.match_type()? {
        StringMatchType::Exact(text) => PathMatch::Exact(text.into()),
        StringMatchType::Prefix(text) => PathMatch::Prefix(text.into()),
        StringMatchType::Regex(text) => PathMatch::Regex(text.into()),
    })
}

/// A condition on text. Nothing said, and the expression `*`, which RE2 does not know, ask only for presence.
pub(super) fn text_match(from: &StringMatch) -> TextMatch {
    match from.match_type() {
        None | Some(StringMatchType::Regex("*")) => TextMatch::Present,
        Some(StringMatchType::Exact(text)) => TextMatch::Exact(text.into()),
        Some(StringMatchType::Prefix(text)) => TextMatch::Prefix(text.into()),
        Some(StringMatchType::Regex(text)) => TextMatch::Regex(text.into()),
    }
}

fn named(from: &BTreeMap<String, StringMatch>) -> Vec<NamedMatch> {
    from.iter()
        .map(|(name, value)| NamedMatch {
            name: name.as_str().into(),
            value: text_match(value),
        })
        .collect()
}
