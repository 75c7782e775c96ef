//! What proxies would get in recorded scenarios, compared with what Istio's control plane gave them, and shown to Envoy.
//!
//! The scenarios, what is expected, and the tool that compares come from the reference data (`LATEEN_REFERENCE`). What is
//! rendered stays in `golden-corpus` of the build's folder for temporary files, to be looked at after a failure. Differences
//! that are meant are explained in DIFFERENCES.md beside this file.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "corpus/bootstrap.rs"]
mod bootstrap;
#[path = "corpus/scenarios.rs"]
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use serde_json::Value;

use scenarios::{Scenario, rendered};

/// Scenarios by the beginning of their name, and the share of facts that must be equal.
const THRESHOLDS: &[(&[&str], f64)] = &[
    (
        &[
            "samples-bookinfo-plain",
            "samples-bookinfo-versions",
            "samples-bookinfo-net-virtual-service-",
        ],
        0.99,
    ),
    (&["samples-bookinfo-"], 0.99),
    (&["vs-"], 0.99),
    (&["route-"], 0.99),
    (&["dr-"], 0.99),
    (&["gw-"], 0.99),
    (&["se-"], 0.99),
    (&["sc-"], 0.99),
    (&["svc-"], 0.99),
    (&["gapi-"], 0.99),
    (&["net-"], 0.99),
    (&["mesh-"], 0.99),
    (&["tel-"], 0.99),
    (&["pa-", "authz-", "jwt-"], 0.99),
    (&["ef-"], 0.999),
    (&["invalid-"], 0.999),
];

/// What no scenario of traffic management may fall under.
const LEAST: f64 = 0.9;
/// Scenarios that [`LEAST`] does not hold for: waypoints are not served yet.
const BELOW: &[&str] = &["waypoint-"];

/// Names of resources that are meant to be there or not to be there: scenario, file, name; see DIFFERENCES.md.
const EXPLAINED_NAMES: &[(&str, &str, &str)] = &[];

#[test]
fn facts_equal_those_that_istio_gave() {
    let Some(rendered) = rendered() else {
        return skipped("the comparison with Istio's configuration");
    };
    let report = rendered.directory.join("compare.json");
    let compared = Command::new("python3")
        .arg(rendered.reference.join("tools/compare.py"))
        .arg("-q")
        .arg(rendered.reference.join("corpus"))
        .arg(&rendered.directory)
        .arg("--json")
        .arg(&report)
        .output()
        .expect("python3 runs the comparison");
    println!("{}", String::from_utf8_lossy(&compared.stdout));
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap_or_else(|error| {
        panic!(
            "the comparison wrote no report: {error}\n{}",
            String::from_utf8_lossy(&compared.stderr)
        )
    }))
    .unwrap();
    let scores: BTreeMap<String, [u64; 2]> = serde_json::from_value(report["byScenario"].clone()).unwrap();
    let mut missed = Vec::new();
    for (prefixes, least) in THRESHOLDS {
        let counted = scores
            .iter()
            .filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        let counted: Vec<[u64; 2]> = counted.map(|(_, counts)| *counts).collect();
        let [equal, all] = counted
            .iter()
            .fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
        assert!(all > 0, "no scenario begins with any of {prefixes:?}");
        let score = equal as f64 / all as f64;
        println!(
            "{score:.4} of {all} facts in {} scenarios {prefixes:?}, at least {least}",
            counted.len()
        );
        if score < *least {
            missed.push(format!("{prefixes:?}: {score:.4} instead of {least}"));
        }
    }
    for (name, [equal, all]) in &scores {
        let score = *equal as f64 / *all as f64;
        if score < LEAST && !BELOW.iter().any(|prefix| name.starts_with(prefix)) {
            missed.push(format!("{name}: {score:.4} instead of {LEAST}"));
        }
    }
    assert!(missed.is_empty(), "too few facts are equal: {missed:#?}");
}

#[test]
fn samples_have_the_listeners_clusters_and_route_tables_expected() {
    let Some(rendered) = rendered() else {
        return skipped("the comparison of names");
    };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for scenario in rendered
        .scenarios
        .iter()
        .filter(|scenario| scenario.name.starts_with("samples-"))
    {
        for proxy in scenario.proxies() {
            for kind in ["clusters", "listeners", "routes"] {
                let file = format!("{proxy}.{kind}.json");
                let meant =
                    |name: &String| EXPLAINED_NAMES.contains(&(scenario.name.as_str(), file.as_str(), name.as_str()));
                let expected = names(&scenario.expected().join(&file));
                let found = names(&rendered.directory.join(&scenario.name).join(&file));
                let missing: Vec<_> = expected.difference(&found).filter(|name| !meant(name)).collect();
                let surplus: Vec<_> = found.difference(&expected).filter(|name| !meant(name)).collect();
                if !missing.is_empty() || !surplus.is_empty() {
                    wrong.push(format!(
                        "{} {file}: missing {missing:?}, surplus {surplus:?}",
                        scenario.name
                    ));
                }
                compared += expected.len();
            }
        }
    }
    println!("{compared} names compared");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn envoy_accepts_samples() {
    let Some(rendered) = rendered() else {
        return skipped("Envoy's validation of the samples");
    };
    let Some(envoy) = envoy() else {
        return skipped_for("ENVOY names no Envoy", "Envoy's validation of the samples");
    };
    let identity = bootstrap::Identity::new();
    refuses_nonsense(&envoy, &rendered.directory);
    let directory = rendered.directory.join("bootstraps");
    fs::create_dir_all(&directory).unwrap();
    // Many proxies of the samples hold the same; Envoy needs to say so once.
    let mut distinct: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for scenario in rendered
        .scenarios
        .iter()
        .filter(|scenario| scenario.name.starts_with("samples-"))
    {
        for proxy in scenario.proxies() {
            let resources = rendered.directory.join(&scenario.name);
            let bootstrap = bootstrap::of_proxy(&resources, &proxy, &identity);
            distinct
                .entry(bootstrap.to_string())
                .or_default()
                .push(format!("{}/{proxy}", scenario.name));
        }
    }
    let work: Vec<(PathBuf, &Vec<String>)> = distinct
        .iter()
        .enumerate()
        .map(|(index, (text, proxies))| {
            let path = directory.join(format!("{index}.json"));
            fs::write(&path, text).unwrap();
            (path, proxies)
        })
        .collect();
    let next = AtomicUsize::new(0);
    let refused = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((path, proxies)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(reason) = validate(&envoy, path) {
                        refused
                            .lock()
                            .unwrap()
                            .push(format!("{} ({}): {reason}", proxies.join(", "), path.display()));
                    }
                }
            });
        }
    });
    let refused = refused.into_inner().unwrap();
    let proxies: usize = distinct.values().map(Vec::len).sum();
    println!(
        "{} distinct configurations of {proxies} proxies shown to Envoy, {} refused",
        work.len(),
        refused.len()
    );
    assert!(!work.is_empty(), "there are no samples");
    assert!(
        refused.is_empty(),
        "Envoy refuses {}:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

/// A silent Envoy proves nothing unless it speaks up where something is wrong.
fn refuses_nonsense(envoy: &Path, directory: &Path) {
    let path = directory.join("nonsense.json");
    let routes = r#"{"virtual_hosts": [{"name": "a", "domains": ["*", "*"]}], "name": "a"}"#;
    let manager = format!(
        r#"{{"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "a", "route_config": {routes}, "http_filters": [{{"name": "router", "typed_config":
            {{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}]}}"#
    );
    let listener = format!(
        r#"{{"name": "a", "address": {{"socket_address": {{"address": "127.0.0.1", "port_value": 0}}}},
            "filter_chains": [{{"filters": [{{"name": "a", "typed_config": {manager}}}]}}]}}"#
    );
    fs::write(
        &path,
        format!(r#"{{"static_resources": {{"listeners": [{listener}]}}}}"#),
    )
    .unwrap();
    let said = validate(envoy, &path).expect_err("Envoy takes two virtual hosts for everything");
    assert!(said.contains("domain"), "{said}");
}

/// What Envoy says to a configuration that it does not take.
fn validate(envoy: &Path, bootstrap: &Path) -> Result<(), String> {
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "error", "--concurrency", "1", "-c"])
        .arg(bootstrap)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", envoy.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Err(said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(6)
        .collect::<Vec<_>>()
        .join(" | "))
}

fn envoy() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/envoy");
    env::var_os("ENVOY")
        .map(PathBuf::from)
        .or_else(|| Some(installed).filter(|path| path.exists()))
}

fn names(path: &Path) -> BTreeSet<String> {
    let Ok(text) = fs::read(path) else {
        return BTreeSet::new();
    };
    let resources: Vec<Value> = serde_json::from_slice(&text).unwrap();
    resources
        .iter()
        .filter_map(|resource| resource["name"].as_str())
        .map(str::to_owned)
        .collect()
}

fn skipped(what: &str) {
    skipped_for("LATEEN_REFERENCE is not set", what);
}

fn skipped_for(why: &str, what: &str) {
    println!("skipped: {what}: {why}");
}

impl Scenario {
    fn expected(&self) -> PathBuf {
        self.directory.join("expected")
    }

    /// `<pod>.<namespace>` of every proxy that Istio's configuration was recorded of.
    fn proxies(&self) -> Vec<String> {
        let nodes = self
            .nodes
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".node.json"));
        nodes.map(str::to_owned).collect()
    }
}
