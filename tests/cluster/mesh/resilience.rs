//! Retries, time-outs, faults, circuit breaking and mirroring, each by `kubectl apply`, as the shop's driver sees them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::{Cluster, Upstream, eventually};
use serde_json::{Value, json};

use crate::edge::outside;
use crate::mesh::{Mesh, PATIENCE};
use crate::shop::{Asking, SHOP, ask, none_failed, took, with_status};

const PRODUCTPAGE: &str = "http://productpage:9080/productpage";
const RATINGS: &str = "http://ratings:9080/ratings";
const STARS: &str = "http://stars:9080/ratings";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_injected_and_time_outs_kept() -> Result<()> {
    Mesh::run("faults", async |mesh| {
        let teapot = json!({"abort": {"httpStatus": 418, "percentage": {"value": 100}}});
        let slow = json!({"delay": {"fixedDelay": "700ms", "percentage": {"value": 100}}});
        let rules = json!([
            {"match": [{"headers": {"end-user": {"exact": "ana"}}}], "fault": teapot, "route": to("ratings")},
            {"match": [{"headers": {"end-user": {"exact": "bo"}}}], "fault": slow, "route": to("ratings")},
            {"route": to("ratings")},
        ]);
        mesh.configure(&virtual_service("ratings", &rules)).await?;
        none_failed(&ask(mesh, Asking::url(RATINGS)).await?)?;
        let ana = Asking {
            headers: &["end-user: ana"],
            ..Asking::url(RATINGS)
        };
        let lines = ask(mesh, ana).await?;
        ensure!(with_status(&lines, 418) == lines.len(), "{lines:#?}");
        let bo = Asking {
            headers: &["end-user: bo"],
            ..Asking::url(RATINGS)
        };
        let lines = ask(mesh, bo).await?;
        none_failed(&lines)?;
        // Envoy counts in whole milliseconds.
        let early = lines.iter().filter(|line| took(line) < Duration::from_millis(690));
        ensure!(early.clone().count() == 0, "{:#?}", early.collect::<Vec<_>>());

        // The front page as bo waits for reviews, and these, from the second version on, for ratings; not longer than half
        // a second, then.
        let patience = json!([{"timeout": "0.5s", "route": to("productpage")}]);
        mesh.apply_sample("reviews-versions.yaml").await?;
        let starred = json!([{"route": [{"destination": {"host": "reviews", "subset": "v2"}}]}]);
        mesh.configure(&virtual_service("reviews", &starred)).await?;
        mesh.configure(&virtual_service("productpage", &patience)).await?;
        let bo = Asking {
            headers: &["end-user: bo"],
            ..Asking::url(PRODUCTPAGE)
        };
        let lines = ask(mesh, bo).await?;
        let otherwise = lines.iter().filter(|line| {
            line["status"] != 504 || took(line) < Duration::from_millis(490) || took(line) > Duration::from_secs(5)
        });
        ensure!(otherwise.clone().count() == 0, "{:#?}", otherwise.collect::<Vec<_>>());
        mesh.kubectl(&["delete", "virtualservice", "ratings", "reviews", "productpage"])
            .await?;
        mesh.delete_sample("reviews-versions.yaml").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_and_outlier_detection_avoid_a_replica_that_is_broken() -> Result<()> {
    Mesh::run("retries", async |mesh| {
        let stars = Stars::open(mesh).await?;
        let once = json!([{"retries": {"attempts": 0}, "route": to("stars")}]);
        mesh.configure(&virtual_service("stars", &once)).await?;
        let lines = ask(mesh, Asking::url(STARS)).await?;
        let failed = with_status(&lines, 503);
        println!(
            "without retries: {failed} of {} requests met the broken replica",
            lines.len()
        );
        ensure!(
            failed > 0 && failed < lines.len(),
            "{failed} of {} requests failed: {lines:#?}",
            lines.len()
        );
        let again =
            json!([{"retries": {"attempts": 5, "retryOn": "5xx", "perTryTimeout": "2s"}, "route": to("stars")}]);
        mesh.configure(&virtual_service("stars", &again)).await?;
        none_failed(&ask(mesh, Asking::url(STARS)).await?)?;

        // Without retries again, but the broken one is left out after its first failures.
        mesh.configure(&virtual_service("stars", &once)).await?;
        let outliers = json!({"outlierDetection": {
            "consecutive5xxErrors": 2, "interval": "0.1s", "baseEjectionTime": "60s", "maxEjectionPercent": 50,
        }});
        mesh.configure(&destination_rule("stars", &outliers)).await?;
        let lines = eventually("the broken replica is left out", PATIENCE, async || {
            let lines = ask(mesh, Asking::url(STARS)).await.ok()?;
            none_failed(&lines).is_ok().then_some(lines)
        })
        .await?;
        ensure!(lines.len() > 50, "{lines:#?}");
        stars.close(mesh).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_breaker_opens_at_its_limit() -> Result<()> {
    Mesh::run("breaker", async |mesh| {
        // The page takes as long as details: five requests a second overlap.
        let slow = json!([{
            "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 100}}}, "route": to("details"),
        }]);
        mesh.configure(&virtual_service("details", &slow)).await?;
        let once = json!([{"retries": {"attempts": 0}, "route": to("productpage")}]);
        mesh.configure(&virtual_service("productpage", &once)).await?;
        // Not from where the shop's own driver asks all the time.
        let asking = Asking {
            from: ("stock-v1", "stock"),
            rate: 5,
            seconds: 4,
            ..Asking::url(PRODUCTPAGE)
        };
        none_failed(&ask(mesh, asking).await?)?;
        let limits = json!({"connectionPool": {
            "tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1},
        }});
        mesh.configure(&destination_rule("productpage", &limits)).await?;
        let lines = ask(mesh, asking).await?;
        let (refused, answered) = (with_status(&lines, 503), with_status(&lines, 200));
        println!("{refused} of {} requests were refused by the breaker", lines.len());
        ensure!(
            refused > 0 && answered > 0 && refused + answered == lines.len(),
            "{lines:#?}"
        );
        // At once, not after waiting, but for one that was let wait first.
        let quick = |line: &&Value| line["status"] == 503 && took(line) < Duration::from_millis(500);
        ensure!(lines.iter().filter(quick).count() > refused / 2, "{lines:#?}");
        mesh.kubectl(&["delete", "destinationrule", "productpage"]).await?;
        mesh.kubectl(&["delete", "virtualservice", "productpage", "details"])
            .await
            .map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mirrored_reaches_both_and_is_answered_by_one() -> Result<()> {
    Mesh::run("mirror", async |mesh| {
        let mirror = Upstream::start("mirror", mesh.cluster.host()).await?;
        mesh.configure(&outside("mirror.example", mirror.address)).await?;
        let mirrored = |percent: u32| {
            // Not what the shop's own driver asks all the time.
            json!([{"match": [{"headers": {"end-user": {"exact": "ana"}}}],
                "route": to("reviews"), "mirrors": [{
                    "destination": {"host": "mirror.example", "port": {"number": mirror.address.port()}},
                    "percentage": {"value": percent},
                }],
            }, {"route": to("reviews")}])
        };
        let ana = Asking {
            headers: &["end-user: ana"],
            ..Asking::url("http://reviews:9080/reviews")
        };
        for percent in [100, 50, 0] {
            mesh.configure(&virtual_service("reviews", &mirrored(percent))).await?;
            let before = mirror.hits();
            let lines = ask(mesh, ana).await?;
            // The mirror does not answer as the shop does.
            none_failed(&lines)?;
            let asked = u64::try_from(lines.len())?;
            let wanted = match percent {
                100 => asked..=asked,
                0 => 0..=0,
                _ => asked / 4..=asked - asked / 4,
            };
            // The last copies may be under way still.
            let got = async || Some(mirror.hits() - before).filter(|got| wanted.contains(got));
            let got = eventually("the mirror has its share", PATIENCE, got)
                .await
                .with_context(|| format!("{percent} %: {} of {asked}", mirror.hits() - before))?;
            println!("{percent} %: {got} of {asked} requests were mirrored");
        }
        mesh.kubectl(&["delete", "virtualservice/reviews", "serviceentry/outside"])
            .await
            .map(drop)
    })
    .await
}

/// A service with two replicas, of which one says that it is ready and listens elsewhere.
struct Stars;

impl Stars {
    async fn open(mesh: &Mesh) -> Result<Self> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "stars", "namespace": SHOP},
            "spec": {"selector": {"app": "stars"}, "ports": [{"name": "http", "port": 9080}]},
        });
        let pod = |name: &str, listen: &str| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": SHOP, "labels": {"app": "stars", "part": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "app", "image": Cluster::image("shop"), "args": ["ratings", "--listen", listen],
                }]},
            })
        };
        for object in [
            service,
            pod("stars-well", "0.0.0.0:9080"),
            pod("stars-broken", "0.0.0.0:9081"),
        ] {
            mesh.cluster.apply(&object.to_string()).await?;
        }
        mesh.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod",
            "-l",
            "app=stars",
            "--timeout=60s",
        ])
        .await?;
        Ok(Self)
    }

    async fn close(self, mesh: &Mesh) -> Result<()> {
        for (kind, names) in [
            ("virtualservice", &["stars"][..]),
            ("destinationrule", &["stars"]),
            ("service", &["stars"]),
            ("pod", &["stars-well", "stars-broken"]),
        ] {
            let delete = ["delete", kind, "--wait=false"];
            mesh.kubectl(&[&delete[..], names].concat()).await?;
        }
        Ok(())
    }
}

fn to(host: &str) -> Value {
    json!([{"destination": {"host": host}}])
}

fn virtual_service(host: &str, http: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": host, "namespace": SHOP}, "spec": {"hosts": [host], "http": http},
    })
}

fn destination_rule(host: &str, policy: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": host, "namespace": SHOP}, "spec": {"host": host, "trafficPolicy": policy},
    })
}
