//! What the charts' accounts may do: exactly what is committed, and nothing that would let them take more.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;

use serde_json::Value;

use crate::compare;
use lateen_tests::helm::{Helm, identity, text};

/// The installs whose permissions are committed.
const INSTALLS: &[(&str, &str, &[&str])] = &[
    ("lateen", "istio-system", &[]),
    (
        "lateen",
        "istio-system",
        &[
            "--set=revision=signed",
            "--set=env.EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API",
            "--set=global.certSigners={example.com/mesh}",
            "--set=revisionTags={prod}",
            "--set-string=env.PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER=false",
            "--set=global.enableReaderRBAC=false",
        ],
    ),
    ("gateway", "istio-ingress", &[]),
    ("cni", "istio-system", &[]),
    (
        "cni",
        "istio-system",
        &["--set=repair.repairPods=false", "--set=repair.deletePods=true"],
    ),
];

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one.as_str().unwrap())
        .collect()
}

/// Verbs by account and scope, then by resource and, where the grant is by name, name.
fn granted(objects: &[Value]) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut all: BTreeMap<_, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for binding in objects
        .iter()
        .filter(|object| text(object, "/kind").ends_with("Binding"))
    {
        let role = objects
            .iter()
            .find(|object| {
                object["kind"] == binding["roleRef"]["kind"] && object["metadata"]["name"] == binding["roleRef"]["name"]
            })
            .unwrap_or_else(|| panic!("{} refers to no role", identity(binding)));
        let scope = match text(binding, "/metadata/namespace") {
            "" => "everywhere".to_owned(),
            namespace => format!("in {namespace}"),
        };
        for subject in binding["subjects"].as_array().unwrap() {
            let account = format!("{}/{} {scope}", text(subject, "/namespace"), text(subject, "/name"));
            let grants = all.entry(account).or_default();
            for rule in role["rules"].as_array().unwrap() {
                let names = match strings(&rule["resourceNames"]) {
                    names if names.is_empty() => vec![String::new()],
                    names => names.iter().map(|name| format!(" named {name}")).collect(),
                };
                for group in strings(&rule["apiGroups"]) {
                    for resource in strings(&rule["resources"]) {
                        for name in &names {
                            let group = if group.is_empty() { "core" } else { group };
                            let verbs = strings(&rule["verbs"]).into_iter().map(str::to_owned);
                            grants
                                .entry(format!("{group}/{resource}{name}"))
                                .or_default()
                                .extend(verbs);
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn accounts_may_do_what_is_committed_and_no_more() {
    let Some(helm) = Helm::find("permissions") else { return };
    let mut report = String::new();
    for (chart, namespace, arguments) in INSTALLS {
        writeln!(report, "# {chart} {}", arguments.join(" ")).unwrap();
        for (account, grants) in granted(&helm.objects(chart, namespace, arguments)) {
            writeln!(report, "{account}").unwrap();
            // One line for all resources of a group that are granted alike.
            let mut alike: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
            for (resource, verbs) in grants {
                let (group, resource) = resource.split_once('/').unwrap();
                let verbs: Vec<String> = verbs.into_iter().collect();
                alike
                    .entry((group.to_owned(), verbs.join(" ")))
                    .or_default()
                    .push(resource.to_owned());
            }
            for ((group, verbs), resources) in alike {
                writeln!(report, "  {group}: {verbs}: {}", resources.join(", ")).unwrap();
            }
        }
    }
    let bless = env::var_os("LATEEN_BLESS").is_some();
    assert!(
        compare("permissions", "txt", &report, bless),
        "other permissions than committed; look at what LATEEN_BLESS=1 changes\n{report}"
    );
}

#[test]
fn no_account_could_take_more_than_it_was_given() {
    let Some(helm) = Helm::find("that permissions cannot grow") else {
        return;
    };
    for (chart, namespace, arguments) in INSTALLS {
        for (account, grants) in granted(&helm.objects(chart, namespace, arguments)) {
            let everywhere = account.ends_with(" everywhere");
            for (resource, verbs) in grants {
                let context = format!("{chart} {arguments:?}: {account}: {resource}: {verbs:?}");
                assert!(!resource.contains('*') && !verbs.contains("*"), "{context}");
                for verb in ["escalate", "bind", "impersonate", "deletecollection"] {
                    assert!(!verbs.contains(verb), "{context}");
                }
                let writes = verbs
                    .iter()
                    .any(|verb| !matches!(verb.as_str(), "get" | "list" | "watch"));
                let forbidden = [
                    "rbac.authorization.k8s.io/",
                    "core/pods/exec",
                    "core/nodes",
                    "core/serviceaccounts/token",
                ];
                assert!(
                    !writes || !forbidden.iter().any(|prefix| resource.starts_with(prefix)),
                    "{context}"
                );
                assert!(
                    !(everywhere && writes && resource.starts_with("core/secrets")),
                    "{context}"
                );
                // A webhook that anyone could turn would be the cluster.
                let webhook = resource.starts_with("admissionregistration.k8s.io/");
                assert!(!(webhook && writes) || resource.contains(" named "), "{context}");
            }
        }
    }
}

/// The control plane may read all that it reads, or a kind would be missing without a word in the chart.
#[test]
fn the_control_plane_may_read_what_it_reads() {
    let Some(helm) = Helm::find("that permissions suffice") else {
        return;
    };
    let all = granted(&helm.objects("lateen", "istio-system", &[]));
    let grants = &all["istio-system/istiod everywhere"];
    for rule in lateen_sources::kube::rules() {
        for (group, resource) in rule
            .api_groups
            .iter()
            .flat_map(|group| rule.resources.iter().map(move |resource| (*group, *resource)))
        {
            let group = if group.is_empty() { "core" } else { group };
            let name = format!("{group}/{resource}");
            let verbs = grants.get(&name).unwrap_or_else(|| panic!("{name} is not granted"));
            assert!(rule.verbs.iter().all(|verb| verbs.contains(*verb)), "{name}: {verbs:?}");
        }
    }
}
