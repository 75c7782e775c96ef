//! A namespace of one test, and the pods in it.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Cluster;

/// A namespace. It is deleted, without waiting for its pods to end, when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

/// A pod as the API server shows it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// All else.
    pub object: Value,
}

impl Namespace {
    pub(super) async fn create(cluster: Cluster, prefix: &str, labels: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(["create", "namespace", &name]).await?;
        let namespace = Self { cluster, name };
        if !labels.is_empty() {
            let label = ["label", "namespace", &namespace.name];
            namespace.cluster.kubectl(label.iter().chain(labels)).await?;
        }
        // Pods are refused until their account is there.
        namespace
            .kubectl(["wait", "--for=create", "serviceaccount/default", "--timeout=60s"])
            .await?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kubectl prints about this namespace.
    ///
    /// # Errors
    /// When it fails; with its words.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.cluster.tool("kubectl");
        command.args(["-n", &self.name]).args(args);
        super::Finish::finish(&mut command).await
    }

    /// Applies objects, as YAML, in this namespace unless they name another.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.cluster.tool("kubectl");
        command.args(["-n", &self.name, "apply", "-f", "-"]);
        super::with_input(command, yaml).await.map(|_| ())
    }

    /// Waits until every pod of a deployment is ready and of its newest template.
    ///
    /// # Errors
    /// When they are not within two minutes; with what the pods say of themselves.
    pub async fn ready(&self, deployment: &str) -> Result<()> {
        let waited = self
            .kubectl([
                "rollout",
                "status",
                &format!("deployment/{deployment}"),
                "--timeout=120s",
            ])
            .await;
        if waited.is_ok() {
            return Ok(());
        }
        let pods = self.kubectl(["describe", "pods"]).await.unwrap_or_default();
        waited.map(|_| ()).with_context(|| pods)
    }

    /// Waits for a condition of an object, as in `("pod/x", "condition=Ready")`.
    ///
    /// # Errors
    /// When it does not come about.
    pub async fn wait(&self, object: &str, condition: &str, within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        self.kubectl(["wait", object, &format!("--for={condition}"), &timeout])
            .await
            .map(|_| ())
    }

    /// The pods with a label, as in `app=reviews`, that have an address and are not being deleted; by name.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn pods(&self, label: &str) -> Result<Vec<Pod>> {
        let text = self.kubectl(["get", "pods", "-l", label, "-o", "json"]).await?;
        let list: Value = serde_json::from_str(&text)?;
        let mut pods: Vec<Pod> = list["items"].as_array().into_iter().flatten().filter_map(pod).collect();
        pods.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(pods)
    }

    /// The only pod with a label.
    ///
    /// # Errors
    /// When there is none or there are several.
    pub async fn pod(&self, label: &str) -> Result<Pod> {
        let mut pods = self.pods(label).await?;
        let first = pods.pop().with_context(|| format!("no pod has {label}"))?;
        anyhow::ensure!(pods.is_empty(), "several pods have {label}");
        Ok(first)
    }

    /// The address of a service.
    ///
    /// # Errors
    /// When it has none.
    pub async fn service(&self, name: &str) -> Result<IpAddr> {
        let text = self
            .kubectl(["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
            .await?;
        text.parse().with_context(|| format!("service {name} has no address"))
    }

    /// What a command in a container prints. Images of Lateen have no shell.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let head = ["exec", pod, "-c", container, "--"];
        self.kubectl(head.iter().chain(command)).await
    }

    /// What a container printed.
    ///
    /// # Errors
    /// When there is none.
    pub async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.kubectl(["logs", pod, "-c", container]).await
    }
}

fn pod(object: &Value) -> Option<Pod> {
    if object["metadata"].get("deletionTimestamp").is_some() {
        return None;
    }
    Some(Pod {
        name: object["metadata"]["name"].as_str()?.to_owned(),
        ip: object["status"]["podIP"].as_str()?.parse().ok()?,
        object: object.clone(),
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A node that is gone took its namespaces along.
        let _ = std::process::Command::new(self.cluster.node.tools.join("kubectl"))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .args(["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"])
            .stdin(Stdio::null())
            .output();
    }
}
