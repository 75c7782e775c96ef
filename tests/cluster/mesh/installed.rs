//! A cluster with Lateen installed from its charts, and the shop of `samples/kubernetes` in it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::cluster::{HUB, TAG};
use lateen_testkit::{Cluster, eventually, http};
use serde_json::Value;

/// How long something may take on a machine that builds at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The namespace of `samples/kubernetes/shop.yaml`.
pub(crate) const SHOP: &str = "shop";

/// Where the parts of the shop listen.
pub(crate) const PORT: u16 = 9080;

/// Installs the charts; returns when the control plane is ready. Says how long each part took.
///
/// # Errors
/// When one is refused or does not become ready.
pub(crate) async fn install(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    let base = chart("base");
    cluster
        .helm([
            "install",
            "lateen-base",
            &base,
            "-n",
            "istio-system",
            "--create-namespace",
        ])
        .await?;
    println!("the resource definitions are there after {:?}", began.elapsed());
    let (hub, tag) = (format!("global.hub={HUB}"), format!("global.tag={TAG}"));
    let lateen = chart("lateen");
    cluster
        .helm([
            "install",
            "lateen",
            &lateen,
            "-n",
            "istio-system",
            "--wait",
            "--timeout",
            "120s",
            "--set",
            &hub,
            "--set",
            &tag,
            "--set",
            "autoscaleEnabled=false",
            "--set",
            "replicaCount=1",
        ])
        .await?;
    println!("Lateen is ready after {:?}", began.elapsed());
    Ok(())
}

/// Applies the shop, waits until each of its pods is ready, and makes sure that each has its sidecar.
///
/// # Errors
/// When a pod does not become ready, or has no sidecar.
pub(crate) async fn open_shop(cluster: &Cluster) -> Result<()> {
    let file = root().join("samples/kubernetes/shop.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let released = format!("{HUB}/shop:{}", env!("CARGO_PKG_VERSION"));
    ensure!(text.contains(&released), "{} does not run {released}", file.display());
    cluster.apply(&text.replace(&released, &Cluster::image("shop"))).await?;
    cluster
        .kubectl([
            "-n",
            SHOP,
            "wait",
            "--for=condition=Available",
            "deployment",
            "--all",
            "--timeout=120s",
        ])
        .await?;
    let pods: Value = serde_json::from_str(&cluster.kubectl(["-n", SHOP, "get", "pods", "-o", "json"]).await?)?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    ensure!(!pods.is_empty(), "the shop has no pods");
    for pod in pods {
        ensure!(has_sidecar(pod), "{} has no sidecar", pod["metadata"]["name"]);
    }
    Ok(())
}

/// A native sidecar, or one beside the application.
fn has_sidecar(pod: &Value) -> bool {
    ["containers", "initContainers"]
        .iter()
        .filter_map(|kind| pod["spec"][kind].as_array())
        .flatten()
        .any(|container| container["name"] == "istio-proxy")
}

/// Applies a file of `samples/bookinfo`.
///
/// # Errors
/// When it is refused.
pub(crate) async fn configure(cluster: &Cluster, sample: &str) -> Result<()> {
    let file = root().join("samples/bookinfo").join(sample);
    cluster
        .kubectl(["apply".as_ref(), "-f".as_ref(), file.as_os_str()])
        .await
        .map(|_| ())
}

/// Waits until every proxy has what an object says.
///
/// # Errors
/// When they have not in time.
pub(crate) async fn distributed(cluster: &Cluster, object: &str) -> Result<()> {
    let wait = [
        "-n",
        SHOP,
        "wait",
        "--for=condition=lateen.dev/Distributed",
        object,
        "--timeout=60s",
    ];
    cluster.kubectl(wait).await.map(|_| ())
}

/// The address of the only pod with a label.
///
/// # Errors
/// When there is none.
pub(crate) async fn pod(cluster: &Cluster, label: &str) -> Result<IpAddr> {
    let query = [
        "-n",
        SHOP,
        "get",
        "pods",
        "-l",
        label,
        "-o",
        "jsonpath={.items[*].status.podIP}",
    ];
    let text = cluster.kubectl(query).await?;
    text.parse()
        .with_context(|| format!("{label}: {text:?} is not one address"))
}

/// What the shop's driver gets in some seconds at the front page, from a pod inside the mesh: each line has `ok`, and in
/// `reply` the hops with the identities that both ends of each connection proved.
///
/// # Errors
/// When the driver does not run or prints something else.
pub(crate) async fn drive(cluster: &Cluster, seconds: u32) -> Result<Vec<Value>> {
    let driver = ["-n", SHOP, "exec", "deploy/traffic-v1", "-c", "traffic", "--"];
    let seconds = seconds.to_string();
    let load = ["/usr/local/bin/shop", "load", "--rate", "50", "--seconds", &seconds];
    let text = cluster.kubectl(driver.iter().chain(&load)).await?;
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!lines.is_empty(), "the driver asked nothing");
    Ok(lines)
}

/// Waits until a server answers a stranger, or cuts it off.
///
/// # Errors
/// When it does not in time.
pub(crate) async fn strangers_are(cluster: &Cluster, welcome: bool) -> Result<()> {
    let door: SocketAddr = (pod(cluster, "app=details").await?, PORT).into();
    let what = if welcome {
        "plain text is answered"
    } else {
        "plain text is cut off"
    };
    eventually(what, PATIENCE, async || {
        (http::get(door, "details", "/details").await.is_ok() == welcome).then_some(())
    })
    .await
}

fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
