//! The Helm charts: that they render what is committed, and that what they render means what it should.
//!
//! Helm is found in `LATEEN_TOOLS`, in `target/tools` or on the path; without it, all but the comparison of copies is skipped.
//! `LATEEN_BLESS=1 cargo test -p lateen-tests --test golden_charts` writes what is rendered over what is committed, in the
//! folder `charts` beside this file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "charts/injection.rs"]
mod injection;
#[path = "charts/permissions.rs"]
mod permissions;
#[path = "charts/pods.rs"]
mod pods;
#[path = "charts/references.rs"]
mod references;
#[path = "charts/samples.rs"]
mod samples;
#[path = "charts/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use lateen_tests::helm::{CHARTS, Helm, KUBERNETES, chart, root};

/// What is rendered for a golden: its name, the chart, the templates, the arguments.
const GOLDENS: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "base",
        "base",
        &["reader-serviceaccount", "validatingwebhook"],
        &["--set=defaultRevision=canary"],
    ),
    ("lateen-deployment", "lateen", &["deployment"], &[]),
    (
        "lateen-around",
        "lateen",
        &[
            "service",
            "autoscale",
            "poddisruptionbudget",
            "networkpolicy",
            "serviceaccount",
        ],
        &[
            "--set=global.networkPolicy.enabled=true",
            "--set=plaintext.enabled=true",
        ],
    ),
    ("lateen-config", "lateen", &["configmap", "injector-configmap"], &[]),
    (
        "lateen-webhooks",
        "lateen",
        &["mutatingwebhook", "validatingwebhook"],
        &["--set=revision=canary", "--set=revisionTags={default}"],
    ),
    ("gateway", "gateway", &[], &[]),
    ("cni", "cni", &[], &[]),
];

/// More than anyone reads.
const LINES: usize = 300;

#[test]
fn charts_pass_helm_lint() {
    let Some(helm) = Helm::find("helm lint") else { return };
    for name in CHARTS {
        let output = helm.run(&["lint", "--strict", "--kube-version", KUBERNETES, &chart(name)]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
    }
}

#[test]
fn charts_render_what_is_committed() {
    let Some(helm) = Helm::find("what charts render") else {
        return;
    };
    let bless = env::var_os("LATEEN_BLESS").is_some();
    let mut differing = Vec::new();
    for (golden, name, templates, arguments) in GOLDENS {
        let mut all: Vec<String> = templates
            .iter()
            .map(|template| format!("--show-only=templates/{template}.yaml"))
            .collect();
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let rendered = helm.text("release", name, "istio-system", &all);
        let lines = rendered.lines().count();
        assert!(
            lines <= LINES,
            "{golden} has {lines} lines: nobody reads more than {LINES}"
        );
        if !compare(golden, "yaml", &rendered, bless) {
            differing.push(*golden);
        }
    }
    assert!(
        differing.is_empty(),
        "rendered otherwise than committed: {differing:?}; look at what LATEEN_BLESS=1 changes"
    );
}

/// Whether `text` is the golden's, or has become it.
fn compare(golden: &str, extension: &str, text: &str, bless: bool) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/charts/{golden}.{extension}"));
    if bless {
        fs::write(&path, text).unwrap();
    }
    fs::read_to_string(&path).ok().as_deref() == Some(text)
}

fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            (path.file_name().unwrap().into(), text)
        })
        .collect()
}

#[test]
fn charts_have_the_version_of_what_they_install() {
    for name in CHARTS {
        let text = fs::read_to_string(root().join("charts").join(name).join("Chart.yaml")).unwrap();
        let chart: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(chart["name"], *name);
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"), "{name}");
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "{name}");
    }
}

#[test]
fn definitions_survive_an_uninstall_and_can_be_left_out() {
    let Some(helm) = Helm::find("the definitions that are installed") else {
        return;
    };
    let installed = |arguments: &[&str]| -> Vec<String> {
        helm.objects("base", "istio-system", arguments)
            .into_iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
            .map(|object| {
                assert_eq!(object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
                object["metadata"]["name"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let all = installed(&[]);
    assert_eq!(all.len(), files(&root().join("crds")).len());
    let left_out = "wasmplugins.extensions.istio.io";
    let mut fewer = installed(&["--set", &format!("base.excludedCRDs={{{left_out}}}")]);
    fewer.push(left_out.to_owned());
    fewer.sort();
    let mut sorted = all;
    sorted.sort();
    assert_eq!(fewer, sorted);
    assert_eq!(installed(&["--set", "base.enableIstioConfigCRDs=false"]), [""; 0]);
}
