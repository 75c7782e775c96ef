//! A real API server, and kubectl on it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::{ApiServer, tools};
use serde_json::Value;

/// One of them.
pub(crate) struct Server {
    server: ApiServer,
    kubectl: PathBuf,
}

impl Server {
    /// Starts one. `None`, with a line that says so, where a program is missing.
    pub(crate) async fn start(what: &str) -> Result<Option<Self>> {
        let Some(kubectl) = tools::find("kubectl") else {
            println!("skipped: {what}: no kubectl in $LATEEN_TOOLS, target/tools or on the path");
            return Ok(None);
        };
        // Nobody makes the default accounts of namespaces.
        let server = ApiServer::start_with(&["--disable-admission-plugins=ServiceAccount"]).await?;
        Ok(server.map(|server| Self { server, kubectl }))
    }

    /// Of one who may do everything.
    pub(crate) fn kubeconfig(&self) -> &Path {
        self.server.kubeconfig()
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
            .env("KUBECONFIG", self.kubeconfig())
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
