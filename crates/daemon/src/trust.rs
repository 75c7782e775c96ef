//! The certificate authority and the proof of callers' identities.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use kube::Client;
use lateen_ca::kube::{NodeProxies, SecretRoot, TokenReviewer};
use lateen_ca::{
    Allowance, AuditLog, Authenticator, CaConfig, CertificateAuthority, JwksSource, JwtVerifier, Limits,
    NodeAuthorizer, RootSource, TokenIssuer, TokenVerifier, control_plane_names,
};
use lateen_names::Hostname;
use lateen_runtime::Supervisor;
use lateen_runtime::metrics::Metrics;

use crate::config::Config;

/// What is trusted, and who decides it.
pub(crate) struct Trust {
    /// The certificate authority.
    pub authority: CertificateAuthority,
    /// Who proves callers' identities.
    pub authenticator: Arc<Authenticator>,
    /// Who decides whether a node proxy may ask for another's certificate; nobody may where it is absent.
    pub nodes: Option<Arc<dyn NodeAuthorizer>>,
}

/// Opens the authority, makes its root on first use, and keeps it going.
pub(crate) fn open(config: &Config, metrics: &Metrics, supervisor: &Supervisor) -> Result<Trust> {
    let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
    let source = if config.cacerts.is_dir() {
        RootSource::PluggedIn(config.cacerts.clone())
    } else {
        RootSource::SelfSigned(config.data_dir.join("ca"))
    };
    let authority = CertificateAuthority::open(ca(config, source), Arc::clone(&clock), metrics.registry())?;

    let own = TokenIssuer::open_or_create(&config.data_dir.join("tokens"))?;
    let mut verifiers: Vec<Arc<dyn TokenVerifier>> = vec![Arc::new(JwtVerifier::new(
        own.issuer(),
        &config.token_audiences,
        JwksSource::Inline(own.jwks()),
    )?)];
    verifiers.extend(configured_issuer(config)?);
    let authenticator = Authenticator::new(config.trust_domain.clone(), authority.trust_bundle(), verifiers, clock);
    let running = authority.clone();
    supervisor.spawn("certificate authority", async move { running.run().await });
    Ok(Trust {
        authority,
        authenticator: Arc::new(authenticator),
        nodes: None,
    })
}

/// As [`open`], in a cluster: the root is plugged in from files or kept in a Secret, tokens are the API server's, and
/// trusted node proxies may ask for their node's identities.
pub(crate) async fn open_in_cluster(
    config: &Config,
    client: Client,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<Trust> {
    let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
    let registry = metrics.registry();
    let authority = if config.cacerts.join("ca-cert.pem").is_file() {
        let source = RootSource::PluggedIn(config.cacerts.clone());
        CertificateAuthority::open(ca(config, source), Arc::clone(&clock), registry)?
    } else {
        let root = SecretRoot::new(client.clone(), &config.namespace);
        // Where the root is kept is the keeper's own matter.
        let ca = ca(config, RootSource::Held(PathBuf::new()));
        let authority = root.open(ca, Arc::clone(&clock), registry).await?;
        supervisor.spawn("root secret", root.keep(authority.clone()));
        authority
    };
    let mut verifiers: Vec<Arc<dyn TokenVerifier>> = Vec::new();
    verifiers.extend(configured_issuer(config)?);
    let mut reviewer = TokenReviewer::new(client.clone(), &config.token_audiences);
    if config.tokens_from_anywhere {
        reviewer = reviewer.without_address_check();
    }
    verifiers.push(Arc::new(reviewer));
    let authenticator = Authenticator::new(config.trust_domain.clone(), authority.trust_bundle(), verifiers, clock);
    let running = authority.clone();
    supervisor.spawn("certificate authority", async move { running.run().await });
    let nodes: Arc<dyn NodeAuthorizer> = Arc::new(NodeProxies::new(client, config.trusted_node_accounts.clone()));
    Ok(Trust {
        authority,
        authenticator: Arc::new(authenticator),
        nodes: (!config.trusted_node_accounts.is_empty()).then_some(nodes),
    })
}

fn ca(config: &Config, source: RootSource) -> CaConfig {
    let mut names = control_plane_names(&config.namespace, config.revision.as_deref());
    // Agents of the embedded mode reach the control plane on the machine itself.
    names.extend(
        ["localhost", "127.0.0.1", "::1"]
            .iter()
            .filter_map(|name| Hostname::new(name).ok()),
    );
    CaConfig {
        default_ttl: config.workload_cert_ttl,
        max_ttl: config.max_workload_cert_ttl,
        serving_names: names,
        ..CaConfig::new(config.trust_domain.clone(), source)
    }
}

/// The issuer of tokens that flags name, whose keys are in a file.
fn configured_issuer(config: &Config) -> Result<Option<Arc<dyn TokenVerifier>>> {
    let (Some(issuer), Some(jwks)) = (&config.token_issuer, &config.token_jwks) else {
        return Ok(None);
    };
    let verifier = JwtVerifier::new(issuer, &config.token_audiences, JwksSource::File(jwks.clone()))?;
    Ok(Some(Arc::new(verifier)))
}

/// How often certificates are issued.
pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        certificates: Allowance {
            burst: config.ca_burst.max(1),
            every: config.ca_interval,
        },
        ..Limits::default()
    }
}

/// Where what is issued and refused is written down.
pub(crate) fn audit_log(config: &Config, authority: &CertificateAuthority) -> Result<AuditLog> {
    let path = &config.ca_audit_log;
    let lost = authority.audit_lost();
    let log = match path.as_os_str() == "-" {
        true => AuditLog::to_writer(std::io::stdout(), lost),
        false => AuditLog::to_file(path, lost),
    };
    log.with_context(|| format!("--ca-audit-log {}", path.display()))
}
