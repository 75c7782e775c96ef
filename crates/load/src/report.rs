//! What a run found: for people a table, for programs JSON.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table, TableComponent};
use serde::{Deserialize, Serialize};

use crate::latency::Latency;
use crate::mesh::Mesh;
use crate::process::Sample;

/// What a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The control plane, `host:port`.
    pub target: String,
    /// Whether the sidecars spoke mutual TLS.
    pub mtls: bool,
    /// How many sidecars there were.
    pub sidecars: usize,
    /// What the mesh was like.
    pub mesh: Mesh,
    /// Resident memory of the server before the first sidecar, in bytes; none without its process.
    pub resident_before: Option<u64>,
    /// In their order.
    pub phases: Vec<Phase>,
    /// Streams that ended, or were not opened.
    pub stream_failures: u64,
    /// Why the last of them did.
    pub last_failure: Option<String>,
    /// Memory of this program, divided by its sidecars, in bytes.
    pub client_bytes_per_sidecar: u64,
    /// Memory of the server over time; empty without its process.
    pub memory: Vec<Sample>,
}

/// What one phase of a run found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// How often it was done.
    pub times: usize,
    /// How long all of it took, with the waiting until nothing came any more.
    pub seconds: f64,
    /// When it arrived at the sidecars; none where nothing was to arrive.
    pub latency: Option<Latency>,
    /// Arrivals that were waited for in vain.
    pub missed: usize,
    /// Responses that the sidecars received.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the last change until it was everywhere, in milliseconds: what had piled up. Churn only.
    pub backlog: Option<f64>,
    /// What the server used; none without its process.
    pub server: Option<Server>,
    /// Each arrival, in milliseconds, for the plot.
    #[serde(skip)]
    pub arrivals: Vec<f64>,
}

/// What the server used in a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory at the end, in bytes.
    pub resident: u64,
    /// The most it ever was, in bytes.
    pub peak: u64,
}

// === impl Report ===

impl Report {
    /// The phase of a name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// A table of the phases, and what concerns all of them.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        table.set_style(TableComponent::HeaderLines, '─');
        table.set_style(TableComponent::MiddleHeaderIntersections, '─');
        let mut header = vec![
            "",
            "times",
            "took",
            "p50",
            "p99",
            "max",
            "missed",
            "responses",
            "bytes/sidecar",
        ];
        let server = self.phases.iter().any(|phase| phase.server.is_some());
        if server {
            header.extend(["CPU", "resident", "peak"]);
        }
        table.set_header(header);
        for phase in &self.phases {
            table.add_row(self.row(phase));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let tls = if self.mtls { "mutual TLS" } else { "plaintext" };
        let mut text = format!("{} sidecars at {}, {tls}\n{table}\n", self.sidecars, self.target);
        for backlog in self.phases.iter().filter_map(|phase| phase.backlog) {
            text += &format!(
                "after the last change of the churn it took {} until all sidecars had it\n",
                millis(backlog)
            );
        }
        if let Some(resident) = self.resident_before {
            text += &format!("memory of the server before any sidecar: {}\n", size(resident));
        }
        text += &format!(
            "memory of this program for each sidecar: {}\n",
            size(self.client_bytes_per_sidecar)
        );
        text += &format!("streams that failed: {}", self.stream_failures);
        if let Some(last) = &self.last_failure {
            text += &format!("; the last: {last}");
        }
        text + "\n"
    }

    fn row(&self, phase: &Phase) -> Vec<Cell> {
        let latency = |of: fn(&Latency) -> f64| {
            phase
                .latency
                .as_ref()
                .map_or_else(String::new, |found| millis(of(found)))
        };
        let each = phase.bytes / (self.sidecars.max(1) as u64) / (phase.times.max(1) as u64);
        let mut row = vec![
            phase.name.clone(),
            phase.times.to_string(),
            format!("{:.1} s", phase.seconds),
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.max),
            phase.missed.to_string(),
            phase.responses.to_string(),
            size(each),
        ];
        if let Some(server) = &phase.server {
            row.extend([
                format!("{:.2} s", server.cpu_seconds),
                size(server.resident),
                size(server.peak),
            ]);
        }
        row.into_iter().map(Cell::new).collect()
    }
}

fn millis(millis: f64) -> String {
    if millis < 10_000.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{:.1} s", millis / 1e3)
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes < 1024.0 {
        format!("{bytes} B")
    } else if bytes < 1024.0 * 1024.0 {
        format!("{:.1} KiB", bytes / 1024.0)
    } else {
        format!("{:.1} MiB", bytes / (1024.0 * 1024.0))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mesh::Shape;

    /// A report with two phases, one with arrivals and one without.
    pub(crate) fn report() -> Report {
        let arrivals: Vec<f64> = (1..=100).map(f64::from).collect();
        let server = Some(Server {
            cpu_seconds: 1.5,
            resident: 200 << 20,
            peak: 300 << 20,
        });
        let route = Phase {
            name: "route changed".to_owned(),
            times: 2,
            latency: Latency::of(&arrivals),
            arrivals,
            responses: 200,
            bytes: 200 * 1536,
            server,
            ..Phase::default()
        };
        let touched = Phase {
            name: "annotation changed".to_owned(),
            times: 2,
            server,
            ..Phase::default()
        };
        Report {
            target: "127.0.0.1:15010".to_owned(),
            mtls: false,
            sidecars: 100,
            mesh: Mesh {
                services: 1,
                namespaces: 1,
                endpoints: 1,
                routes: 1,
                shape: Shape::Plain,
                pods: false,
            },
            resident_before: Some(60 << 20),
            phases: vec![route, touched],
            stream_failures: 1,
            last_failure: Some("gone".to_owned()),
            client_bytes_per_sidecar: 20 << 10,
            memory: vec![
                Sample {
                    at: 0.0,
                    resident: 60 << 20,
                },
                Sample {
                    at: 1.0,
                    resident: 200 << 20,
                },
            ],
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_phase_and_what_failed() {
        let table = report().table();
        for text in [
            "route changed",
            "50.0 ms",
            "99.0 ms",
            "1.5 KiB",
            "1.50 s",
            "300.0 MiB",
            "annotation changed",
        ] {
            assert!(table.contains(text), "{text} is not in\n{table}");
        }
        assert!(table.contains("streams that failed: 1; the last: gone"), "{table}");
        assert!(table.contains("for each sidecar: 20.0 KiB"), "{table}");
    }

    #[test]
    fn programs_get_figures_and_not_every_arrival() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["phases"][0]["latency"]["p99"], 99.0);
        assert_eq!(json["phases"][0]["arrivals"], serde_json::Value::Null);
        assert_eq!(json["phases"][1]["latency"], serde_json::Value::Null);
        assert_eq!(json["memory"][1]["at"], 1.0);
    }

    #[test]
    fn without_the_process_there_are_no_columns_for_it() {
        let mut report = report();
        report.phases.iter_mut().for_each(|phase| phase.server = None);
        assert!(!report.table().contains("CPU"));
    }
}
