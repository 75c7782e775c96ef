//! Pods get from Lateen what they get from Istio, in Istio's own cases.
//!
//! What a user relies on is compared by meaning: quantities as amounts, JSON inside annotations and variables as JSON,
//! lists that Kubernetes merges by a key in any order; the order of containers counts. What is meant to differ stands in
//! [`MEANT`], and is explained in `DIFFERENCES.md`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "injection/compare.rs"]
mod compare;
#[path = "injection/settings.rs"]
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use lateen_injector::workload::inject_object;
use serde_json::{Value, json};

use crate::compare::differences;
use crate::settings::{documents, settings};

/// Paths, by case, that are meant to differ, and why.
const MEANT: &[(&str, &str, &str)] = &[
    (
        "status_annotations.yaml.injected",
        ".spec.template.metadata.annotations.prometheus.io/port",
        "Prometheus is sent to the port where the agent of this pod listens",
    ),
    (
        "grpc-simple.yaml.injected",
        ".spec.template.spec.initContainers[0].command[2]",
        "another script writes the same bootstrap",
    ),
    (
        "sidecar-spire.yaml.injected",
        ".spec.template.spec.containers",
        "an overlay of istio-proxy reaches the proxy where it is, among the init containers",
    ),
    (
        "sidecar-spire.yaml.injected",
        ".spec.template.spec.initContainers[1].volumeMounts./var/run/secrets/workload-spiffe-uds.readOnly",
        "as above",
    ),
    (
        "sidecar-spire.yaml.injected",
        ".spec.template.metadata.annotations.sidecar.istio.io/status.json.containers",
        "as above",
    ),
    (
        "merge-probers.yaml.injected",
        ".spec.template.spec.initContainers[1].args",
        "the proxy of an older injection is replaced, not taken for the user's",
    ),
    (
        "merge-probers.yaml.injected",
        ".spec.template.spec.initContainers[1].env.ISTIO_META_APP_CONTAINERS",
        "as above",
    ),
    (
        "merge-probers.yaml.injected",
        ".spec.template.spec.initContainers[1].env.ISTIO_META_POD_PORTS",
        "as above",
    ),
    (
        "merge-probers.yaml.injected",
        ".spec.template.spec.initContainers[1].readinessProbe",
        "as above",
    ),
];

/// How many cases must pass.
const WANTED: usize = 100;

fn goldens() -> Option<PathBuf> {
    let directory = env::var_os("LATEEN_REFERENCE").map(|root| Path::new(&root).join("goldens/inject"));
    let found = directory.filter(|directory| directory.is_dir());
    if found.is_none() {
        println!("skipped: LATEEN_REFERENCE names no directory with goldens/inject");
    }
    found
}

/// A case: what goes in, what is expected, and how the settings differ from the defaults.
struct Case {
    input: String,
    want: String,
    row: Value,
}

fn cases(directory: &Path) -> Vec<Case> {
    let table: Value = serde_json::from_slice(&fs::read(directory.join("cases.json")).unwrap()).unwrap();
    let mut cases = Vec::new();
    let mut named = BTreeSet::new();
    for row in table["explicit"].as_array().unwrap() {
        let input = row["in"].as_str().unwrap().to_owned();
        named.insert(input.clone());
        let want = row["want"].as_str().unwrap_or_default().to_owned();
        cases.push(Case {
            input,
            want,
            row: row.clone(),
        });
    }
    let mut files: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && !name.ends_with(".iop.yaml"))
        .collect();
    files.sort();
    for input in files {
        let want = format!("{input}.injected");
        if !named.contains(&input) && directory.join(&want).exists() {
            cases.push(Case {
                input,
                want,
                row: json!({}),
            });
        }
    }
    cases
}

/// The differences that are not meant.
fn run(directory: &Path, case: &Case) -> Vec<String> {
    let settings = settings(directory, &case.row);
    let objects = documents(&fs::read_to_string(directory.join(&case.input)).unwrap());
    let mut injected = Vec::new();
    for object in &objects {
        match inject_object(object, &settings) {
            Ok(done) => injected.push(done.object),
            Err(error) if case.want.is_empty() => {
                // An error must name the annotation to blame, which the case's name ends in.
                let text = error.to_string().to_lowercase();
                let wanted = case.row["expectedError"]
                    .as_str()
                    .unwrap()
                    .replace("ipranges", "outboundipranges");
                return if text.contains(&wanted) { Vec::new() } else { vec![text] };
            }
            Err(error) => return vec![error.to_string()],
        }
    }
    if case.want.is_empty() {
        return vec!["it was not refused".to_owned()];
    }
    let expected = documents(&fs::read_to_string(directory.join(&case.want)).unwrap());
    if expected.len() != injected.len() {
        return vec![format!("{} documents, not {}", injected.len(), expected.len())];
    }
    let mut found = Vec::new();
    for (ours, theirs) in injected.iter().zip(&expected) {
        let theirs = &with_metadata_at_the_pod(theirs);
        found.extend(differences(ours, theirs));
    }
    found.retain(|line| {
        !MEANT
            .iter()
            .any(|(name, path, _)| *name == case.want && line.starts_with(path))
    });
    found
}

/// Istio's command line writes the pod's labels and annotations of a CronJob to the Job instead; Lateen writes them where
/// the pod gets them.
fn with_metadata_at_the_pod(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == "CronJob" {
        let template = &mut object["spec"]["jobTemplate"];
        let metadata = template["metadata"].take();
        template["spec"]["template"]["metadata"] = metadata;
    }
    object
}

#[test]
fn injecting_again_changes_nothing() {
    let Some(directory) = goldens() else { return };
    let mut checked = 0;
    for case in cases(&directory) {
        let settings = settings(&directory, &case.row);
        for object in documents(&fs::read_to_string(directory.join(&case.input)).unwrap()) {
            let Ok(once) = inject_object(&object, &settings) else {
                continue;
            };
            let twice = inject_object(&once.object, &settings).unwrap();
            let found = differences(&twice.object, &once.object);
            assert!(found.is_empty(), "{} -> {}: {found:#?}", case.input, case.want);
            checked += twice.injected.len();
        }
    }
    println!("injection: {checked} workloads injected twice");
    assert!(checked > 100);
}

#[test]
fn pods_get_what_they_get_from_istio() {
    let Some(directory) = goldens() else { return };
    let cases = cases(&directory);
    let mut passed = 0;
    let mut failed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in &cases {
        let name = format!("{} -> {}", case.input, case.want);
        match run(&directory, case) {
            found if found.is_empty() => passed += 1,
            found => {
                failed.insert(name, found);
            }
        }
    }
    for (name, found) in &failed {
        println!("{name}:");
        for line in found {
            println!("    {line}");
        }
    }
    println!(
        "injection: {passed} of {} cases pass, {} fail",
        cases.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{} cases fail; see above", failed.len());
    assert!(passed >= WANTED, "only {passed} cases pass");
}
