//! A real API server's pods, and the node agent's account there.

use std::path::PathBuf;

use http::Request;
use http_body_util::BodyExt as _;
use lateen_testkit::ApiServer;
use lateen_testkit::apiserver::TokenFor;
use serde_json::{Value, json};

/// The agent's account with all rights that its chart may give it.
const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: istio-cni, namespace: istio-system }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: istio-cni }
rules:
  - { apiGroups: [''], resources: [pods], verbs: [get, list, watch, delete] }
  - { apiGroups: [''], resources: [pods/status], verbs: [patch] }
  - { apiGroups: [apps], resources: [daemonsets], verbs: [get] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: istio-cni }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: istio-cni }
subjects: [{ kind: ServiceAccount, name: istio-cni, namespace: istio-system }]
";

/// The API server; ended when dropped.
pub(crate) struct Cluster(ApiServer);

/// A pod of the namespace `shop`, with a sidecar or without.
fn pod(name: &str, sidecar: bool) -> Value {
    let container = |name: &str| json!({ "name": name, "image": "none" });
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "annotations": {} },
        "spec": { "containers": [container("app")] },
    });
    if sidecar {
        pod["metadata"]["annotations"]["sidecar.istio.io/status"] = json!("{}");
        pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeOutboundPorts"] = json!("3306");
        pod["spec"]["initContainers"] = json!([container("istio-validation"), container("istio-proxy")]);
    }
    pod
}

impl Cluster {
    /// Starts one; none, with a line that says so, where there are no such programs.
    pub(crate) async fn start() -> Option<Self> {
        let server = ApiServer::start().await.unwrap()?;
        server.apply(ACCOUNT).await.unwrap();
        let token = server.token("istio-system", "istio-cni", TokenFor::default()).await;
        let cluster = Self(server);
        std::fs::create_dir(cluster.account()).unwrap();
        std::fs::write(cluster.account().join("token"), token.unwrap()).unwrap();
        std::fs::write(cluster.account().join("ca.crt"), cluster.0.ca_certificate()).unwrap();
        Some(cluster)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.0.address())
    }

    /// Where `token` and `ca.crt` are.
    pub(crate) fn account(&self) -> PathBuf {
        self.0.directory().join("account")
    }

    /// Writes an object, and its namespace if that is missing; what the server made of it at `path`.
    pub(crate) async fn write(&self, path: &str, object: &Value) -> Value {
        self.0.apply(&object.to_string()).await.unwrap();
        self.read(path).await.unwrap()
    }

    /// Makes a pod of the namespace `shop`, with a sidecar or without; its UID.
    pub(crate) async fn pod(&self, name: &str, sidecar: bool) -> String {
        let made = self.write(&path(name), &pod(name, sidecar)).await;
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// As kubelet tells it: the validation has failed.
    pub(crate) async fn fail_validation(&self, name: &str, restarts: u64) {
        let mut pod = pod(name, true);
        pod["status"] = json!({ "initContainerStatuses": [{
            "name": "istio-validation", "ready": false, "restartCount": restarts, "image": "none", "imageID": "",
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 126 } },
        }]});
        self.0.apply(&pod.to_string()).await.unwrap();
    }

    /// The pod, if it is there.
    pub(crate) async fn read_pod(&self, name: &str) -> Option<Value> {
        self.read(&path(name)).await
    }

    async fn read(&self, path: &str) -> Option<Value> {
        let client = self.0.client().await.unwrap();
        let request = Request::get(path).body(Vec::new().into()).unwrap();
        let response = client.send(request).await.unwrap();
        if response.status() != 200 {
            return None;
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some(serde_json::from_slice(&body).unwrap())
    }
}

fn path(pod: &str) -> String {
    format!("/api/v1/namespaces/shop/pods/{pod}")
}
