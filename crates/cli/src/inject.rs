//! `lateen inject`: workloads with their sidecars, for who applies them without the webhook, or wants to see what it does.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lateen_injector::workload::inject_object;
use lateen_injector::{InjectionSettings, Policy, Values};
use serde_json::{Map, Value, json};

use crate::input::read;
use crate::print::to_stdout;

/// The options of `lateen inject`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inject {
    /// File of YAML with Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs or Lists; `-` for
    /// standard input; repeatable
    #[arg(
        short,
        long = "filename",
        visible_alias = "file",
        value_name = "FILE",
        required = true
    )]
    filename: Vec<PathBuf>,

    /// File to write to, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// File with MeshConfig: the key `mesh` of the ConfigMap `istio`
    #[arg(long, visible_alias = "meshConfigFile", value_name = "FILE")]
    mesh_config_file: Option<PathBuf>,

    /// File with the key `config` of the ConfigMap `istio-sidecar-injector`
    #[arg(long, visible_alias = "injectConfigFile", value_name = "FILE")]
    inject_config_file: Option<PathBuf>,

    /// File with the key `values` of the ConfigMap `istio-sidecar-injector`
    #[arg(long, visible_alias = "valuesFile", value_name = "FILE")]
    values_file: Option<PathBuf>,

    /// A value of the installation over that of the file, such as global.proxy.image=proxy; repeatable
    #[arg(long, value_name = "PATH=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,

    /// Revision of the control plane that the pods are for
    #[arg(short, long, value_name = "REVISION", default_value = "", hide_default_value = true)]
    revision: String,

    /// Whether sidecars are init containers that restart, where the pod does not say
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    native_sidecars: bool,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (path, value) = text
        .split_once('=')
        .ok_or("write it as PATH=VALUE, e.g. global.tag=1.0")?;
    Ok((path.to_owned(), value.to_owned()))
}

impl Inject {
    /// Reads, injects, writes.
    pub(crate) fn run(self) -> Result<()> {
        let settings = self.settings()?;
        let mut written = String::new();
        for path in &self.filename {
            let text = read(path)?;
            written.push_str(&inject(&text, &settings).with_context(|| path.display().to_string())?);
        }
        match &self.output {
            Some(path) => std::fs::write(path, written).with_context(|| format!("cannot write to {}", path.display())),
            None => to_stdout(&written),
        }
    }

    fn settings(&self) -> Result<InjectionSettings> {
        let mut settings = InjectionSettings {
            native_sidecars: self.native_sidecars,
            revision: self.revision.clone(),
            ..InjectionSettings::default()
        };
        if let Some(path) = &self.mesh_config_file {
            let layer = lateen_lower::yaml::parse(&read(path)?).with_context(|| path.display().to_string())?;
            let merged = settings
                .mesh
                .merge(&layer)
                .with_context(|| path.display().to_string())?;
            for field in merged.unknown {
                eprintln!(
                    "warning: {}: MeshConfig has no field {field}; it is ignored",
                    path.display()
                );
            }
            settings.mesh = merged.value;
        }
        if let Some(path) = &self.inject_config_file {
            let (policy, notes) = Policy::parse(&read(path)?).with_context(|| path.display().to_string())?;
            for note in notes {
                eprintln!("warning: {}: {note}", path.display());
            }
            settings.policy = policy;
        }
        if let Some(path) = &self.values_file {
            settings.values = Values::parse(&read(path)?).with_context(|| path.display().to_string())?;
        }
        if !self.revision.is_empty() {
            settings.values = settings.values.with(&json!({ "revision": self.revision }));
        }
        for (path, value) in &self.set {
            settings.values = settings.values.with(&nested(path, value));
        }
        Ok(settings)
    }
}

/// A value under a path, as objects.
fn nested(path: &str, value: &str) -> Value {
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    path.rsplit('.').fold(value, |value, key| {
        let mut map = Map::new();
        map.insert(key.to_owned(), value);
        Value::Object(map)
    })
}

/// The documents with their sidecars, each followed by a separator; what was left alone is told on standard error.
fn inject(text: &str, settings: &InjectionSettings) -> Result<String> {
    let mut written = String::new();
    for document in lateen_lower::yaml::documents(text) {
        let document = document?;
        if document.is_null() {
            continue;
        }
        let done = inject_object(&document, settings)?;
        for (workload, reason) in &done.skipped {
            eprintln!("skipped {workload}: {reason}");
        }
        for warning in &done.warnings {
            eprintln!("warning: {warning}");
        }
        written.push_str(&serde_yaml::to_string(&done.object)?);
        written.push_str("---\n");
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_get_sidecars_and_all_else_stays() {
        let text = "
apiVersion: v1
kind: Service
metadata: {name: s}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: c, namespace: n}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: app, image: i}]}}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p, labels: {sidecar.istio.io/inject: 'false'}}, spec: {containers: []}}
";
        let settings = InjectionSettings::default();
        let written = inject(text, &settings).unwrap();
        let documents: Vec<Value> = lateen_lower::yaml::documents(&written).map(Result::unwrap).collect();
        assert_eq!(
            documents[0],
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}})
        );
        let template = &documents[1]["spec"]["jobTemplate"]["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["service.istio.io/canonical-name"], "c");
        assert_eq!(template["spec"]["initContainers"][1]["name"], "istio-proxy");
        assert_eq!(documents[2]["items"][0]["spec"], json!({"containers": []}));
        let bad = "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {inject.istio.io/templates: x}}}";
        let error = format!("{:#}", inject(bad, &settings).unwrap_err());
        assert!(error.contains("Pod p") && error.contains("template `x`"), "{error}");
    }

    #[test]
    fn values_are_set_by_path() {
        assert_eq!(
            nested("global.proxy.privileged", "true"),
            json!({"global": {"proxy": {"privileged": true}}})
        );
        assert_eq!(nested("global.hub", "a/b"), json!({"global": {"hub": "a/b"}}));
    }
}
