//! Clusters that come on first use: filters by which a request waits for a cluster that a route sends it to and that is not
//! there.
//!
//! Envoy itself asks for a cluster (`on_demand`), but for each name only once, whatever becomes of the cluster. Where there is
//! an agent, it is told of every such request first, and has the cluster sent; so what is not used can be taken away. The
//! agent lets the request go on as soon as the cluster is on its way; until it is there, with its endpoints, Envoy's own filter
//! has the request wait.

use lateen_model::proxy::Capabilities;
use lateen_names::MISSING_CLUSTER_FILTER;
use lateen_proto::any;
use lateen_proto::cel::expr::expr::{ExprKind, Ident, Select};
use lateen_proto::cel::expr::{Expr, ParsedExpr};
use lateen_proto::envoy::config::core::v3::TypedExtensionConfig;
use lateen_proto::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use lateen_proto::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use lateen_proto::envoy::extensions::filters::http::ext_proc::v3 as ext_proc;
use lateen_proto::envoy::extensions::filters::http::ext_proc::v3::processing_mode::HeaderSendMode;
use lateen_proto::envoy::extensions::filters::http::on_demand::v3::{OnDemand, OnDemandCds};
use lateen_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_proto::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher::MatchPattern};
use lateen_proto::xds::core::v3::TypedExtensionConfig as XdsExtension;
use lateen_proto::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate, predicate};
use lateen_proto::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use lateen_proto::xds::r#type::matcher::v3::{CelMatcher, HttpAttributesCelMatchInput, Matcher};
use lateen_proto::xds::r#type::v3::CelExpression;
use prost::{Message, Name};

use super::hcm::http_filter;
use crate::source;

/// The cluster of the bootstrap behind which the agent serves what is not a secret.
const AGENT: &str = "xds-grpc";
/// How long a request waits for its cluster in Envoy.
const PATIENCE: prost_types::Duration = prost_types::Duration { seconds: 5, nanos: 0 };
/// How long Envoy waits for the agent, which takes no longer than `PATIENCE` itself.
const BACKSTOP: prost_types::Duration = prost_types::Duration { seconds: 7, nanos: 0 };

/// See the module.
pub(super) fn filters(capabilities: Capabilities) -> impl Iterator<Item = hcm::HttpFilter> {
    let told = capabilities
        .tells_agent
        .then(|| http_filter(MISSING_CLUSTER_FILTER, &told_to_agent()));
    told.into_iter().chain([asked_for()])
}

/// Asks for each name once. One that there is not is answered at once, but later requests wait in vain.
fn asked_for() -> hcm::HttpFilter {
    let config = OnDemand {
        odcds: Some(OnDemandCds {
            source: Some(source::ads()),
            timeout: Some(PATIENCE),
            ..Default::default()
        }),
    };
    http_filter("envoy.filters.http.on_demand", &config)
}

/// Tells which virtual host and which of its routes a request has, unless the cluster is there. An attribute `xds.cluster_name`
/// is that of the cluster, not of the route: without a cluster there is none.
fn told_to_agent() -> ExtensionWithMatcher {
    let agent = ext_proc::ExternalProcessor {
        grpc_service: Some(source::grpc_service(AGENT)),
        failure_mode_allow: true,
        message_timeout: Some(BACKSTOP),
        processing_mode: Some(ext_proc::ProcessingMode {
            request_header_mode: HeaderSendMode::Send.into(),
            response_header_mode: HeaderSendMode::Skip.into(),
            ..Default::default()
        }),
        request_attributes: ["xds.virtual_host_name", "xds.route_name"].map(str::to_owned).into(),
        // Headers are not the agent's business, but a list of those that are sent has at least one.
        forward_rules: Some(ext_proc::HeaderForwardingRules {
            allowed_headers: Some(ListStringMatcher {
                patterns: vec![StringMatcher {
                    match_pattern: Some(MatchPattern::Exact(":authority".to_owned())),
                    ..Default::default()
                }],
            }),
            ..Default::default()
        }),
        emit_client_span: Some(false),
        ..Default::default()
    };
    ExtensionWithMatcher {
        xds_matcher: Some(skipped_if_there_is("cluster_name")),
        extension_config: Some(TypedExtensionConfig {
            name: "envoy.filters.http.ext_proc".to_owned(),
            typed_config: Some(any(&agent)),
        }),
        ..Default::default()
    }
}

/// `has(xds.…)`: the filter is passed over.
fn skipped_if_there_is(attribute: &str) -> Matcher {
    let predicate = predicate::SinglePredicate {
        input: Some(xds_extension("cel", &HttpAttributesCelMatchInput {})),
        matcher: Some(predicate::single_predicate::Matcher::CustomMatch(xds_extension(
            "cel",
            &CelMatcher {
                expr_match: Some(has_attribute(attribute)),
                ..Default::default()
            },
        ))),
    };
    let skip = OnMatch {
        on_match: Some(on_match::OnMatch::Action(xds_extension("skip", &SkipFilter {}))),
        ..Default::default()
    };
    Matcher {
        matcher_type: Some(MatcherType::MatcherList(MatcherList {
            matchers: vec![FieldMatcher {
                predicate: Some(Predicate {
                    match_type: Some(predicate::MatchType::SinglePredicate(predicate)),
                }),
                on_match: Some(skip),
            }],
        })),
        on_no_match: None,
    }
}

fn has_attribute(attribute: &str) -> CelExpression {
    let xds = Expr {
        id: 2,
        expr_kind: Some(ExprKind::IdentExpr(Ident { name: "xds".to_owned() })),
    };
    let has = Expr {
        id: 1,
        expr_kind: Some(ExprKind::SelectExpr(Box::new(Select {
            operand: Some(Box::new(xds)),
            field: attribute.to_owned(),
            test_only: true,
        }))),
    };
    CelExpression {
        cel_expr_parsed: Some(ParsedExpr {
            expr: Some(has),
            source_info: None,
        }),
        ..Default::default()
    }
}

fn xds_extension<M: Message + Name>(name: &str, config: &M) -> XdsExtension {
    XdsExtension {
        name: name.to_owned(),
        typed_config: Some(any(config)),
    }
}
