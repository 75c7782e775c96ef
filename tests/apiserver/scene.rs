//! A small world in a real API server: two services in the namespace `one`, and a mesh with its settings.

use std::path::Path;

use anyhow::{Context as _, Result};
use lateen_testkit::{ApiServer, Lateend};

use crate::proxy::Sidecar;

/// The route table of port 80.
pub(crate) const TABLE: &str = "80";

/// Services `a` and `b` with a pod each, as if somebody ran them.
pub(crate) const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: a, namespace: one}
spec: {clusterIP: 10.96.0.21, selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: one}
spec: {clusterIP: 10.96.0.22, selector: {app: b}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: one, labels: {app: a}}
spec: {containers: [{name: a, image: a, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, namespace: one, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: http, port: 80, protocol: TCP}]
endpoints:
- addresses: [10.1.0.1]
  conditions: {ready: true}
  targetRef: {kind: Pod, name: a, namespace: one}
";

/// A VirtualService of `a` that marks answers.
pub(crate) fn route(mark: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a, namespace: one}}
spec:
  hosts: [a.one.svc.cluster.local]
  http: [{{headers: {{response: {{set: {{x-mark: \"{mark}\"}}}}}}, route: [{{destination: {{host: a.one.svc.cluster.local}}}}]}}]
"
    )
}

/// The mesh's settings.
pub(crate) fn mesh(name: &str, settings: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}, namespace: istio-system}}
data: {{mesh: '{settings}'}}
"
    )
}

/// Where `lateend` keeps what it makes.
const OWN_NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}";

/// Runs a test on an API server, unless there is none. What went wrong comes with the end of its log.
pub(crate) async fn scene(test: impl AsyncFnOnce(&mut ApiServer) -> Result<()>) -> Result<()> {
    let Some(mut server) = ApiServer::start().await? else {
        return Ok(());
    };
    let done = match server.apply(OWN_NAMESPACE).await {
        Ok(()) => test(&mut server).await,
        Err(error) => Err(error),
    };
    done.with_context(|| server.log())
}

/// A `lateend` that reads the server's cluster with a kubeconfig.
pub(crate) async fn lateend(server: &ApiServer, kubeconfig: &Path, flags: &[&str]) -> Result<Lateend> {
    let directory = tempfile::Builder::new()
        .prefix("lateend")
        .tempdir_in(server.directory())?;
    Lateend::start_in_cluster(kubeconfig, &directory.keep(), flags).await
}

/// A sidecar beside `a`.
pub(crate) async fn sidecar(lateend: &Lateend) -> Result<Sidecar> {
    Sidecar::connect(lateend, "a", "one", "10.1.0.1").await
}
