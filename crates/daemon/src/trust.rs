//! The certificate authority and the proof of callers' identities.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use lateen_ca::{
    Authenticator, CaConfig, CertificateAuthority, JwksSource, JwtVerifier, RootSource, TokenIssuer, TokenVerifier,
    control_plane_names,
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
}

/// Opens the authority, makes its root on first use, and keeps it going.
pub(crate) fn open(config: &Config, metrics: &Metrics, supervisor: &Supervisor) -> Result<Trust> {
    let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
    let source = if config.cacerts.is_dir() {
        RootSource::PluggedIn(config.cacerts.clone())
    } else {
        RootSource::SelfSigned(config.data_dir.join("ca"))
    };
    let mut names = control_plane_names(&config.namespace, config.revision.as_deref());
    // Agents of the embedded mode reach the control plane on the machine itself.
    names.extend(
        ["localhost", "127.0.0.1", "::1"]
            .iter()
            .filter_map(|name| Hostname::new(name).ok()),
    );
    let ca = CaConfig {
        default_ttl: config.workload_cert_ttl,
        max_ttl: config.max_workload_cert_ttl,
        serving_names: names,
        ..CaConfig::new(config.trust_domain.clone(), source)
    };
    let authority = CertificateAuthority::open(ca, Arc::clone(&clock), metrics.registry())?;

    let own = TokenIssuer::open_or_create(&config.data_dir.join("tokens"))?;
    let mut verifiers: Vec<Arc<dyn TokenVerifier>> = vec![Arc::new(JwtVerifier::new(
        own.issuer(),
        [config.token_audience.as_str()],
        JwksSource::Inline(own.jwks()),
    )?)];
    if let (Some(issuer), Some(jwks)) = (&config.token_issuer, &config.token_jwks) {
        let source = JwksSource::File(jwks.clone());
        verifiers.push(Arc::new(JwtVerifier::new(
            issuer,
            [config.token_audience.as_str()],
            source,
        )?));
    }
    let authenticator = Authenticator::new(config.trust_domain.clone(), authority.trust_bundle(), verifiers, clock);
    let running = authority.clone();
    supervisor.spawn("certificate authority", async move { running.run().await });
    Ok(Trust {
        authority,
        authenticator: Arc::new(authenticator),
    })
}
