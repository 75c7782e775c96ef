//! Which of a dump's resources are wanted.

use serde_json::Value;

use super::What;
use super::dump::{Dump, field, items, name, text};
use super::tables::{addresses, listener_address, listener_kind, listener_port, parts};

/// Filters, of which each concerns the kinds that it makes sense for.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct Filter {
    /// Only resources whose name contains this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// Only clusters whose service contains this
    #[arg(long, value_name = "TEXT")]
    fqdn: Option<String>,

    /// Only clusters, listeners and endpoints of this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Only clusters whose subset contains this
    #[arg(long, value_name = "TEXT")]
    subset: Option<String>,

    /// Only clusters of this direction
    #[arg(long, value_name = "DIRECTION", value_parser = ["inbound", "outbound", "inbound-vip"])]
    direction: Option<String>,

    /// Only listeners and endpoints of this address; what `istioctl` calls --address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// Only listeners of this type: HTTP, TCP, HTTP+TCP, UNKNOWN
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,

    /// Only endpoints of this cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// Only endpoints of this status, e.g. HEALTHY
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
}

/// Whether a filter lets something pass: there is none, or it says so.
fn passes<T>(filter: &Option<T>, says: impl FnOnce(&T) -> bool) -> bool {
    filter.as_ref().is_none_or(says)
}

impl Filter {
    /// Drops what is not wanted.
    pub(super) fn apply(&self, what: What, dump: &mut Dump) {
        let named = |resource: &Value| passes(&self.name, |part| name(resource).contains(part.as_str()));
        dump.clusters.retain(|cluster| named(cluster) && self.cluster(cluster));
        dump.listeners
            .retain(|listener| named(listener) && self.listener(listener));
        dump.routes.retain(|route| named(route));
        dump.secrets.retain(|secret| named(&secret.secret));
        dump.endpoints.retain(|assignment| named(assignment));
        let narrows = self.ip.is_some() || self.port.is_some() || self.cluster.is_some() || self.status.is_some();
        // With everything else, a port is that of clusters and listeners.
        if narrows && what == What::Endpoint {
            for assignment in &mut dump.endpoints {
                self.endpoints(assignment);
            }
            let any = |assignment: &Value| {
                items(assignment, &["endpoints"]).any(|group| items(group, &["lbEndpoints"]).next().is_some())
            };
            dump.endpoints.retain(any);
        }
    }

    fn cluster(&self, cluster: &Value) -> bool {
        let (service, port, subset, direction) = parts(name(cluster));
        passes(&self.fqdn, |part| service.contains(part.as_str()))
            && passes(&self.port, |wanted| port == wanted.to_string())
            && passes(&self.subset, |part| subset.contains(part.as_str()))
            && passes(&self.direction, |wanted| direction == wanted)
    }

    fn listener(&self, listener: &Value) -> bool {
        passes(&self.ip, |wanted| listener_address(listener) == wanted)
            && passes(&self.port, |wanted| listener_port(listener) == u64::from(*wanted))
            && passes(&self.kind, |wanted| {
                listener_kind(listener).eq_ignore_ascii_case(wanted)
            })
    }

    /// Drops endpoints that are not wanted.
    fn endpoints(&self, assignment: &mut Value) {
        let cluster = name(assignment).to_owned();
        let Some(groups) = assignment["endpoints"].as_array_mut() else {
            return;
        };
        for group in groups {
            let key = if group.get("lbEndpoints").is_some() {
                "lbEndpoints"
            } else {
                "lb_endpoints"
            };
            if let Some(endpoints) = group[key].as_array_mut() {
                endpoints.retain(|endpoint| self.endpoint(&cluster, endpoint));
            }
        }
    }

    fn endpoint(&self, cluster: &str, endpoint: &Value) -> bool {
        let socket = field(endpoint, "endpoint").and_then(|inner| field(inner, "address"));
        let socket = socket.and_then(|address| field(address, "socketAddress"));
        let port = socket
            .and_then(|socket| field(socket, "portValue"))
            .and_then(Value::as_u64);
        let status = match text(endpoint, &["healthStatus"]) {
            "" | "UNKNOWN" => "HEALTHY",
            status => status,
        };
        let at = |wanted: &String| {
            let plain = socket.is_some_and(|socket| text(socket, &["address"]) == wanted);
            plain || addresses(endpoint).contains(wanted)
        };
        passes(&self.cluster, |wanted| cluster.eq_ignore_ascii_case(wanted))
            && passes(&self.port, |wanted| port == Some(u64::from(*wanted)))
            && passes(&self.status, |wanted| status.eq_ignore_ascii_case(wanted))
            && passes(&self.ip, at)
    }
}
