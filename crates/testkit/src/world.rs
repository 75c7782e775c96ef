//! Worlds of files, and the objects in them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tempfile::TempDir;

use crate::Upstream;
use crate::envoy::{GATEWAY_LABEL, GATEWAY_NAMESPACE};

/// A directory with configuration, and room for what processes write. It is removed when dropped.
#[derive(Debug)]
pub struct World {
    directory: TempDir,
    config: PathBuf,
}

impl World {
    /// An empty world.
    ///
    /// # Errors
    /// When directories cannot be made.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config");
        std::fs::create_dir(&config)?;
        Ok(Self { directory, config })
    }

    /// Where processes put their files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory that `lateend` reads.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Puts documents into a file, whole or not at all, and says when.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &str, documents: &[&str]) -> Result<Instant> {
        let part = self.directory.path().join("part");
        std::fs::write(&part, documents.join("\n---\n")).with_context(|| format!("cannot write {file}"))?;
        std::fs::rename(&part, self.config.join(file)).with_context(|| format!("cannot write {file}"))?;
        Ok(Instant::now())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, file: &str) -> Result<Instant> {
        std::fs::remove_file(self.config.join(file)).with_context(|| format!("cannot remove {file}"))?;
        Ok(Instant::now())
    }
}

/// A Service of one HTTP port, with a pod and its EndpointSlice for each upstream, whose name becomes the label
/// `version`. `number` makes the service's address.
pub fn service(namespace: &str, name: &str, number: u8, port: u16, upstreams: &[&Upstream]) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  clusterIP: 10.96.0.{number}
  clusterIPs: [10.96.0.{number}]
  selector: {{app: {name}}}
  ports: [{{name: http, port: {port}, protocol: TCP}}]
"
    );
    for upstream in upstreams {
        let (version, ip, port) = (&upstream.name, upstream.address.ip(), upstream.address.port());
        // Writing to a string cannot fail.
        let _ = write!(
            yaml,
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-{version}, namespace: {namespace}, labels: {{app: {name}, version: {version}}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app, image: app}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: \"True\"}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{version}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints:
  - addresses: [{ip}]
    conditions: {{ready: true, serving: true, terminating: false}}
    targetRef: {{kind: Pod, name: {name}-{version}, namespace: {namespace}}}
"
        );
    }
    yaml
}

/// MeshConfig without mutual TLS of its own accord: no agent is there to give the gateway's Envoy a certificate, and
/// Envoy would wait for one.
pub fn mesh() -> String {
    "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    enableAutoMtls: false
"
    .to_owned()
}

/// A Gateway `gateway` for HTTP on a port of loopback, for all hosts, on the Envoy of [`crate::Envoy::gateway`].
pub fn gateway(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gateway, namespace: {GATEWAY_NAMESPACE}}}
spec:
  selector: {{istio: {GATEWAY_LABEL}}}
  servers:
    - port: {{number: {port}, name: http, protocol: HTTP}}
      bind: 127.0.0.1
      hosts: [\"*\"]
"
    )
}

/// A VirtualService of one host on that Gateway. `mark` comes back in the header `x-mark` of every answer and so tells
/// which version of the object is in force; `routes` are destinations as subset, where there is one, and weight.
pub fn virtual_service(
    namespace: &str,
    name: &str,
    host: &str,
    service: &str,
    mark: &str,
    routes: &[(Option<&str>, u32)],
) -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{host}]
  gateways: [{GATEWAY_NAMESPACE}/gateway]
  http:
    - headers: {{response: {{set: {{x-mark: \"{mark}\"}}}}}}
      route:
"
    );
    for (subset, weight) in routes {
        let subset = subset.map(|subset| format!(", subset: {subset}")).unwrap_or_default();
        let _ = writeln!(
            yaml,
            "        - {{destination: {{host: {service}.{namespace}.svc.cluster.local{subset}}}, weight: {weight}}}"
        );
    }
    yaml
}

/// A DestinationRule of the same name as its service. `policy` is the text of `trafficPolicy`, none when empty;
/// `subsets` are names with the version that each selects.
pub fn destination_rule(namespace: &str, service: &str, policy: &str, subsets: &[(&str, &str)]) -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  host: {service}.{namespace}.svc.cluster.local
"
    );
    if !policy.is_empty() {
        let _ = writeln!(yaml, "  trafficPolicy: {policy}");
    }
    if !subsets.is_empty() {
        yaml.push_str("  subsets:\n");
    }
    for (name, version) in subsets {
        let _ = writeln!(yaml, "    - {{name: {name}, labels: {{version: {version}}}}}");
    }
    yaml
}

/// A Secret with a new certificate for a host and its key, as a Gateway's `credentialName` names it; the certificate first.
///
/// # Errors
/// When the host is no name for a certificate.
pub fn tls_secret(namespace: &str, name: &str, host: &str) -> Result<(CertificateDer<'static>, String)> {
    let certified = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"tls.crt": certified.cert.pem(), "tls.key": certified.signing_key.serialize_pem()},
    });
    Ok((certified.cert.der().clone(), secret.to_string()))
}
