//! A proxy that does what it is told: a sidecar's stream, and what it has got over it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::config::route::v3::RouteConfiguration;
use lateen_testkit::Lateend;
use lateen_xds::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, VIRTUAL_HOST};
use lateen_xds::{AdsClient, ClientState, Update};
use prost::Message as _;
use serde_json::json;
use tonic::transport::Endpoint;

/// The longest that anything may take which does take place. Far more than it needs: others use the machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What it asks for.
const TYPES: [&str; 5] = [CLUSTER, ENDPOINTS, LISTENER, ROUTE, VIRTUAL_HOST];

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
        // As Envoy does, it asks for virtual hosts once it has a table that has more of them.
        sidecar.until("its tables", all_came).await?;
        if tables(sidecar.client.state()).any(|(_, more)| more) {
            sidecar.client.subscribe(VIRTUAL_HOST, &["*"]).await?;
        }
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

/// A route table contains what its virtual hosts do, whichever way these came.
fn contains(state: &ClientState, url: &str, name: &str, text: &str) -> Option<bool> {
    let holds = |body: &[u8]| body.windows(text.len()).any(|window| window == text.as_bytes());
    let own = holds(&state.of(url)?.resources.get(name)?.body.value);
    Some(own || (url == ROUTE && hosts(state, name).any(|host| holds(host))))
}

/// The virtual hosts of a table that came one by one.
fn hosts<'a>(state: &'a ClientState, table: &'a str) -> impl Iterator<Item = &'a Vec<u8>> {
    let all = state.of(VIRTUAL_HOST).into_iter().flat_map(|of| &of.resources);
    all.filter(move |(name, _)| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('/')))
        .map(|(_, host)| &host.body.value)
}

/// Route tables by name, each with whether it has more virtual hosts.
fn tables(state: &ClientState) -> impl Iterator<Item = (&String, bool)> {
    let all = state.of(ROUTE).into_iter().flat_map(|of| &of.resources);
    all.map(|(name, table)| {
        let table = RouteConfiguration::decode(table.body.value.as_slice());
        (name, table.is_ok_and(|table| table.vhds.is_some()))
    })
}

/// Whether all that was asked for by name has come.
fn all_came(state: &ClientState) -> bool {
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

/// The same, and every table has its virtual hosts.
fn complete(state: &ClientState) -> bool {
    all_came(state) && tables(state).all(|(name, more)| !more || hosts(state, name).next().is_some())
}
