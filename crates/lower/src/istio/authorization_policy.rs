//! AuthorizationPolicy: who may do what.
//!
//! Values stay texts: what they mean depends on the field and on the protocol that is spoken.

use lateen_api::security::authorization_policy as api;
use lateen_model::Diagnostic;
use lateen_model::policy::{
    AuthorizationPolicy, AuthzAction, AuthzCondition, AuthzOperation, AuthzRule, AuthzSource, Values,
};
use lateen_validate::Subject;

use super::report::{Report, texts};
use super::scope::scope;
use crate::Context;
use crate::context::Meta;

/// Lowers an AuthorizationPolicy.
pub fn lower(
    object: &api::AuthorizationPolicy,
    meta: &Meta,
    _ctx: &Context<'_>,
    diags: &mut Vec<Diagnostic>,
) -> AuthorizationPolicy {
    let spec = &object.spec;
    let subject = Subject::new(&object.metadata);
    let findings = lateen_validate::authorization_policy::check(spec, &subject);
    Report::new(&meta.origin, findings, diags);
    let action = match spec.action {
        api::Action::Deny => AuthzAction::Deny,
        api::Action::Audit => AuthzAction::Audit,
        // Without provider, or with one that the mesh does not have, everything is refused.
        api::Action::Custom => AuthzAction::Custom(
            spec.provider
                .as_ref()
                .map_or("", |provider| provider.name.as_str())
                .into(),
        ),
        _ => AuthzAction::Allow,
    };
    AuthorizationPolicy {
        scope: scope(
            meta,
            spec.selector.as_ref(),
            spec.target_ref.as_ref(),
            &spec.target_refs,
        ),
        action,
        rules: spec.rules.iter().map(rule).collect(),
        dry_run: subject
            .annotation("istio.io/dry-run")
            .and_then(lateen_validate::parse_bool)
            .unwrap_or(false),
    }
}

fn values(any: &[String], none: &[String]) -> Values {
    Values {
        any: texts(any),
        none: texts(none),
    }
}

fn rule(from: &api::Rule) -> AuthzRule {
    AuthzRule {
        from: from
            .from
            .iter()
            .map(|from| from.source.as_ref().map(source).unwrap_or_default())
            .collect(),
        to: from
            .to
            .iter()
            .map(|to| to.operation.as_ref().map(operation).unwrap_or_default())
            .collect(),
        when: (from.when.iter())
            .map(|when| AuthzCondition {
                key: when.key.as_str().into(),
                values: values(&when.values, &when.not_values),
            })
            .collect(),
    }
}

fn source(from: &api::Source) -> AuthzSource {
    AuthzSource {
        principals: values(&from.principals, &from.not_principals),
        request_principals: values(&from.request_principals, &from.not_request_principals),
        namespaces: values(&from.namespaces, &from.not_namespaces),
        service_accounts: values(&from.service_accounts, &from.not_service_accounts),
        trust_domains: values(&from.trust_domains, &from.not_trust_domains),
        ip_blocks: values(&from.ip_blocks, &from.not_ip_blocks),
        remote_ip_blocks: values(&from.remote_ip_blocks, &from.not_remote_ip_blocks),
    }
}

fn operation(from: &api::Operation) -> AuthzOperation {
    AuthzOperation {
        hosts: values(&from.hosts, &from.not_hosts),
        ports: values(&from.ports, &from.not_ports),
        methods: values(&from.methods, &from.not_methods),
        paths: values(&from.paths, &from.not_paths),
    }
}
