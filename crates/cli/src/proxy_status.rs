//! `lateen proxy-status`: has what was sent to proxies been taken?

mod compare;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::print::{Output, table};
use crate::proxy_config::{DumpSource, PodNamespace};

/// Types of resources: the short name in columns, and the end of the type URL.
const TYPES: &[(&str, &str)] = &[
    ("CDS", ".Cluster"),
    ("LDS", ".Listener"),
    ("EDS", ".ClusterLoadAssignment"),
    ("RDS", ".RouteConfiguration"),
    ("ECDS", ".TypedExtensionConfig"),
];

/// The options of `lateen proxy-status`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyStatus {
    /// Only this proxy; with --admin or --file, also how what its Envoy holds differs from what it should hold
    #[arg(value_name = "POD.NAMESPACE")]
    proxy: Option<String>,

    #[command(flatten)]
    dump: DumpSource,

    #[command(flatten)]
    pod: PodNamespace,

    #[command(flatten)]
    control_plane: ControlPlane,

    #[command(flatten)]
    output: Output,
}

/// What became of the resources of one type, in `istioctl`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The proxy does not ask for them.
    Ignored,
    /// None have been sent.
    NotSent,
    /// What was sent last is in force.
    Synced,
    /// What was sent last is not yet acknowledged.
    Stale,
    /// What was sent last was refused.
    Error,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ignored => "IGNORED",
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        }
    }
}

/// One proxy, as far as it is shown.
#[derive(Debug)]
struct Row {
    proxy: String,
    kind: String,
    cluster: String,
    istiod: String,
    version: String,
    settled: Value,
    states: BTreeMap<&'static str, State>,
    errors: BTreeMap<String, String>,
}

impl ProxyStatus {
    pub(crate) fn run(self) -> Result<()> {
        let Some(pod) = &self.proxy else {
            if self.dump.file.is_some() || self.dump.admin.is_some() {
                bail!("name the proxy, as <pod>.<namespace>, whose dump is compared");
            }
            let rows = self.rows()?;
            return self
                .output
                .write(&rows.iter().map(as_json).collect(), || as_table(&rows));
        };
        let pod = self.pod.of(pod)?;
        let mut rows = self.rows()?;
        rows.retain(|row| row.proxy == pod);
        if rows.is_empty() {
            bail!("no proxy `{pod}` is connected; `lateen proxy-status` lists those that are");
        }
        let differences = match self.dump.read()? {
            Some(held) => Some(compare::differences(
                &crate::proxy_config::of_control_plane(&self.control_plane, &pod)?,
                &held,
            )),
            None => None,
        };
        let mut value: Value = rows.iter().map(as_json).collect();
        if let (Some(differences), Some(first)) = (&differences, value.get_mut(0)) {
            first["differences"] = compare::as_json(differences);
        }
        self.output.write(&value, || {
            let differences = differences.as_deref().map(compare::as_text);
            as_table(&rows) + &differences.unwrap_or_default()
        })
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let answer = self.control_plane.get("/debug/syncz", &[])?;
        let Value::Array(records) = &answer else {
            bail!("/debug/syncz did not answer with a list")
        };
        let mut rows: Vec<Row> = records.iter().map(row).collect();
        rows.sort_by(|a, b| a.proxy.cmp(&b.proxy));
        Ok(rows)
    }
}

fn row(record: &Value) -> Row {
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let mut states: BTreeMap<_, _> = TYPES.iter().map(|(short, _)| (*short, State::Ignored)).collect();
    let mut errors = BTreeMap::new();
    for (url, status) in record["resources"].as_object().into_iter().flatten() {
        let short = TYPES
            .iter()
            .find(|(_, end)| url.ends_with(end))
            .map(|(short, _)| *short);
        if let Some(error) = status["lastError"].as_str() {
            errors.insert(short.map_or_else(|| url.clone(), str::to_owned), error.to_owned());
        }
        if let Some(short) = short {
            states.insert(short, state(status));
        }
    }
    Row {
        proxy: text("proxy"),
        kind: text("proxy_type"),
        cluster: text("cluster_id"),
        istiod: text("istiod"),
        version: text("istio_version"),
        settled: record["settled"].clone(),
        states,
        errors,
    }
}

fn state(status: &Value) -> State {
    let nonce = |key: &str| status[key].as_str().unwrap_or_default();
    match (nonce("sent"), nonce("acked")) {
        _ if status["lastError"].is_string() => State::Error,
        ("", _) => State::NotSent,
        (sent, acked) if sent == acked => State::Synced,
        _ => State::Stale,
    }
}

fn as_json(row: &Row) -> Value {
    let states: BTreeMap<_, _> = row
        .states
        .iter()
        .map(|(short, state)| (short.to_lowercase(), state.name()))
        .collect();
    json!({
        "proxy": row.proxy,
        "type": row.kind,
        "cluster": row.cluster,
        "istiod": row.istiod,
        "version": row.version,
        "settled": row.settled,
        "status": states,
        "errors": row.errors,
    })
}

fn as_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no proxy is connected\n".to_owned();
    }
    let mut header = vec!["NAME", "CLUSTER"];
    header.extend(TYPES.iter().map(|(short, _)| *short));
    header.extend(["ISTIOD", "VERSION"]);
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.proxy.clone(), row.cluster.clone()];
        cells.extend(TYPES.iter().map(|(short, _)| row.states[short].name().to_owned()));
        cells.extend([row.istiod.clone(), row.version.clone()]);
        cells
    });
    let mut text = table(&header, cells);
    for row in rows {
        for (kind, error) in &row.errors {
            text.push_str(&format!("\n{} rejected {kind}: {error}\n", row.proxy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Value {
        json!({
            "cluster_id": "Kubernetes",
            "proxy": "a-1.shop",
            "proxy_type": "sidecar",
            "istio_version": "1.32.0",
            "istiod": "istiod-1",
            "resources": {
                "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"sent": "7", "acked": "7"},
                "type.googleapis.com/envoy.config.listener.v3.Listener":
                    {"sent": "8", "acked": "5", "lastError": "listener 0.0.0.0_80: no such filter"},
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration": {"sent": "9", "acked": "8"},
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig": {},
                "type.googleapis.com/istio.networking.nds.v1.NameTable": {"sent": "3", "acked": "3"},
            },
        })
    }

    #[test]
    fn states_of_types() {
        let row = row(&record());
        assert_eq!(row.proxy, "a-1.shop");
        let state = |short: &str| row.states[short];
        assert_eq!(
            ["CDS", "LDS", "RDS", "ECDS", "EDS"].map(state),
            [
                State::Synced,
                State::Error,
                State::Stale,
                State::NotSent,
                State::Ignored
            ]
        );
    }

    #[test]
    fn the_table_ends_with_what_was_rejected_and_why() {
        let text = as_table(&[row(&record())]);
        assert!(
            text.starts_with("NAME      CLUSTER     CDS     LDS    EDS      RDS    ECDS      ISTIOD    VERSION\n"),
            "{text}"
        );
        assert!(
            text.ends_with("\na-1.shop rejected LDS: listener 0.0.0.0_80: no such filter\n"),
            "{text}"
        );
        assert!(as_table(&[]).contains("no proxy"));
    }
}
