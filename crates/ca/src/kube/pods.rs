//! Questions about pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, VersionMatch};
use kube::{Api, Client};

/// Asks the API server about pods.
#[derive(Clone)]
pub(super) struct Pods(Client);

/// What matters of a pod.
#[derive(Debug, Clone)]
pub(super) struct PodFacts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) account: String,
    pub(super) node: Option<String>,
    pub(super) host_network: bool,
    addresses: Vec<IpAddr>,
    ended: bool,
}

impl Pods {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The pod of that name and UID as it is now, unless it is gone or has ended.
    pub(super) async fn running(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<PodFacts>, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
        let pod = pods.get_opt(name).await?.map(PodFacts::from);
        Ok(pod.filter(|pod| pod.uid == uid && !pod.ended))
    }

    /// The pods that have this address. May be a moment behind: who asks must not rely on there being none.
    pub(super) async fn at(&self, address: IpAddr) -> Result<Vec<PodFacts>, kube::Error> {
        let pods: Api<Pod> = Api::all(self.0.clone());
        let params = ListParams::default()
            .fields(&format!("status.podIP={address}"))
            .at("0")
            .matching(VersionMatch::NotOlderThan);
        let pods = pods.list(&params).await?.items.into_iter().map(PodFacts::from);
        Ok(pods.filter(|pod| !pod.ended).collect())
    }

    /// Whether a pod of this account is on this node.
    pub(super) async fn any_on(&self, node: &str, namespace: &str, account: &str) -> Result<bool, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
        let params = ListParams::default().fields(&format!("spec.nodeName={node},spec.serviceAccountName={account}"));
        let pods = pods.list(&params).await?.items.into_iter().map(PodFacts::from);
        Ok(pods.into_iter().any(|pod| !pod.ended))
    }
}

impl PodFacts {
    /// Whether this is one of its addresses.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

impl From<Pod> for PodFacts {
    fn from(pod: Pod) -> Self {
        let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let addresses = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let addresses = addresses.chain(status.pod_ip.as_deref());
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
            node: spec.node_name,
            host_network: spec.host_network.unwrap_or_default(),
            addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        }
    }
}
