//! The ports of `lateend`, and what is served on each.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use axum::Router;
use lateen_runtime::Supervisor;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::config::Config;
use crate::listen::{self, Limits, Security};
use crate::trust::Trust;

/// Everything that is listened on.
pub(crate) struct Sockets {
    plaintext: Option<TcpListener>,
    secure: TcpListener,
    http: TcpListener,
    https: TcpListener,
    monitoring: TcpListener,
    control: Option<TcpListener>,
}

/// What is served where.
pub(crate) struct Services {
    /// ADS for callers who are not known.
    pub plaintext: Routes,
    /// ADS, and the certificate authority.
    pub secure: Routes,
    /// Who callers are, and how.
    pub trust: Trust,
    /// What the API server calls.
    pub webhooks: Router,
    /// Readiness, metrics and debug endpoints.
    pub http: Router,
    /// The levels of logging.
    pub control: Router,
}

/// Where everything is listened on.
#[derive(serde::Serialize)]
struct Addresses {
    plaintext: Option<SocketAddr>,
    secure: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    monitoring: SocketAddr,
    control: Option<SocketAddr>,
}

impl Sockets {
    /// Binds all of them, so that a port in use ends the process before anything starts.
    ///
    /// # Errors
    /// When one is in use; it is named by its flag.
    pub(crate) async fn bind(config: &Config) -> Result<Self> {
        let plaintext = match config.plaintext_address {
            Some(address) => Some(listen::bind("plaintext-address", address).await?),
            None => None,
        };
        let control = match config.control_address {
            Some(address) => Some(listen::bind("control-address", address).await?),
            None => None,
        };
        Ok(Self {
            plaintext,
            secure: listen::bind("secure-address", config.secure_address).await?,
            http: listen::bind("http-address", config.http_address).await?,
            https: listen::bind("https-address", config.https_address).await?,
            monitoring: listen::bind("monitoring-address", config.monitoring_address).await?,
            control,
        })
    }

    /// Serves on all of them until the drain begins, and tells where.
    ///
    /// # Errors
    /// When there is no certificate to serve with, or the file of addresses cannot be written.
    pub(crate) fn serve(self, services: Services, config: &Config, supervisor: &Supervisor) -> Result<()> {
        let addresses = self.addresses()?;
        let limits = || Limits::new(config.max_connections, config.max_strangers);
        if let Some(listener) = self.plaintext {
            tracing::warn!("ADS without TLS is on: whoever reaches it gets configuration");
            supervisor.spawn(
                "plaintext",
                listen::serve(
                    listener,
                    Security::Plaintext,
                    services.plaintext,
                    limits(),
                    supervisor.drain(),
                ),
            );
        }
        let tls = services.trust.authority.server_tls_config()?;
        let https = listen::https_config(&tls)?;
        let security = Security::Tls {
            config: tls,
            authenticator: services.trust.authenticator,
        };
        supervisor.spawn(
            "secure",
            listen::serve(self.secure, security, services.secure, limits(), supervisor.drain()),
        );
        supervisor.spawn(
            "webhooks",
            listen::serve_https(self.https, https, services.webhooks, limits(), supervisor.drain()),
        );
        supervisor.spawn(
            "http",
            listen::serve_http(self.http, services.http.clone(), limits(), supervisor.drain()),
        );
        supervisor.spawn(
            "monitoring",
            listen::serve_http(self.monitoring, services.http, limits(), supervisor.drain()),
        );
        if let Some(listener) = self.control {
            supervisor.spawn(
                "control",
                listen::serve_http(listener, services.control, limits(), supervisor.drain()),
            );
        }
        tracing::info!(
            secure = %addresses.secure, http = %addresses.http, https = %addresses.https, monitoring = %addresses.monitoring,
            plaintext = addresses.plaintext.map(tracing::field::display), version = env!("CARGO_PKG_VERSION"), "lateend listens"
        );
        match &config.addresses_file {
            Some(path) => addresses.write(path),
            None => Ok(()),
        }
    }

    fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses {
            plaintext: self.plaintext.as_ref().map(TcpListener::local_addr).transpose()?,
            secure: self.secure.local_addr()?,
            http: self.http.local_addr()?,
            https: self.https.local_addr()?,
            monitoring: self.monitoring.local_addr()?,
            control: self.control.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}

impl Addresses {
    /// Written whole or not at all: who waits for the file may read it at once.
    fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("--addresses-file {}", path.display()))
    }
}
