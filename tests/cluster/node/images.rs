//! Lateen's images run in pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use lateen_testkit::http::{self, Answer};
use lateen_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::shop;

/// How long something may take on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_runs_under_the_strictest_pod_security_and_finds_its_parts_by_name() -> Result<()> {
    let Some(cluster) = Cluster::shared().await? else {
        return Ok(());
    };
    let test = async |cluster: &Cluster| {
        let strictest = "pod-security.kubernetes.io/enforce=restricted";
        let namespace = cluster.namespace("shop", &[strictest]).await?;
        shop::open(&namespace).await?;
        let door = shop::door(&namespace).await?;

        // The page answers 200 only if everyone it asked answered; whom they asked they found by CoreDNS.
        let wanted = ["details", "ratings", "reviews"];
        let page = eventually("the whole shop answers", PATIENCE, async || {
            let answer = http::get(door, "productpage", "/productpage").await.ok()?;
            (answer.status == 200 && asked(&answer) == wanted).then_some(answer)
        })
        .await?;
        let body: Value = serde_json::from_str(&page.body)?;
        let pod = namespace.pod("app=productpage").await?;
        ensure!(body["pod"] == pod.name.as_str(), "{body}");
        let users = cluster
            .printed(cluster.node("ps").args(["-C", "shop", "-o", "uid="]))
            .await?;
        ensure!(
            !users.trim().is_empty() && users.split_whitespace().all(|user| user == "10001"),
            "the shop runs as {users}"
        );
        Ok(())
    };
    cluster.run("shop", test).await
}

/// Every service that was asked, however deep, sorted.
fn asked(page: &Answer) -> Vec<String> {
    fn below(hop: &Value, found: &mut Vec<String>) {
        for call in hop["calls"].as_array().into_iter().flatten() {
            found.extend(call["to"].as_str().map(str::to_owned));
            below(&call["reply"], found);
        }
    }
    let mut found = Vec::new();
    below(&serde_json::from_str(&page.body).unwrap_or_default(), &mut found);
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pods_say_in_plain_text_is_seen_on_the_wire() -> Result<()> {
    let Some(cluster) = Cluster::shared().await? else {
        return Ok(());
    };
    let test = async |cluster: &Cluster| {
        let namespace = cluster.namespace("wire", &[]).await?;
        namespace.apply(&shop::deployment("ratings", "v1")).await?;
        namespace.ready("ratings-v1").await?;
        let pod = namespace.pod("app=ratings").await?;

        let capture = cluster.capture(&format!("tcp port {}", shop::PORT)).await?;
        let answer = http::get((pod.ip, shop::PORT).into(), "wire.test", "/ratings").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let packets = capture
            .until("the answer passes the bridge", PATIENCE, |packet| {
                packet.shows("\"service\":\"ratings\"")
            })
            .await?;
        ensure!(
            packets
                .iter()
                .any(|packet| packet.shows("wire.test") && packet.destination.ip() == &pod.ip),
            "the request did not pass"
        );
        ensure!(
            !packets.iter().any(|packet| packet.begins_tls_record()),
            "nobody spoke TLS"
        );
        Ok(())
    };
    cluster.run("wire", test).await
}

/// A pod whose traffic the proxy's image redirects, as the injector's init container does, but with nobody to take it.
const REDIRECTED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: redirected, labels: {app: redirected}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: istio-init
    image: PROXY
    args: [istio-iptables, -p, "15001", -z, "15006", -u, "1337", -m, REDIRECT, -i, "*", -x, "", -b, "*", -d, "9081"]
    securityContext:
      runAsUser: 0
      runAsNonRoot: false
      readOnlyRootFilesystem: false
      capabilities: {add: [NET_ADMIN, NET_RAW], drop: [ALL]}
  containers:
  - {name: taken, image: SHOP, args: [ratings, --listen, "0.0.0.0:9080"]}
  - {name: left, image: SHOP, args: [ratings, --listen, "0.0.0.0:9081"]}
  - name: proxy
    image: PROXY
    args: [wait, --timeoutSeconds, "3600"]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxys_image_redirects_a_pods_traffic_and_has_envoy() -> Result<()> {
    let Some(cluster) = Cluster::shared().await? else {
        return Ok(());
    };
    let test = async |cluster: &Cluster| {
        let namespace = cluster.namespace("proxy", &[]).await?;
        let pod = REDIRECTED
            .replace("PROXY", &Cluster::image("proxy"))
            .replace("SHOP", &Cluster::image("shop"));
        namespace.apply(&pod).await?;
        namespace.wait("pod/redirected", "condition=Ready", PATIENCE).await?;
        let ip = namespace.pod("app=redirected").await?.ip;

        let left = eventually("the port that is left out answers", PATIENCE, async || {
            http::get((ip, 9081).into(), "left", "/ratings").await.ok()
        });
        ensure!(left.await?.status == 200);
        let taken = http::get((ip, shop::PORT).into(), "taken", "/ratings").await;
        ensure!(taken.is_err(), "the port that is taken over still answers: {taken:?}");

        let version = namespace.exec("redirected", "proxy", &["envoy", "--version"]).await?;
        ensure!(version.contains("/1.40.0/"), "{version}");
        let agent = namespace
            .exec("redirected", "proxy", &["pilot-agent", "version"])
            .await?;
        ensure!(agent.contains("lateen-agent"), "{agent}");
        Ok(())
    };
    cluster.run("proxy", test).await
}
