//! The Gateway API's own conformance suite, against Lateen as its users have it: installed by Helm, on a real node.
//!
//! What the suite says of itself is printed; its report is left in `target/conformance/report.yaml`, and
//! `tests/conformance/report.yaml` is the one of the last run that counted.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use lateen_testkit::Cluster;
use lateen_testkit::cluster::{HUB, TAG};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

/// The profiles that Lateen claims.
const PROFILES: &str = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,MESH-HTTP,MESH-GRPC";

/// What proxies do for services, beside what the GatewayClass says of gateways.
const OF_THE_MESH: &[&str] = &[
    "Mesh",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// So many proxies at once find room on one node when they ask for little.
const VALUES: &str = "
autoscaleEnabled: false
replicaCount: 1
global: {proxy: {resources: {requests: {cpu: 5m, memory: 32Mi}}}}
meshConfig: {accessLogFile: /dev/stdout}
gatewayClasses:
  istio:
    deployment:
      spec: {template: {spec: {containers: [{name: istio-proxy, resources: {requests: {cpu: 5m, memory: 32Mi}}}]}}}
";

/// `LATEEN_CONFORMANCE_TEST` names one test of the suite to run alone; without a report, then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lateen_conforms_to_the_gateway_api() -> Result<()> {
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    cluster
        .run("conformance", async |cluster: &Cluster| {
            install(cluster).await?;
            suite(cluster).await
        })
        .await
}

/// The suite's program, its images and the API's definitions, as `cargo xtask images --conformance` makes them.
fn built() -> Result<PathBuf> {
    let images = std::env::var_os("LATEEN_IMAGES").context("LATEEN_IMAGES is unset")?;
    Ok(PathBuf::from(images).with_file_name("conformance"))
}

async fn install(cluster: &Cluster) -> Result<()> {
    let built = built()?;
    for entry in std::fs::read_dir(built.join("images"))? {
        cluster.load(&entry?.path()).await?;
    }
    let definitions = built.join("crds.yaml");
    let apply = ["apply", "--server-side", "-f"].map(AsRef::as_ref);
    cluster
        .kubectl(apply.into_iter().chain([definitions.as_os_str()]))
        .await?;
    let values = built.join("values.yaml");
    std::fs::write(&values, VALUES)?;
    let image = [format!("global.hub={HUB}"), format!("global.tag={TAG}")];
    helm(cluster, "lateen-base", "base", &[]).await?;
    let flags = [
        "-f",
        &values.display().to_string(),
        "--set",
        &image[0],
        "--set",
        &image[1],
    ];
    helm(cluster, "lateen", "lateen", &flags).await?;
    let wait = ["wait", "--for=jsonpath={.status.supportedFeatures[0].name}"];
    cluster
        .kubectl(wait.iter().chain(&["gatewayclass/istio", "--timeout=60s"]))
        .await
        .map(|_| ())
}

async fn helm(cluster: &Cluster, release: &str, chart: &str, values: &[&str]) -> Result<()> {
    let chart = root().join("charts").join(chart).display().to_string();
    let head = ["install", release, &chart, "-n", "istio-system", "--create-namespace"];
    let tail = ["--wait", "--timeout", "120s"];
    cluster.helm(head.iter().chain(&tail).chain(values)).await.map(|_| ())
}

async fn suite(cluster: &Cluster) -> Result<()> {
    let features = features(cluster).await?;
    let built = built()?;
    let report = built.join("report.yaml");
    let mut command = Command::new(built.join("suite"));
    command
        .current_dir(root().join("tests/conformance"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(["-test.v", "-test.timeout=60m", "-gateway-class=istio"])
        .args([
            "-organization=lateen",
            "-project=lateen",
            "-url=https://lateen.dev",
            "-contact=https://lateen.dev",
        ])
        .arg(format!("-version={}", env!("CARGO_PKG_VERSION")))
        .arg(format!("-conformance-profiles={PROFILES}"))
        .arg(format!("-balancers={}", cluster.balancers()))
        .arg(format!("-supported-features={features}"));
    match std::env::var("LATEEN_CONFORMANCE_TEST") {
        Ok(test) => command.arg(format!("-run-test={test}")),
        Err(_) => {
            println!("the report goes to {}", report.display());
            command.arg(format!("-report-output={}", report.display()))
        }
    };
    let failed = results(command, &built.join("suite.log")).await?;
    ensure!(failed.is_empty(), "failing tests of the suite:\n{}", failed.join("\n"));
    Ok(())
}

/// What gateways can do as their class says it, and what the mesh can.
async fn features(cluster: &Cluster) -> Result<String> {
    let query = "jsonpath={.status.supportedFeatures[*].name}";
    let said = cluster.kubectl(["get", "gatewayclass", "istio", "-o", query]).await?;
    let all: Vec<&str> = said.split_whitespace().chain(OF_THE_MESH.iter().copied()).collect();
    ensure!(
        all.len() > OF_THE_MESH.len(),
        "the GatewayClass says nothing of features"
    );
    Ok(all.join(","))
}

/// Runs the suite, keeps all that it says in a file, prints the results of its tests, and returns those that failed.
async fn results(mut command: Command, log: &Path) -> Result<Vec<String>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run the suite; `cargo xtask test long` builds it")?;
    let mut log = tokio::fs::File::create(log).await?;
    let mut lines = BufReader::new(child.stdout.take().context("the suite has an output")?).lines();
    let (mut passed, mut failed) = (0_u32, Vec::new());
    while let Some(line) = lines.next_line().await? {
        log.write_all(format!("{line}\n").as_bytes()).await?;
        let result = line.trim_start();
        if result.starts_with("--- FAIL: TestConformance/") {
            failed.push(line);
        } else if result.starts_with("--- PASS: TestConformance/") {
            passed += 1;
        }
    }
    log.flush().await?;
    let status = child.wait().await?;
    println!(
        "{passed} tests of the suite and their parts passed, {} failed",
        failed.len()
    );
    if !status.success() && failed.is_empty() {
        bail!("the suite ended with {status}");
    }
    ensure!(passed > 0, "the suite ran no test");
    Ok(failed)
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
