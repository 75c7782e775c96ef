//! Helm, and what it renders as objects.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde::Deserialize as _;
use serde_json::Value;

/// The charts.
pub(crate) const CHARTS: &[&str] = &["base", "lateen", "gateway", "cni"];

/// The Kubernetes that is rendered for; Helm built by `go install` knows of none by itself.
pub(crate) const KUBERNETES: &str = "1.34.0";

/// A Helm that runs.
pub(crate) struct Helm(PathBuf);

impl Helm {
    /// Looks in `LATEEN_TOOLS`, then in `target/tools`, then on the path. Says that `what` is skipped when there is none.
    pub(crate) fn find(what: &str) -> Option<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let tools = env::var_os("LATEEN_TOOLS").map(PathBuf::from);
        let found = tools
            .into_iter()
            .chain([target.join("tools")])
            .map(|folder| folder.join("helm"))
            .find(|path| path.is_file())
            .or_else(on_path);
        if found.is_none() {
            println!("skipped: {what}: no helm in LATEEN_TOOLS, target/tools or on the path");
        }
        found.map(Self)
    }

    /// Runs it with settings of its own, none of the user's.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
        fs::create_dir_all(&home).unwrap();
        Command::new(&self.0)
            .args(arguments)
            .env_clear()
            .env("HOME", &home)
            .output()
            .unwrap()
    }

    /// What `helm template` says of a chart: the documents, or why there are none.
    pub(crate) fn template<S: AsRef<str>>(
        &self,
        release: &str,
        name: &str,
        namespace: &str,
        arguments: &[S],
    ) -> Result<String, String> {
        let path = chart(name);
        let mut all = vec![
            "template",
            release,
            &path,
            "--namespace",
            namespace,
            "--kube-version",
            KUBERNETES,
        ];
        all.extend(arguments.iter().map(AsRef::as_ref));
        let output = self.run(&all);
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What a chart renders, as text.
    pub(crate) fn text<S: AsRef<str>>(&self, release: &str, name: &str, namespace: &str, arguments: &[S]) -> String {
        self.template(release, name, namespace, arguments)
            .unwrap_or_else(|said| panic!("{name} does not render: {said}"))
    }

    /// What a chart renders, as objects, in a release of the chart's name.
    pub(crate) fn objects(&self, name: &str, namespace: &str, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(name, name, namespace, arguments);
        serde_yaml::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .filter(|object| !object.is_null())
            .collect()
    }
}

fn on_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join("helm"))
        .find(|path| path.is_file())
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of a chart.
pub(crate) fn chart(name: &str) -> String {
    root().join("charts").join(name).to_string_lossy().into_owned()
}

/// A field's text, empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Kind, namespace and name.
pub(crate) fn identity(object: &Value) -> String {
    format!(
        "{} {}/{}",
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// Whether a Kubernetes label selector selects these labels.
pub(crate) fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
    let find = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.into_iter().all(|(key, value)| find(key) == value.as_str())
        && expressions.into_iter().all(|expression| {
            let found = find(text(expression, "/key"));
            let among = expression["values"]
                .as_array()
                .is_some_and(|values| values.iter().any(|value| value.as_str() == found));
            match text(expression, "/operator") {
                "In" => found.is_some() && among,
                "NotIn" => found.is_none() || !among,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                other => panic!("no such operator: {other}"),
            }
        })
}

/// The labels of an object's metadata.
pub(crate) fn labels(metadata: &Value) -> Vec<(&str, &str)> {
    metadata["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        .collect()
}
