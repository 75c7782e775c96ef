//! A real Kubernetes API server with an etcd of its own, without nodes and controllers.
//!
//! RBAC is on and admission is Kubernetes' default, so two things differ from a cluster: nobody makes the service account
//! `default` of a namespace, without which no pod is let in, and nobody writes EndpointSlices or deletes what a deleted
//! owner leaves. [`ApiServer::apply`] makes namespaces and service accounts that documents name but do not hold.

mod objects;
mod pki;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hyper::Request;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

pub use objects::{TokenFor, Writer};
use pki::Authority;

use crate::process::Process;
use crate::wait::eventually;
use crate::{ports, tools};

/// How long starting may take on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(90);
/// The issuer of service account tokens, as in most clusters.
pub const TOKEN_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Addresses of Services.
const SERVICE_RANGE: &str = "10.96.0.0/12";

/// An API server on loopback. Its processes end and its files vanish when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    server: Option<Process>,
    /// After the server, since fields are dropped in order.
    etcd: Process,
    binary: PathBuf,
    etcd_port: u16,
    address: SocketAddr,
    authority: Authority,
    kubeconfig: PathBuf,
    more_flags: Vec<String>,
    directory: TempDir,
}

impl ApiServer {
    /// Starts one on free ports and waits until it is ready. `None`, with a line that says so, where there is no
    /// `kube-apiserver` or no `etcd` in the directory that `LATEEN_TOOLS` names, in `target/tools`, or on the path.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the end of its log.
    pub async fn start() -> Result<Option<Self>> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with more flags for `kube-apiserver`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(flags: &[&str]) -> Result<Option<Self>> {
        let (Some(etcd), Some(binary)) = (tools::find("etcd"), tools::find("kube-apiserver")) else {
            println!("skipped: no etcd or no kube-apiserver in $LATEEN_TOOLS, target/tools or on the path");
            return Ok(None);
        };
        let directory = tempfile::tempdir()?;
        let authority = Authority::new(directory.path())?;
        let etcd_port = ports::free()?;
        let etcd = start_etcd(&etcd, etcd_port, directory.path()).await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let mut server = Self {
            server: None,
            etcd,
            binary,
            etcd_port,
            address,
            authority,
            kubeconfig: directory.path().join("admin.kubeconfig"),
            more_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            directory,
        };
        server.kubeconfig = server.kubeconfig_for("admin", &["system:masters"])?;
        server.start_again().await?;
        Ok(Some(server))
    }

    /// Ends `kube-apiserver` at once, as a crash does. What it stores stays in etcd.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Starts it again after [`Self::stop`], on the same port and with the same objects, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        let mut process = Process::start(self.command(), &self.directory.path().join("kube-apiserver.log"))?;
        let client = self.client().await?;
        let waiting = eventually("the API server is ready", STARTING, async || {
            if let Some(status) = process.ended() {
                return Some(Err(anyhow!("kube-apiserver ended: {status}")));
            }
            let request = Request::get("/readyz").body(Vec::new()).ok()?;
            client.request_text(request).await.is_ok().then_some(Ok(()))
        });
        waiting.await.flatten().with_context(|| process.log(40))?;
        self.server = Some(process);
        Ok(())
    }

    /// Where it listens, with TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig of one who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A directory for files of the test, removed with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's certificate authority, which signs its clients' certificates, too; PEM.
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        self.client_of(&self.kubeconfig).await
    }

    /// A client with a kubeconfig's rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client_of(&self, kubeconfig: &Path) -> Result<Client> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// A kubeconfig of a user in groups, by a client certificate. RBAC says what they may do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let (certificate, key) = self.authority.client(user, groups)?;
        self.write_kubeconfig(
            user,
            &json!({"client-certificate-data": base64(&certificate), "client-key-data": base64(&key)}),
        )
    }

    /// A kubeconfig of a service account, by a token.
    ///
    /// # Errors
    /// When there is no such account, or the file cannot be written.
    pub async fn kubeconfig_for_account(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.token(namespace, account, TokenFor::default()).await?;
        self.write_kubeconfig(&format!("{namespace}.{account}"), &json!({"token": token}))
    }

    /// The end of its log and of etcd's.
    pub fn log(&self) -> String {
        let server = self.server.as_ref().map(|server| server.log(60)).unwrap_or_default();
        format!("kube-apiserver:\n{server}\n\netcd:\n{}\n", self.etcd.log(20))
    }

    fn write_kubeconfig(&self, name: &str, user: &serde_json::Value) -> Result<PathBuf> {
        let cluster = json!({
            "server": format!("https://{}", self.address),
            "certificate-authority-data": base64(self.authority.certificate()),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        });
        let path = self.directory.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn command(&self) -> Command {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(&self.binary);
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.address.port()),
            // A loopback address cannot be an endpoint of the Service `kubernetes`.
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--service-account-issuer={TOKEN_ISSUER}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
            // Several tests start servers at once; none of them is a cluster's.
            "--profiling=false".to_owned(),
        ]);
        for (flag, name) in [
            ("--tls-cert-file", "apiserver.crt"),
            ("--tls-private-key-file", "apiserver.key"),
            ("--client-ca-file", "ca.crt"),
            ("--service-account-key-file", "sa.pub"),
            ("--service-account-signing-key-file", "sa.key"),
        ] {
            command.arg(flag).arg(file(name));
        }
        command.arg("--cert-dir").arg(file("certs"));
        command.args(&self.more_flags);
        command
    }
}

async fn start_etcd(binary: &Path, port: u16, directory: &Path) -> Result<Process> {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", ports::free()?),
    );
    let mut command = Command::new(binary);
    command.arg("--data-dir").arg(directory.join("etcd"));
    // Nothing here outlives a power failure anyway.
    command.args(["--unsafe-no-fsync", "--log-level", "warn"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.arg("--initial-cluster").arg(format!("default={peer}"));
    let mut etcd = Process::start(command, &directory.join("etcd.log"))?;
    let waiting = eventually("etcd listens", STARTING, async || {
        if let Some(status) = etcd.ended() {
            return Some(Err(anyhow!("etcd ended: {status}")));
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_ok()
            .then_some(Ok(()))
    });
    waiting.await.flatten().with_context(|| etcd.log(20))?;
    Ok(etcd)
}

fn base64(text: &str) -> String {
    use k8s_openapi::ByteString;
    // Kubernetes' own byte strings are base64 in JSON.
    match serde_json::to_value(ByteString(text.as_bytes().to_vec())) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}
