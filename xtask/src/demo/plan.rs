//! The cast of the demo, read from the sample's Pods: who runs where, as whom, with which arguments.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One pod and the proxy beside it.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) account: String,
    pub(super) ip: Ipv4Addr,
    pub(super) node: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) part: Part,
}

/// What runs beside the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A service of the shop, with its arguments and the ports it listens on.
    Service { args: Vec<String>, port: u16 },
    /// The driver of load.
    Driver { args: Vec<String> },
    /// Nothing: the proxy is a gateway.
    Gateway,
}

impl Workload {
    /// Service and version, such as `reviews-v2`.
    pub(super) fn short(&self) -> String {
        format!("{}-{}", self.app(), self.version())
    }

    pub(super) fn app(&self) -> &str {
        self.labels.get("app").map_or("", String::as_str)
    }

    pub(super) fn version(&self) -> &str {
        self.labels.get("version").map_or("", String::as_str)
    }

    /// The identity its certificate must carry.
    pub(super) fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.account)
    }
}

/// Reads every Pod of `file`.
///
/// # Errors
/// When the file cannot be read or a Pod lacks what the demo needs.
pub(super) fn cast(file: &Path) -> Result<Vec<Workload>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut cast = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let pod: Value =
            serde::Deserialize::deserialize(document).with_context(|| format!("{} is no YAML", file.display()))?;
        if pod["kind"] == "Pod" {
            let name = pod["metadata"]["name"]
                .as_str()
                .unwrap_or("a Pod without a name")
                .to_owned();
            cast.push(workload(&pod).with_context(|| format!("{}: {name}", file.display()))?);
        }
    }
    if cast.is_empty() {
        bail!("{} holds no Pod", file.display());
    }
    Ok(cast)
}

fn workload(pod: &Value) -> Result<Workload> {
    let text = |path: &str| {
        pod.pointer(path)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("no {}", &path[1..].replace('/', ".")))
    };
    let labels = pod["metadata"]["labels"].as_object().context("no metadata.labels")?;
    let container = pod.pointer("/spec/containers/0").context("no spec.containers")?;
    let args: Vec<String> = container["args"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let port = container
        .pointer("/ports/0/containerPort")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok());
    let part = match (args.first().map(String::as_str), port) {
        (Some("load"), _) => Part::Driver { args },
        (Some(_), Some(port)) => Part::Service { args, port },
        (None, _) => Part::Gateway,
        (Some(_), None) => bail!("its container has no port"),
    };
    Ok(Workload {
        pod: text("/metadata/name")?,
        namespace: text("/metadata/namespace")?,
        account: text("/spec/serviceAccountName")?,
        ip: text("/status/podIP")?
            .parse()
            .context("status.podIP is no IPv4 address")?,
        node: text("/spec/nodeName")?,
        labels: labels
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn the_sample_has_the_whole_cast() {
        let cast = cast(&root().join("samples/bookinfo/pods.yaml")).unwrap();
        let mut names: Vec<String> = cast.iter().map(Workload::short).collect();
        names.dedup();
        assert_eq!(
            names,
            [
                "traffic-v1",
                "productpage-v1",
                "details-v1",
                "stock-v1",
                "reviews-v1",
                "reviews-v2",
                "reviews-v3",
                "ratings-v1",
                "ingress-v1"
            ]
        );
        assert_eq!(cast.len(), 10, "ratings has two replicas");
        assert_eq!(
            cast[0].part,
            Part::Driver {
                args: vec![
                    "load".into(),
                    "--url".into(),
                    "http://productpage:9080/productpage".into()
                ]
            }
        );
        assert_eq!(cast[9].part, Part::Gateway);
        assert_eq!(cast[4].identity(), "spiffe://cluster.local/ns/shop/sa/reviews");
        let ips: std::collections::BTreeSet<_> = cast.iter().map(|workload| workload.ip).collect();
        assert_eq!(ips.len(), cast.len(), "addresses are unique");
    }
}
