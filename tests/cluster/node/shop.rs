//! The shop without a mesh.

use std::net::SocketAddr;

use anyhow::Result;
use lateen_testkit::Cluster;
use lateen_testkit::cluster::Namespace;

/// Where every part of the shop listens.
pub(crate) const PORT: u16 = 9080;

/// Each part: its name, version and arguments.
const PARTS: &[(&str, &str, &[&str])] = &[
    ("productpage", "v1", &[]),
    ("details", "v1", &[]),
    ("reviews", "v1", &[]),
    ("reviews", "v3", &[]),
    ("ratings", "v1", &[]),
];

/// Applies the whole shop and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub(crate) async fn open(namespace: &Namespace) -> Result<()> {
    let mut objects = String::new();
    for (name, version, args) in PARTS {
        objects.push_str(&deployment(name, version, args));
    }
    for name in ["productpage", "details", "reviews", "ratings"] {
        objects.push_str(&service(name));
    }
    namespace.apply(&objects).await?;
    for (name, version, _) in PARTS {
        namespace.ready(&format!("{name}-{version}")).await?;
    }
    Ok(())
}

/// One part of the shop, as the strictest profile of Pod Security allows it.
pub(crate) fn deployment(name: &str, version: &str, args: &[&str]) -> String {
    let image = Cluster::image("shop");
    let args: Vec<String> = std::iter::once(name)
        .chain(args.iter().copied())
        .map(|arg| format!("{arg:?}"))
        .collect();
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
        args: [{args}]
        env:
        - {{name: APP_VERSION, value: {version}}}
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        ports: [{{name: http, containerPort: {PORT}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
---",
        args = args.join(", "),
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
