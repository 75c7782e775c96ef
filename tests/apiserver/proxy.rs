//! A proxy that does what it is told: a sidecar's stream, and what it has got over it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_testkit::Lateend;
use lateen_xds::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE};
use lateen_xds::{AdsClient, ClientState, Update};
use serde_json::json;
use tonic::transport::Endpoint;

/// The longest that anything may take which does take place. Far more than it needs: others use the machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What it asks for.
const TYPES: [&str; 4] = [CLUSTER, ENDPOINTS, LISTENER, ROUTE];

/// A sidecar of a pod, by name, namespace and address.
pub(crate) struct Sidecar {
    client: AdsClient,
}

/// Resources by type and name, as bytes.
pub(crate) type Held = BTreeMap<(String, String), Vec<u8>>;

impl Sidecar {
    /// Connects to the port without TLS and takes the first clusters and listeners.
    pub(crate) async fn connect(lateend: &Lateend, pod: &str, namespace: &str, ip: &str) -> Result<Self> {
        let node: Node = lateen_proto::from_json(&json!({
            "id": format!("sidecar~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            "cluster": format!("{pod}.{namespace}"),
            "metadata": {
                "NAME": pod, "NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": ip,
                "LABELS": {"app": pod}, "SERVICE_ACCOUNT": "default", "INTERCEPTION_MODE": "REDIRECT",
                "ISTIO_VERSION": "1.32.0",
            },
        }))?;
        let state = ClientState::new()
            .following()
            .subscribing(CLUSTER, &["*"])
            .subscribing(LISTENER, &["*"]);
        let channel = Endpoint::from_shared(format!("http://{}", lateend.plaintext()))?
            .connect()
            .await?;
        let client = AdsClient::connect(channel, node, state).await?;
        let mut sidecar = Self { client };
        sidecar.until("all that was asked for", complete).await?;
        Ok(sidecar)
    }

    /// Takes responses until something holds; gives those that came meanwhile.
    pub(crate) async fn until(&mut self, what: &str, done: impl FnMut(&ClientState) -> bool) -> Result<Vec<Update>> {
        self.client
            .until(PATIENCE, done)
            .await
            .with_context(|| format!("a proxy waits for {what}"))
    }

    /// Takes responses until a resource contains a text, or no longer contains it.
    pub(crate) async fn until_contains(
        &mut self,
        url: &str,
        name: &str,
        text: &str,
        there: bool,
    ) -> Result<Vec<Update>> {
        let what = format!("{name} with `{text}`: {there}");
        self.until(&what, |state| contains(state, url, name, text) == Some(there))
            .await
    }

    /// Whether a resource contains a text; `None` where there is no such resource.
    pub(crate) fn contains(&self, url: &str, name: &str, text: &str) -> Option<bool> {
        contains(self.client.state(), url, name, text)
    }

    /// Everything that it holds.
    pub(crate) fn held(&self) -> Held {
        let state = self.client.state();
        let mut held = Held::new();
        for url in TYPES {
            for (name, resource) in state.of(url).into_iter().flat_map(|of| &of.resources) {
                held.insert((url.to_owned(), name.clone()), resource.body.value.clone());
            }
        }
        held
    }
}

fn contains(state: &ClientState, url: &str, name: &str, text: &str) -> Option<bool> {
    let body = &state.of(url)?.resources.get(name)?.body.value;
    Some(body.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Whether all that was asked for by name has come.
fn complete(state: &ClientState) -> bool {
    let of = |url| state.of(url);
    let wildcard = [CLUSTER, LISTENER]
        .into_iter()
        .all(|url| of(url).is_some_and(|of| !of.resources.is_empty()));
    let named = TYPES
        .into_iter()
        .filter_map(of)
        .all(|of| of.names.iter().all(|name| of.resources.contains_key(name)));
    wildcard && named
}
