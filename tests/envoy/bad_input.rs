//! What is wrong with configuration is named, and hurts nothing else.

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::world::virtual_service;
use lateen_testkit::{Load, eventually};
use serde_json::Value;

use crate::scene::{PATIENCE, Scene, scene};

/// A file that is wrong, and words that must be said of it, all in one finding. Without words, the file must only do no
/// harm.
struct Wrong {
    file: &'static str,
    yaml: String,
    named: &'static [&'static str],
}

fn wrong() -> [Wrong; 6] {
    let route =
        |name: &str, host: &str, service: &str| virtual_service("shop", name, host, service, name, &[(None, 100)]);
    // Both claim the host of the service echo-0, for sidecars.
    let in_the_mesh = |name: &str, service: &str| {
        route(name, "echo-0.shop.svc.cluster.local", service).replace("[edge/gateway]", "[mesh]")
    };
    [
        Wrong {
            file: "malformed.yaml",
            yaml: "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: broken\nspec: ["
                .to_owned(),
            named: &["malformed.yaml", "\"line\":"],
        },
        Wrong {
            file: "unknown-field.yaml",
            yaml: route("misspelt", "misspelt.test", "echo-0").replace("  hosts:", "  retrys: 3\n  hosts:"),
            named: &["unknown-field.yaml", "misspelt", "retrys", "\"line\":"],
        },
        Wrong {
            file: "wrong-type.yaml",
            yaml: route("mistyped", "mistyped.test", "echo-0").replace("weight: 100", "weight: plenty"),
            named: &["wrong-type.yaml", "mistyped", "weight", "\"line\":"],
        },
        Wrong {
            file: "nowhere.yaml",
            yaml: route("nowhere", "nowhere.test", "nobody"),
            named: &["nowhere", "spec.http[0].route[0].destination.host", "nobody"],
        },
        Wrong {
            file: "second-claim.yaml",
            yaml: route("usurper", "good.test", "echo-1"),
            // At a gateway the two are merged, older first; only in the mesh is one of them without effect.
            named: &[],
        },
        Wrong {
            file: "two-claims.yaml",
            yaml: in_the_mesh("first", "echo-0") + "---\n" + &in_the_mesh("second", "echo-1"),
            named: &[
                "IST0109",
                "spec.hosts",
                "shop/first",
                "second",
                "echo-0.shop.svc.cluster.local",
                "merge them",
            ],
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_named_and_harmless() -> Result<()> {
    scene(async |scene| {
        let good = |mark: &str| virtual_service("shop", "good", "good.test", "echo-0", mark, &[(None, 100)]);
        scene.world.write("good.yaml", &[&good("good")])?;
        scene.marked("good.test", "good").await?;
        let load = Load::start(scene.door, &["good.test"], 2);
        load.more(50, PATIENCE).await?;

        for one in wrong() {
            scene.world.write(one.file, &[&one.yaml])?;
            if !one.named.is_empty() {
                println!("{}: {}", one.file, named(scene, &one).await?);
            }
            ensure!(scene.lateend.ready().await, "{}: lateend is no longer ready", one.file);
            load.more(30, PATIENCE).await?;
        }
        // With all of that in place, a good change still counts, and a host without a service is answered, not dropped.
        scene.world.write("good.yaml", &[&good("better")])?;
        scene.marked("good.test", "better").await?;
        let answer = scene.get("nowhere.test").await?;
        ensure!((500..600).contains(&answer.status), "a route to nobody: {answer:?}");

        // And once mended, nothing is said any more.
        for one in wrong() {
            scene.world.remove(one.file)?;
        }
        eventually("findings are gone with their files", PATIENCE, async || {
            let said = scene.lateend.push_status().await.ok()?.to_string();
            wrong().iter().all(|one| !said.contains(one.file)).then_some(())
        })
        .await?;
        load.stop().await?.none_failed()
    })
    .await
}

/// Waits for the finding that says all that it must.
async fn named(scene: &Scene, wrong: &Wrong) -> Result<String> {
    let what = format!("{} is named with {:?}", wrong.file, wrong.named);
    let found = eventually(&what, PATIENCE, async || {
        let status = scene.lateend.push_status().await.ok()?;
        let lists = ["findings", "files"].map(|list| status[list].as_array().cloned().unwrap_or_default());
        let said = lists.into_iter().flatten().map(|finding: Value| finding.to_string());
        said.into_iter()
            .find(|finding| wrong.named.iter().all(|word| finding.contains(word)))
    })
    .await;
    match found {
        Ok(finding) => Ok(finding),
        Err(error) => {
            let status = scene.lateend.push_status().await.unwrap_or_default();
            Err(error).with_context(|| format!("what is said: {status:#}"))
        }
    }
}
