//! Routes that no request reaches, because those before them take all of it.

use std::collections::HashMap;

use lateen_api::networking::virtual_service::{
    HttpMatchRequest, HttpRoute, StringMatch, StringMatchType, VirtualServiceSpec,
};

use crate::Findings;

/// A route is never used.
const UNREACHABLE: &str = "IST0130";
/// A match is never used.
const INEFFECTIVE: &str = "IST0131";

pub(super) fn check(spec: &VirtualServiceSpec, findings: &mut Findings) {
    let http: Vec<Vec<String>> = (spec.http.iter())
        .map(|route| {
            let nameless = route.r#match.iter().map(|matched| HttpMatchRequest {
                name: String::new(),
                ..matched.clone()
            });
            nameless.map(|matched| format!("{matched:?}")).collect()
        })
        .collect();
    duplicates("http", &http, findings);
    let tls: Vec<Vec<String>> = spec.tls.iter().map(|route| texts(&route.r#match)).collect();
    duplicates("tls", &tls, findings);
    let tcp: Vec<Vec<String>> = spec.tcp.iter().map(|route| texts(&route.r#match)).collect();
    duplicates("tcp", &tcp, findings);
    covered_prefixes(&spec.http, findings);
}

fn texts<M: std::fmt::Debug>(matches: &[M]) -> Vec<String> {
    matches.iter().map(|matched| format!("{matched:?}")).collect()
}

/// Matches that are there twice, and routes behind one that takes everything; by the text of their matches.
fn duplicates(list: &str, routes: &[Vec<String>], findings: &mut Findings) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut catch_all = None;
    for (at, matches) in routes.iter().enumerate() {
        let field = format!("spec.{list}[{at}]");
        if let Some(before) = catch_all {
            let message =
                format!("the route is never used: route {before} has no matches and takes everything; put it last");
            findings.coded(UNREACHABLE, &field, message);
        }
        if matches.is_empty() {
            catch_all = catch_all.or(Some(at));
            continue;
        }
        if catch_all.is_some() {
            continue;
        }
        let mut doubled = 0;
        for (index, matched) in matches.iter().enumerate() {
            match seen.get(matched.as_str()) {
                Some(before) => {
                    doubled += 1;
                    let message = format!("the match is never used: route {before} has the same");
                    findings.coded(INEFFECTIVE, format!("{field}.match[{index}]"), message);
                }
                None => {
                    seen.insert(matched, at);
                }
            }
        }
        if doubled == matches.len() {
            findings.coded(
                UNREACHABLE,
                field,
                "the route is never used: routes before it have all its matches",
            );
        }
    }
}

/// Matches by a prefix behind those by a shorter one, where nothing else tells them apart.
fn covered_prefixes(routes: &[HttpRoute], findings: &mut Findings) {
    // Quadratic below; whoever has thousands of routes in one object is not helped by this warning.
    const MOST: usize = 1000;
    let mut earlier: Vec<(usize, &HttpMatchRequest, &str)> = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        for (index, matched) in route.r#match.iter().enumerate() {
            let Some(StringMatchType::Prefix(prefix)) = matched.uri.as_ref().and_then(StringMatch::match_type) else {
                continue;
            };
            let wider = earlier
                .iter()
                .find(|(_, other, wide)| *wide != prefix && prefix.starts_with(wide) && same_but_path(other, matched));
            if let Some((before, _, wide)) = wider {
                let message = format!(
                    "the match of prefix `{prefix}` is never used: route {before} takes all of `{wide}`; put the longer prefix first"
                );
                findings.coded(INEFFECTIVE, format!("spec.http[{at}].match[{index}]"), message);
            }
            if earlier.len() < MOST {
                earlier.push((at, matched, prefix));
            }
        }
    }
}

fn same_but_path(one: &HttpMatchRequest, other: &HttpMatchRequest) -> bool {
    let bare = |matched: &HttpMatchRequest| HttpMatchRequest {
        name: String::new(),
        uri: None,
        stat_prefix: String::new(),
        ..matched.clone()
    };
    bare(one) == bare(other)
}
