//! A cluster with Lateen installed from its charts, the shop of `samples/kubernetes` in it, and a gateway before it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::cluster::{HUB, TAG};
use lateen_testkit::{Cluster, eventually};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::shop::{self, SHOP};

/// How long something may take on a machine that builds at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Where the gateway is, and what it is called.
pub(crate) const INGRESS: &str = "istio-ingress";

/// The cluster, and all that is installed in it.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) cluster: Cluster,
}

impl Mesh {
    /// Runs a test on the mesh that all tests of this program share, when its turn has come; none where this machine
    /// cannot run one, after a line that says why.
    ///
    /// # Errors
    /// When it cannot be installed, and what the test gives.
    pub(crate) async fn run(name: &str, test: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        static TURN: Mutex<()> = Mutex::const_new(());
        // Taken hold of before it is waited for, so that it outlives the test whose turn it is.
        let Some(mesh) = Self::shared().await? else {
            return Ok(());
        };
        let _turn = TURN.lock().await;
        let result = mesh.cluster.run(name, async |_: &Cluster| test(&mesh).await).await;
        if result.is_err() {
            // What it would have taken back itself must not make the next fail.
            let kinds =
                "virtualservice,destinationrule,serviceentry,sidecar,peerauthentication,gateway.networking.istio.io";
            mesh.kubectl(&["delete", kinds, "--all"]).await?;
        }
        result
    }

    async fn shared() -> Result<Option<Arc<Self>>> {
        static SHARED: Mutex<Weak<Mesh>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(mesh) = shared.upgrade() {
            return Ok(Some(mesh));
        }
        let Some(cluster) = Cluster::start().await? else {
            return Ok(None);
        };
        let mesh = Self { cluster };
        mesh.cluster
            .run("installation", async |_: &Cluster| mesh.install().await)
            .await?;
        let mesh = Arc::new(mesh);
        *shared = Arc::downgrade(&mesh);
        Ok(Some(mesh))
    }

    /// Installs everything, and says how long each part took until the first requests went over mutual TLS.
    async fn install(&self) -> Result<()> {
        let began = Instant::now();
        self.helm_install("lateen-base", "base", "istio-system", &[]).await?;
        println!("the resource definitions are there after {:?}", began.elapsed());
        let (hub, tag) = (format!("global.hub={HUB}"), format!("global.tag={TAG}"));
        // Sidecars answer for the names of the mesh: the only node's DNS server is away whenever its kubelet restarts.
        let names = "meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE=true";
        // What fails can be looked up in the logs.
        let log = "meshConfig.accessLogFile=/dev/stdout";
        let values = ["autoscaleEnabled=false", "replicaCount=1", log, &hub, &tag];
        let values = values.into_iter().flat_map(|value| ["--set", value]);
        let values: Vec<&str> = values.chain(["--set-string", names]).collect();
        self.helm_install("lateen", "lateen", "istio-system", &values).await?;
        println!("Lateen is ready after {:?}", began.elapsed());
        self.open_shop().await?;
        println!("the shop has its sidecars and is ready after {:?}", began.elapsed());
        let lines = eventually("every request is answered", PATIENCE, async || {
            let lines = shop::drive(self, shop::SECONDS).await.ok()?;
            shop::none_failed(&lines).is_ok().then_some(lines)
        })
        .await?;
        for line in &lines {
            shop::proved(&line["reply"])?;
        }
        println!(
            "every request is answered, over mutual TLS, after {:?}",
            began.elapsed()
        );
        let values = ["--set", "service.type=ClusterIP", "--set", "autoscaling.enabled=false"];
        self.helm_install(INGRESS, "gateway", INGRESS, &values).await
    }

    async fn helm_install(&self, release: &str, chart: &str, namespace: &str, values: &[&str]) -> Result<()> {
        let chart = root().join("charts").join(chart).display().to_string();
        let head = ["install", release, &chart, "-n", namespace, "--create-namespace"];
        let tail = ["--wait", "--timeout", "120s"];
        self.cluster
            .helm(head.iter().chain(&tail).chain(values))
            .await
            .map(|_| ())
    }

    /// Applies the shop, waits until each of its pods is ready, and makes sure that each has its sidecar.
    async fn open_shop(&self) -> Result<()> {
        let file = root().join("samples/kubernetes/shop.yaml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let released = format!("{HUB}/shop:{}", env!("CARGO_PKG_VERSION"));
        ensure!(text.contains(&released), "{} does not run {released}", file.display());
        let text = text.replace(&released, &Cluster::image("shop"));
        self.cluster.apply(&text).await?;
        self.kubectl(&[
            "wait",
            "--for=condition=Available",
            "deployment",
            "--all",
            "--timeout=120s",
        ])
        .await?;
        let pods: Value = serde_json::from_str(&self.kubectl(&["get", "pods", "-o", "json"]).await?)?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        ensure!(!pods.is_empty(), "the shop has no pods");
        for pod in pods {
            ensure!(has_sidecar(pod), "{} has no sidecar", pod["metadata"]["name"]);
        }
        Ok(())
    }

    /// What kubectl prints about the shop's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(["-n", SHOP].iter().chain(arguments)).await
    }

    /// Applies a file of `samples/bookinfo`.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn apply_sample(&self, sample: &str) -> Result<()> {
        self.sample("apply", sample).await
    }

    /// Takes back what [`Mesh::apply_sample`] brought.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) async fn delete_sample(&self, sample: &str) -> Result<()> {
        self.sample("delete", sample).await
    }

    async fn sample(&self, verb: &str, sample: &str) -> Result<()> {
        let file = root().join("samples/bookinfo").join(sample);
        self.cluster
            .kubectl([verb.as_ref(), "-f".as_ref(), file.as_os_str()])
            .await
            .map(|_| ())
    }

    /// Applies an object of the shop, and waits until every proxy has what it says.
    ///
    /// # Errors
    /// When it is refused, or not distributed in time.
    pub(crate) async fn configure(&self, object: &Value) -> Result<()> {
        self.cluster.apply(&object.to_string()).await?;
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .context("an object has a kind and a name")
        };
        self.distributed(&format!(
            "{}/{}",
            text(&object["kind"])?.to_lowercase(),
            text(&object["metadata"]["name"])?
        ))
        .await
    }

    /// Waits until every proxy has what an object of the shop says.
    ///
    /// # Errors
    /// When they have not in time.
    pub(crate) async fn distributed(&self, object: &str) -> Result<()> {
        let wait = [
            "wait",
            "--for=condition=lateen.dev/Distributed",
            object,
            "--timeout=60s",
        ];
        self.kubectl(&wait).await.map(|_| ())
    }

    /// The address of the shop's only pod with a label.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn pod(&self, label: &str) -> Result<IpAddr> {
        let query = ["get", "pods", "-l", label, "-o", "jsonpath={.items[*].status.podIP}"];
        let text = self.kubectl(&query).await?;
        text.parse()
            .with_context(|| format!("{label}: {text:?} is not one address"))
    }

    /// A port of the gateway's only pod: nothing but the gateway is between it and who asks.
    ///
    /// # Errors
    /// When it has no address.
    pub(crate) async fn door(&self, port: u16) -> Result<SocketAddr> {
        let label = format!("app={INGRESS}");
        let query = ["get", "pods", "-l", &label, "-o", "jsonpath={.items[*].status.podIP}"];
        let text = self.cluster.kubectl(["-n", INGRESS].iter().chain(&query)).await?;
        let address: IpAddr = text
            .parse()
            .with_context(|| format!("{INGRESS} is at no address: {text:?}"))?;
        Ok((address, port).into())
    }
}

/// A native sidecar, or one beside the application.
fn has_sidecar(pod: &Value) -> bool {
    ["containers", "initContainers"]
        .iter()
        .filter_map(|kind| pod["spec"][kind].as_array())
        .flatten()
        .any(|container| container["name"] == "istio-proxy")
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
