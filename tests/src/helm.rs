//! Helm, the charts, and what they render as objects.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lateen_testkit::tools;
use serde::Deserialize as _;
use serde_json::Value;

/// The charts.
pub const CHARTS: &[&str] = &["base", "lateen", "gateway", "cni"];

/// The Kubernetes that is rendered for; Helm built by `go install` knows of none by itself.
pub const KUBERNETES: &str = "1.34.0";

/// A Helm that runs.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    /// Of the cluster, where one is needed.
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// The one that [`tools::find`] finds. Says that `what` is skipped when there is none.
    pub fn find(what: &str) -> Option<Self> {
        let program = tools::find("helm");
        if program.is_none() {
            println!("skipped: {what}: no helm in $LATEEN_TOOLS, target/tools or on the path");
        }
        Some(Self {
            program: program?,
            kubeconfig: None,
        })
    }

    /// The same, for a cluster.
    #[must_use]
    pub fn of_cluster(self, kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: Some(kubeconfig.to_owned()),
            ..self
        }
    }

    /// Runs it with none of the user's settings.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        let home = env::temp_dir().join("lateen-helm");
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", home);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.output().unwrap()
    }

    /// What `helm template` says of a chart: the documents, or why there are none.
    pub fn template<S: AsRef<str>>(
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
    pub fn text<S: AsRef<str>>(&self, release: &str, name: &str, namespace: &str, arguments: &[S]) -> String {
        self.template(release, name, namespace, arguments)
            .unwrap_or_else(|said| panic!("{name} does not render: {said}"))
    }

    /// What a chart renders, as objects, in a release of the chart's name.
    pub fn objects(&self, name: &str, namespace: &str, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(name, name, namespace, arguments);
        serde_yaml::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .filter(|object| !object.is_null())
            .collect()
    }
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of a chart.
pub fn chart(name: &str) -> String {
    root().join("charts").join(name).to_string_lossy().into_owned()
}

/// A field's text, empty when there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Kind, namespace and name.
pub fn identity(object: &Value) -> String {
    format!(
        "{} {}/{}",
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// Whether a Kubernetes label selector selects these labels.
pub fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
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
pub fn labels(metadata: &Value) -> Vec<(&str, &str)> {
    metadata["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        .collect()
}
