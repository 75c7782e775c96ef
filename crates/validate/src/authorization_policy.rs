//! AuthorizationPolicy.

use lateen_api::security::authorization_policy::{Action, AuthorizationPolicySpec, Condition, Operation, Rule, Source};

use crate::{Finding, Findings, Subject, annotation, parse_bool, policy, text};

/// What is wrong with an AuthorizationPolicy.
pub fn check(spec: &AuthorizationPolicySpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, true);
    dry_run(spec, subject, &mut findings);
    policy::attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
        &mut findings,
    );
    let provider = spec.provider.as_ref().map(|provider| provider.name.as_str());
    match spec.action {
        Action::Custom => {
            if spec.rules.is_empty() {
                findings.error(
                    "spec.rules",
                    "a CUSTOM policy without rules is never asked; add the empty rule `{}` to ask always",
                );
            } else if provider.unwrap_or_default().is_empty() {
                findings.error("spec.provider.name", "name the extension provider that is to be asked");
            }
        }
        _ if provider.is_some() => {
            findings.error(
                "spec.provider",
                format!("only CUSTOM policies have a provider, not {}", spec.action),
            );
        }
        Action::Deny if spec.rules.is_empty() => {
            findings.error(
                "spec.rules",
                "a DENY policy without rules never denies; add the empty rule `{}` to deny always",
            );
        }
        _ => {}
    }
    for (at, entry) in spec.rules.iter().enumerate() {
        rule(entry, spec.action, &format!("spec.rules[{at}]"), &mut findings);
    }
    findings.0
}

fn dry_run(spec: &AuthorizationPolicySpec, subject: &Subject<'_>, findings: &mut Findings) {
    const NAME: &str = "istio.io/dry-run";
    let Some(value) = subject.annotation(NAME) else { return };
    if !matches!(spec.action, Action::Allow | Action::Deny) {
        findings.error(
            annotation(NAME),
            format!("only ALLOW and DENY policies can be tried dry, not {}", spec.action),
        );
    } else if parse_bool(value).is_none() {
        findings.error(annotation(NAME), format!("`{value}` is neither true nor false"));
    }
}

fn rule(rule: &Rule, action: Action, field: &str, findings: &mut Findings) {
    let mut tcp_in_from = false;
    let mut tcp_in_to = false;
    for (at, from) in rule.from.iter().enumerate() {
        let field = format!("{field}.from[{at}].source");
        match &from.source {
            None => findings.error(field, "the source is missing"),
            Some(from) => {
                source(from, action, &field, findings);
                tcp_in_from |= source_lists(from).iter().any(|(name, list)| {
                    !list.is_empty()
                        && !name.to_ascii_lowercase().contains("requestprincipals")
                        && !name.contains("rustDomains")
                });
            }
        }
    }
    for (at, to) in rule.to.iter().enumerate() {
        let field = format!("{field}.to[{at}].operation");
        match &to.operation {
            None => findings.error(field, "the operation is missing"),
            Some(to) => {
                operation(to, &field, findings);
                tcp_in_to |= !to.ports.is_empty() || !to.not_ports.is_empty();
            }
        }
    }
    for (at, when) in rule.when.iter().enumerate() {
        condition(when, action, &format!("{field}.when[{at}]"), findings);
    }
    let only_http =
        (!rule.from.is_empty() && rule.to.is_empty() && !tcp_in_from) || (!rule.to.is_empty() && !tcp_in_to);
    if action == Action::Deny && only_http {
        findings.warning(field, "the rule has HTTP conditions only, and therefore denies everything on ports that are not HTTP; name the ports that are meant");
    }
}

fn source_lists(source: &Source) -> [(&'static str, &[String]); 14] {
    [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ]
}

fn source(source: &Source, action: Action, field: &str, findings: &mut Findings) {
    let lists = source_lists(source);
    if lists.iter().all(|(_, list)| list.is_empty()) {
        findings.error(field, "the source is empty; name at least one condition");
    }
    for (name, list) in lists {
        let field = format!("{field}.{name}");
        let address = name.ends_with("pBlocks");
        if action == Action::Custom && !address && !list.is_empty() {
            findings.error(&field, "CUSTOM policies cannot ask for it");
        }
        for (at, value) in list.iter().enumerate() {
            let result = match name {
                _ if address => text::subnet(value),
                "serviceAccounts" | "notServiceAccounts" => service_account(value),
                "trustDomains" | "notTrustDomains" => trust_domain(value),
                _ => not_empty(value),
            };
            findings.check(format!("{field}[{at}]"), result);
        }
        if name.ends_with("erviceAccounts") && list.len() > 16 {
            findings.error(field, "at most 16 values are allowed");
        }
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let others = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
    ];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        findings.error(
            field,
            "serviceAccounts already say namespace and identity; leave namespaces and principals out",
        );
    }
}

fn operation(operation: &Operation, field: &str, findings: &mut Findings) {
    let lists: [(&str, &[String]); 8] = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        findings.error(field, "the operation is empty; name at least one condition");
    }
    for (name, list) in lists {
        for (at, value) in list.iter().enumerate() {
            let result = match name {
                "ports" | "notPorts" => port(value),
                "paths" | "notPaths" => not_empty(value).and_then(|()| path_template(value)),
                _ => not_empty(value),
            };
            findings.check(format!("{field}.{name}[{at}]"), result);
        }
    }
}

fn condition(when: &Condition, action: Action, field: &str, findings: &mut Findings) {
    let key = when.key.as_str();
    let of_peer = [
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "source.principal",
    ]
    .contains(&key);
    if action == Action::Custom && (of_peer || key.starts_with("request.auth.")) {
        findings.error(format!("{field}.key"), format!("CUSTOM policies cannot ask for {key}"));
    }
    if key.is_empty() {
        return findings.error(format!("{field}.key"), "the key is missing");
    }
    if when.values.is_empty() && when.not_values.is_empty() {
        return findings.error(field, format!("give `values` or `notValues` for {key}"));
    }
    if let Err(message) = attribute(key) {
        return findings.error(format!("{field}.key"), message);
    }
    for (name, list) in [("values", &when.values), ("notValues", &when.not_values)] {
        for (at, value) in list.iter().enumerate() {
            let result = not_empty(value).and_then(|()| match key {
                "source.ip" | "remote.ip" | "destination.ip" => text::subnet(value),
                "destination.port" => port(value),
                "source.serviceAccount" => service_account(value),
                "source.trustDomain" => wildcard(value),
                _ => Ok(()),
            });
            findings.check(format!("{field}.{name}[{at}]"), result);
        }
    }
}

/// Whether a condition may be on that key.
fn attribute(key: &str) -> Result<(), String> {
    const PLAIN: [&str; 12] = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "source.trustDomain",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
    ];
    if PLAIN.contains(&key) {
        return Ok(());
    }
    if ["request.headers", "request.auth.claims", "experimental.envoy.filters."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
    {
        let inside = key
            .find('[')
            .filter(|open| *open > 0 && key.ends_with(']') && *open + 2 < key.len());
        return inside
            .map(|_| ())
            .ok_or_else(|| format!("`{key}` must be of the form a[b]"));
    }
    if key.starts_with("destination.") {
        return Err(format!(
            "`{key}` no longer exists; say with `selector` and the policy's namespace where it holds"
        ));
    }
    Err(format!("`{key}` is no attribute of requests"))
}

fn not_empty(value: &str) -> Result<(), String> {
    if value.is_empty() {
        Err("the value is empty".into())
    } else {
        Ok(())
    }
}

fn port(value: &str) -> Result<(), String> {
    match value.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{value}` is no port; use a number up to 65535")),
    }
}

fn wildcard(value: &str) -> Result<(), String> {
    not_empty(value)?;
    let inner = value
        .strip_prefix('*')
        .or_else(|| value.strip_suffix('*'))
        .unwrap_or(value);
    if inner.contains('*') {
        Err(format!("`{value}`: one wildcard may stand at the beginning or the end"))
    } else {
        Ok(())
    }
}

fn trust_domain(value: &str) -> Result<(), String> {
    wildcard(value)?;
    if value.contains('/') {
        Err(format!("`{value}` is no trust domain: it contains a slash"))
    } else {
        Ok(())
    }
}

fn service_account(value: &str) -> Result<(), String> {
    let parts: Vec<&str> = value.split('/').collect();
    if value.len() > 320 || value.contains('*') || parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        return Err(format!(
            "`{value}` must be `account` or `namespace/account`, without wildcards"
        ));
    }
    Ok(())
}

/// A path; `{*}` stands for a segment, and `{**}`, at last, for the rest.
fn path_template(path: &str) -> Result<(), String> {
    let template = path.contains("{*}") || path.contains("{**}");
    let mut rest_matched = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if rest_matched => return Err(format!("`{path}`: nothing can follow {{**}}")),
            "{**}" => rest_matched = true,
            "{*}" => {}
            _ if segment.contains(['{', '}']) => {
                return Err(format!(
                    "`{path}`: only {{*}} and {{**}} as whole segments are supported"
                ));
            }
            _ if template && !is_literal(segment) => {
                return Err(format!(
                    "`{path}`: the segment `{segment}` cannot stand in a path with {{*}} or {{**}}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Characters of a path's segment (RFC 3986, `pchar`).
fn is_literal(segment: &str) -> bool {
    !segment.is_empty()
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte))
}
