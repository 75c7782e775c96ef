//! A real API server with an etcd of its own, without nodes and controllers, and kubectl on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{fs, io::Write as _};

use anyhow::{Context as _, Result, anyhow, ensure};
use lateen_testkit::ports;
use lateen_testkit::process::Process;
use lateen_testkit::wait::eventually;
use lateen_tests::helm::tool;
use serde_json::Value;
use tempfile::TempDir;

/// How long starting may take on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(90);

/// One of them. Its processes end and its files vanish when it is dropped.
pub(crate) struct Server {
    server: Process,
    etcd: Process,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    _directory: TempDir,
}

impl Server {
    /// Starts one on free ports. `None`, with a line that says so, where a program is missing.
    pub(crate) async fn start(what: &str) -> Result<Option<Self>> {
        let (Some(etcd), Some(server), Some(kubectl)) = (tool("etcd"), tool("kube-apiserver"), tool("kubectl")) else {
            println!(
                "skipped: {what}: no etcd, kube-apiserver or kubectl in $LATEEN_TOOLS, target/tools or on the path"
            );
            return Ok(None);
        };
        let directory = tempfile::tempdir()?;
        let folder = directory.path();
        let store = format!("http://127.0.0.1:{}", ports::free()?);
        let port = ports::free()?;
        let kubeconfig = write_files(folder, port)?;
        let mut this = Self {
            etcd: start_etcd(&etcd, &store, folder)?,
            server: Process::start(api_server(&server, &store, port, folder), &folder.join("server.log"))?,
            kubectl,
            kubeconfig,
            _directory: directory,
        };
        let ready = eventually("the API server is ready", STARTING, async || {
            if let Some(status) = this.server.ended() {
                return Some(Err(anyhow!("kube-apiserver ended: {status}")));
            }
            this.run(&["get", "--raw=/readyz"], None).is_ok().then_some(Ok(()))
        });
        ready
            .await
            .flatten()
            .with_context(|| format!("{}\n{}", this.server.log(40), this.etcd.log(20)))?;
        Ok(Some(this))
    }

    /// Of one who may do everything.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// What kubectl says; an error is what it says when it fails.
    pub(crate) fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let output = self.output(arguments, input)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn output(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut child = Command::new(&self.kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("kubectl takes input")?;
        stdin.write_all(input.unwrap_or_default().as_bytes())?;
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// The objects of some kinds, everywhere.
    pub(crate) fn objects(&self, kinds: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.run(&["get", kinds, "--all-namespaces", "--output=json"], None)?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Whether an account may do something, as RBAC says.
    pub(crate) fn may(&self, account: &str, what: &[&str]) -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{account}");
        let output = self.output(&[&["auth", "can-i", &user], what].concat(), None)?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => anyhow::bail!("{what:?}: {other}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

fn write_files(folder: &Path, port: u16) -> Result<PathBuf> {
    // Signs nothing but the tokens of this server.
    let key = rcgen::KeyPair::generate()?;
    fs::write(folder.join("accounts.key"), key.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), key.public_key_pem())?;
    fs::write(folder.join("tokens.csv"), "of-this-test,admin,1,\"system:masters\"\n")?;
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": {"token": "of-this-test"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    });
    let path = folder.join("kubeconfig");
    fs::write(&path, config.to_string())?;
    Ok(path)
}

fn start_etcd(program: &Path, store: &str, folder: &Path) -> Result<Process> {
    let peer = format!("http://127.0.0.1:{}", ports::free()?);
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(folder.join("etcd"));
    // Nothing here outlives a power failure anyway.
    command.arg("--unsafe-no-fsync");
    command.args(["--listen-client-urls", store, "--advertise-client-urls", store]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    Process::start(command, &folder.join("etcd.log"))
}

fn api_server(program: &Path, store: &str, port: u16, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.args([
        &format!("--etcd-servers={store}"),
        "--bind-address=127.0.0.1",
        &format!("--secure-port={port}"),
        // A loopback address cannot be an endpoint of the Service `kubernetes`.
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        // Nobody makes the default accounts of namespaces.
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged",
    ]);
    for (flag, name) in [
        ("--cert-dir", "certificates"),
        ("--token-auth-file", "tokens.csv"),
        ("--service-account-key-file", "accounts.pub"),
        ("--service-account-signing-key-file", "accounts.key"),
    ] {
        command.arg(flag).arg(folder.join(name));
    }
    command
}
