//! `lateen proxy-status`: has what was sent to proxies been taken?

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::print::{Output, table};

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
    /// Only this proxy
    #[arg(value_name = "POD.NAMESPACE")]
    proxy: Option<String>,

    #[command(flatten)]
    control_plane: ControlPlane,

    #[command(flatten)]
    output: Output,
}

/// What became of the resources of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The proxy does not ask for them, or they have not been sent yet.
    NotSent,
    /// What was sent last is in force.
    Synced,
    /// What was sent last is not yet acknowledged.
    Pending,
    /// What was sent last was refused.
    Rejected,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Pending => "PENDING",
            Self::Rejected => "REJECTED",
        }
    }
}

/// One proxy, as far as it is shown.
#[derive(Debug)]
struct Row {
    proxy: String,
    kind: String,
    cluster: String,
    version: String,
    settled: bool,
    states: BTreeMap<&'static str, State>,
    errors: BTreeMap<String, String>,
}

impl ProxyStatus {
    pub(crate) fn run(self) -> Result<()> {
        let answer = self.control_plane.get("/debug/syncz", &[])?;
        let Value::Array(records) = &answer else {
            bail!("/debug/syncz did not answer with a list")
        };
        let mut rows: Vec<Row> = records.iter().map(row).collect();
        rows.sort_by(|a, b| a.proxy.cmp(&b.proxy));
        if let Some(wanted) = &self.proxy {
            rows.retain(|row| row.proxy == *wanted);
            if rows.is_empty() {
                bail!("no proxy `{wanted}` is connected; `lateen proxy-status` lists those that are");
            }
        }
        let value = rows.iter().map(as_json).collect();
        self.output.write(&value, || as_table(&rows))
    }
}

fn row(record: &Value) -> Row {
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let id = text("proxy");
    let mut states: BTreeMap<_, _> = TYPES.iter().map(|(short, _)| (*short, State::NotSent)).collect();
    let mut errors = BTreeMap::new();
    for (url, status) in record["resources"].as_object().into_iter().flatten() {
        let short = TYPES
            .iter()
            .find(|(_, end)| url.ends_with(end))
            .map(|(short, _)| *short);
        if let Some(error) = status["last_error"].as_str() {
            errors.insert(short.map_or_else(|| url.clone(), str::to_owned), error.to_owned());
        }
        if let Some(short) = short {
            states.insert(short, state(status));
        }
    }
    Row {
        // <type>~<address>~<pod>.<namespace>~<domain>
        proxy: id.split('~').nth(2).unwrap_or(&id).to_owned(),
        kind: text("proxy_type"),
        cluster: text("cluster_id"),
        version: text("istio_version"),
        settled: record["settled"].as_bool().unwrap_or_default(),
        states,
        errors,
    }
}

fn state(status: &Value) -> State {
    let nonce = |key: &str| status[key].as_str().unwrap_or_default();
    match (nonce("sent"), nonce("acked")) {
        _ if status["last_error"].is_string() => State::Rejected,
        ("", _) => State::NotSent,
        (sent, acked) if sent == acked => State::Synced,
        _ => State::Pending,
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
    let mut header = vec!["NAME", "CLUSTER", "TYPE"];
    header.extend(TYPES.iter().map(|(short, _)| *short));
    header.push("VERSION");
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.proxy.clone(), row.cluster.clone(), row.kind.clone()];
        cells.extend(TYPES.iter().map(|(short, _)| row.states[short].name().to_owned()));
        cells.push(row.version.clone());
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
            "proxy": "sidecar~10.0.0.1~a-1.shop~shop.svc.cluster.local",
            "proxy_type": "sidecar",
            "istio_version": "1.32.0",
            "settled": false,
            "resources": {
                "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"sent": "7", "acked": "7", "last_error": null},
                "type.googleapis.com/envoy.config.listener.v3.Listener":
                    {"sent": "8", "acked": "5", "last_error": "listener 0.0.0.0_80: no such filter"},
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration": {"sent": "9", "acked": "8"},
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
            [state("CDS"), state("LDS"), state("RDS"), state("EDS")],
            [State::Synced, State::Rejected, State::Pending, State::NotSent]
        );
    }

    #[test]
    fn the_table_ends_with_what_was_rejected_and_why() {
        let text = as_table(&[row(&record())]);
        assert!(
            text.starts_with("NAME      CLUSTER     TYPE     CDS     LDS       EDS       RDS      ECDS      VERSION\n"),
            "{text}"
        );
        assert!(
            text.ends_with("\na-1.shop rejected LDS: listener 0.0.0.0_80: no such filter\n"),
            "{text}"
        );
        assert!(as_table(&[]).contains("no proxy"));
    }
}
