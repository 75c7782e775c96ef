//! The shop without a mesh.

use std::net::SocketAddr;

use anyhow::Result;
use lateen_testkit::Cluster;
use lateen_testkit::cluster::Namespace;

/// Where every part of the shop listens.
pub(crate) const PORT: u16 = 9080;

/// Each part and its version: reviews asks ratings from its second version on.
const PARTS: &[(&str, &str)] = &[
    ("productpage", "v1"),
    ("details", "v1"),
    ("reviews", "v3"),
    ("ratings", "v1"),
];

/// Applies the whole shop and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub(crate) async fn open(namespace: &Namespace) -> Result<()> {
    let objects: String = PARTS
        .iter()
        .map(|(name, version)| deployment(name, version) + &service(name))
        .collect();
    namespace.apply(&objects).await?;
    for (name, version) in PARTS {
        namespace.ready(&format!("{name}-{version}")).await?;
    }
    Ok(())
}

/// One part of the shop, as the strictest profile of Pod Security allows it.
pub(crate) fn deployment(name: &str, version: &str) -> String {
    let image = Cluster::image("shop");
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}-{version}}}
spec:
  selector: {{matchLabels: {{app: {name}, version: {version}}}}}
  template:
    metadata: {{labels: {{app: {name}, version: {version}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: app
        image: {image}
        args: [{name}]
        env:
        - {{name: APP_VERSION, value: {version}}}
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        ports: [{{name: http, containerPort: {PORT}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
---"
    )
}

fn service(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {PORT}}}]}}
---"
    )
}

/// The front page, by the service's address.
///
/// # Errors
/// When the service has no address.
pub(crate) async fn door(namespace: &Namespace) -> Result<SocketAddr> {
    Ok((namespace.service("productpage").await?, PORT).into())
}
