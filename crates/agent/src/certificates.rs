//! The workload's certificate and every other secret that Envoy gets from the agent: where each comes from, and the one
//! store that SDS serves.

mod ca;
mod files;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_pki::{Certificate, PrivateKey, TrustBundle, Validity};
use lateen_runtime::Clock;
use tokio_util::sync::CancellationToken;

pub(crate) use files::watch as watch_files;
pub(crate) use store::{Content, Secret, SecretStore};

use crate::config::{CertificateConfig, FileCertificate};
use crate::files::replace;
use crate::grpc::{self, ClientIdentity};
use crate::metrics::Metrics;

/// The name under which Envoy asks for the workload's certificate.
pub(crate) const WORKLOAD: &str = "default";
/// The name under which Envoy asks for the roots that verify other workloads.
pub(crate) const ROOTS: &str = "ROOTCA";
/// However short a certificate's life, the CA is asked no more often.
const MINIMUM_RENEWAL: Duration = Duration::from_secs(1);

/// The workload's certificate as the CA issued it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    chain: Vec<Certificate>,
    key: Arc<PrivateKey>,
    validity: Validity,
}

impl Identity {
    /// For a connection on which this workload proves itself.
    pub(crate) fn client(&self) -> ClientIdentity {
        ClientIdentity {
            chain: pem(&self.chain),
            key: self.key.expose_pem(),
        }
    }

    /// Whether it may still be shown to somebody.
    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        self.validity.contains(now)
    }
}

/// Keeps the workload's certificate fresh until told to stop: asks the CA at once, again and again until it answers,
/// and then each time before the certificate ends.
pub(crate) async fn keep_workload_certificate(
    config: CertificateConfig,
    store: SecretStore,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let clock = Clock::system();
    loop {
        let mut pauses = grpc::pauses();
        let mut proof = ca::Proof::Token;
        let (issued, issued_at) = loop {
            metrics.ca_requests.increment();
            let now = clock.now();
            match ca::request(&config, store.identity().as_deref(), now, proof).await {
                Ok(issued) => break (issued, now),
                Err(error) => {
                    metrics.ca_failures.increment();
                    proof = proof.other();
                    let pause = pauses.next().unwrap_or(Duration::from_secs(10));
                    tracing::warn!(
                        error = format!("{error:#}"),
                        ca = config.ca_address,
                        ?pause,
                        "no certificate yet"
                    );
                    tokio::select! {
                        () = clock.sleep(pause) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        };
        let validity = Validity {
            not_before: issued.identity.validity.not_before.max(issued_at),
            ..issued.identity.validity
        };
        let renewal = config
            .renewal
            .renew_at(validity, rand::random())
            .max(issued_at + MINIMUM_RENEWAL);
        let lasts = validity.not_after.duration_since(issued_at).unwrap_or_default();
        tracing::info!(identity = %config.identity, ?lasts, "workload certificate issued");
        store.set_identity(issued.identity, issued.roots);
        tokio::select! {
            () = clock.sleep_until(renewal) => {}
            () = keep_files(config.output.as_deref(), &store) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Writes the files, and again whenever other roots are trusted; never returns.
async fn keep_files(folder: Option<&Path>, store: &SecretStore) {
    let Some(folder) = folder else {
        return std::future::pending().await;
    };
    let mut changes = store.changes();
    let mut written = TrustBundle::default();
    loop {
        let roots = store.roots();
        if roots != written {
            match write_files(folder, store) {
                Ok(()) => written = roots,
                Err(error) => tracing::warn!(error = format!("{error:#}"), "OUTPUT_CERTS"),
            }
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Writes certificate, key and roots where another process reads them, each whole or not at all.
fn write_files(folder: &Path, store: &SecretStore) -> anyhow::Result<()> {
    let Some(identity) = store.identity() else {
        return Ok(());
    };
    let files = FileCertificate::in_folder(folder);
    replace(&files.chain, pem(&identity.chain).as_bytes(), 0o644)?;
    replace(&files.key, identity.key.expose_pem().as_bytes(), 0o600)?;
    replace(&files.roots, store.roots().pem().as_bytes(), 0o644)
}

/// Certificates in PEM, in their order.
fn pem(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::pem).collect()
}

/// What the CA answered.
struct Issued {
    identity: Identity,
    roots: TrustBundle,
}
