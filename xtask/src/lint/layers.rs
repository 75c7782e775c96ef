//! The crates' layers: dependencies go strictly downward, each crate uses only what its purpose allows, and the pure set
//! stays free of runtimes, clients and sockets.
//!
//! Development dependencies are exempt, except that nothing but them may name `lateen-testkit`.

use serde_json::Value;

use crate::workspace::Workspace;

struct Layer {
    name: &'static str,
    level: u64,
    pure: bool,
    uses: Uses,
}

enum Uses {
    /// These crates of ours and no others.
    Only(&'static [&'static str]),
    /// Whatever lies below.
    AnyBelow,
}

const fn layer(name: &'static str, level: u64, pure: bool, uses: &'static [&'static str]) -> Layer {
    Layer {
        name,
        level,
        pure,
        uses: Uses::Only(uses),
    }
}

/// The table of the architecture. `testkit` is above all: only development dependencies may reach it.
const LAYERS: &[Layer] = &[
    layer("names", 0, true, &[]),
    layer("api", 0, true, &[]),
    layer("proto", 0, false, &[]),
    layer("runtime", 0, false, &[]),
    layer("pki", 1, true, &["names"]),
    layer("model", 1, true, &["names"]),
    layer("validate", 1, true, &["names", "api", "proto"]),
    layer("lower", 2, true, &["names", "api", "model", "validate", "proto"]),
    layer("compile", 2, true, &["names", "model", "proto"]),
    layer("injector", 2, true, &["names", "api"]),
    layer("xds", 2, false, &["names", "proto", "runtime"]),
    layer("distribute", 3, false, &["names", "model", "compile", "xds", "runtime"]),
    layer("ca", 3, false, &["names", "pki", "proto", "runtime"]),
    layer("sources", 3, false, &["names", "api", "lower", "runtime"]),
    layer("simulate", 1, true, &["proto"]),
    layer("controllers", 3, false, &["names", "api", "model", "pki", "runtime"]),
    Layer {
        name: "daemon",
        level: 4,
        pure: false,
        uses: Uses::AnyBelow,
    },
    layer("agent", 4, false, &["names", "api", "pki", "proto", "xds", "runtime"]),
    Layer {
        name: "cli",
        level: 4,
        pure: false,
        uses: Uses::AnyBelow,
    },
    Layer {
        name: "testkit",
        level: 9,
        pure: false,
        uses: Uses::AnyBelow,
    },
];

/// Packages that are no part of the product: they may use it, nothing may use them.
const OUTSIDE: &[&str] = &["lateen-fuzz", "lateen-load", "lateen-shop", "lateen-tests", "xtask"];

/// Runtimes, clients and whatever else touches the world; a trailing `*` stands for any end.
const IMPURE: &[&str] = &[
    "async-std",
    "axum*",
    "crossterm",
    "h2",
    "hickory-*",
    "hyper*",
    "mio",
    "nix",
    "notify*",
    "polling",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio*",
    "tonic*",
    "tower*",
    "ureq",
];

/// Features of `kube` that make it a client.
const KUBE_CLIENT: &[&str] = &["client", "config", "runtime", "oauth", "oidc", "ws", "default"];

/// Every breach of the table, one line each.
pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &workspace.packages {
        let full = package["name"].as_str().unwrap_or_default();
        if OUTSIDE.contains(&full) {
            if full == "xtask" {
                problems.extend(
                    internal(package, |_| true).map(|name| {
                        format!("xtask depends on lateen-{name}; it must depend on no crate of the product")
                    }),
                );
            }
            continue;
        }
        let Some(layer) = find(full) else {
            problems.push(format!("{full}: not in the table of layers (xtask/src/lint/layers.rs)"));
            continue;
        };
        problems.extend(declared(package, layer));
        problems.extend(downward(package, layer));
        if layer.pure {
            problems.extend(impure(package));
        }
    }
    problems
}

fn find(full: &str) -> Option<&'static Layer> {
    let short = full.strip_prefix("lateen-")?;
    LAYERS.iter().find(|layer| layer.name == short)
}

/// What the manifest states must be what the table states.
fn declared(package: &Value, layer: &Layer) -> Vec<String> {
    let stated = &package["metadata"]["layer"];
    if stated["level"].as_u64() == Some(layer.level) && stated["pure"].as_bool() == Some(layer.pure) {
        return Vec::new();
    }
    vec![format!(
        "lateen-{}: [package.metadata.layer] must say level = {}, pure = {}",
        layer.name, layer.level, layer.pure
    )]
}

fn downward(package: &Value, layer: &Layer) -> Vec<String> {
    let mut problems = Vec::new();
    for used in internal(package, |kind| kind != "dev") {
        let Some(below) = LAYERS.iter().find(|layer| layer.name == used) else {
            problems.push(format!(
                "lateen-{} depends on lateen-{used}, which is not in the table of layers",
                layer.name
            ));
            continue;
        };
        if below.name == "testkit" {
            problems.push(format!(
                "lateen-{} depends on lateen-testkit, which is for development dependencies",
                layer.name
            ));
        } else if below.level >= layer.level {
            problems.push(format!(
                "lateen-{} (layer {}) depends on lateen-{used} (layer {}); dependencies go strictly downward",
                layer.name, layer.level, below.level
            ));
        } else if let Uses::Only(allowed) = layer.uses
            && !allowed.contains(&below.name)
        {
            problems.push(format!(
                "lateen-{} may not use lateen-{used}; it may use: {}",
                layer.name,
                allowed.join(", ")
            ));
        }
    }
    problems
}

fn impure(package: &Value) -> Vec<String> {
    let full = package["name"].as_str().unwrap_or_default();
    let mut problems = Vec::new();
    for dependency in dependencies(package).filter(|dependency| dependency["kind"].is_null()) {
        let name = dependency["name"].as_str().unwrap_or_default();
        if IMPURE.iter().any(|pattern| matches(pattern, name)) {
            problems.push(format!("{full} is pure and may not depend on {name}"));
        }
        if name == "kube" {
            let mut features: Vec<&str> = dependency["features"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if dependency["uses_default_features"] == true {
                features.push("default");
            }
            problems.extend(
                features
                    .iter()
                    .filter(|feature| KUBE_CLIENT.contains(feature))
                    .map(|feature| {
                        format!("{full} is pure and may not use kube's feature {feature}, which makes it a client")
                    }),
            );
        }
    }
    problems
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == name, |start| name.starts_with(start))
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

/// Short names of the crates of ours that a package depends on, where `kind` (`normal`, `dev`, `build`) passes.
fn internal<'a>(package: &'a Value, kind: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a str> {
    dependencies(package)
        .filter(move |dependency| kind(dependency["kind"].as_str().unwrap_or("normal")))
        .filter_map(|dependency| dependency["name"].as_str()?.strip_prefix("lateen-"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn problems_of(package: Value) -> String {
        check(&Workspace {
            target_dir: PathBuf::new(),
            packages: vec![package],
        })
        .join("\n")
    }

    fn package(name: &str, level: u64, pure: bool, dependencies: &[Value]) -> Value {
        json!({"name": name, "metadata": {"layer": {"level": level, "pure": pure}}, "dependencies": dependencies})
    }

    fn normal(name: &str) -> Value {
        json!({"name": name, "kind": null, "features": [], "uses_default_features": true})
    }

    #[test]
    fn an_allowed_dependency_passes() {
        let compile = package("lateen-compile", 2, true, &[normal("lateen-model"), normal("prost")]);
        assert_eq!(problems_of(compile), "");
    }

    #[test]
    fn upward_and_sideways_dependencies_are_found() {
        let upward = problems_of(package("lateen-model", 1, true, &[normal("lateen-compile")]));
        assert!(
            upward.contains("lateen-model (layer 1) depends on lateen-compile (layer 2)"),
            "{upward}"
        );
        let sideways = problems_of(package("lateen-compile", 2, true, &[normal("lateen-lower")]));
        assert!(sideways.contains("strictly downward"), "{sideways}");
    }

    #[test]
    fn a_lower_crate_that_is_not_allowed_is_found() {
        let found = problems_of(package("lateen-compile", 2, true, &[normal("lateen-api")]));
        assert!(found.contains("lateen-compile may not use lateen-api"), "{found}");
    }

    #[test]
    fn impure_dependencies_are_found_only_in_pure_crates() {
        for name in ["tokio", "tokio-util", "hyper-util", "tonic", "reqwest", "notify"] {
            let found = problems_of(package("lateen-lower", 2, true, &[normal(name)]));
            assert!(found.contains(&format!("may not depend on {name}")), "{name}: {found}");
        }
        assert_eq!(problems_of(package("lateen-xds", 2, false, &[normal("tokio")])), "");
        let dev = json!({"name": "tokio", "kind": "dev"});
        assert_eq!(problems_of(package("lateen-lower", 2, true, &[dev])), "");
    }

    #[test]
    fn kube_may_derive_but_not_connect() {
        let kube = |features: &[&str], default: bool| json!({"name": "kube", "kind": null, "features": features, "uses_default_features": default});
        assert_eq!(
            problems_of(package("lateen-api", 0, true, &[kube(&["derive"], false)])),
            ""
        );
        assert!(problems_of(package("lateen-api", 0, true, &[kube(&["client"], false)])).contains("feature client"));
        assert!(problems_of(package("lateen-api", 0, true, &[kube(&["derive"], true)])).contains("feature default"));
    }

    #[test]
    fn testkit_is_for_development_only() {
        let normal = problems_of(package("lateen-daemon", 4, false, &[normal("lateen-testkit")]));
        assert!(normal.contains("for development dependencies"), "{normal}");
        let dev = json!({"name": "lateen-testkit", "kind": "dev"});
        assert_eq!(problems_of(package("lateen-names", 0, true, &[dev])), "");
    }

    #[test]
    fn a_wrong_or_missing_statement_is_found() {
        assert!(problems_of(package("lateen-names", 1, true, &[])).contains("must say level = 0, pure = true"));
        assert!(problems_of(json!({"name": "lateen-pki", "dependencies": []})).contains("must say level = 1"));
        assert!(problems_of(package("lateen-common", 0, true, &[])).contains("not in the table"));
    }

    #[test]
    fn xtask_stands_alone() {
        assert!(
            problems_of(package("xtask", 0, false, &[normal("lateen-names")]))
                .contains("xtask depends on lateen-names")
        );
    }
}
