//! Patches of clusters.

use std::collections::BTreeSet;

use lateen_model::Diagnostic;
use lateen_model::patch::{ClusterMatch, PatchMatch, PatchOperation, PatchTarget};
use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use lateen_proto::value::Kind;

use super::{Applied, Patches};

/// Whether a cluster of this name can match, as far as the name tells.
pub(super) fn may_match(matched: &ClusterMatch, name: &str) -> bool {
    if !matched.name.is_empty() {
        return *matched.name == *name;
    }
    let parts = Parts::of(name);
    (matched.subset.is_empty() || *matched.subset == *parts.subset)
        && matched.port.is_none_or(|port| Some(port) == parts.port)
        && (matched.service.is_empty() || parts.inbound || *matched.service == *parts.host)
}

/// Applies patches; `false` when the cluster is to go.
pub(super) fn apply(patches: &Patches, cluster: &mut Cluster, found: &mut Vec<Diagnostic>) -> bool {
    for applied in patches.targeting(PatchTarget::Cluster) {
        if !matches(applied, cluster) {
            continue;
        }
        if applied.patch.operation == PatchOperation::Remove {
            return false;
        }
        let Some(lists) = applied.merges() else { continue };
        let value: Cluster = applied.value();
        match value.transport_socket {
            Some(socket) => merge_socket(applied, cluster, socket, found),
            None => applied.merge_into(cluster, lists, found),
        }
    }
    true
}

fn matches(applied: &Applied, cluster: &Cluster) -> bool {
    let PatchMatch::Cluster(matched) = &applied.patch.matched else {
        return true;
    };
    may_match(matched, &cluster.name)
        && (!matched.name.is_empty()
            || matched.service.is_empty()
            || !Parts::of(&cluster.name).inbound
            || services(cluster).contains(&*matched.service))
}

/// A cluster has one transport socket, or several to choose from, never both; a patch of the socket is a patch of the one
/// with its name.
fn merge_socket(applied: &Applied, cluster: &mut Cluster, patch: TransportSocket, found: &mut Vec<Diagnostic>) {
    let socket = if cluster.transport_socket_matches.is_empty() {
        cluster
            .transport_socket
            .as_mut()
            .filter(|socket| socket.name == patch.name)
    } else {
        let sockets = cluster.transport_socket_matches.iter_mut();
        let same = sockets.filter_map(|choice| choice.transport_socket.as_mut());
        let same = same.into_iter().find(|socket| socket.name == patch.name);
        if same.is_none() {
            return;
        }
        same
    };
    match socket {
        None => cluster.transport_socket = Some(patch),
        Some(socket) => {
            if let (Some(ConfigType::TypedConfig(base)), Some(ConfigType::TypedConfig(patch))) =
                (&mut socket.config_type, &patch.config_type)
            {
                applied.merge_any(base, patch, found);
            }
        }
    }
}

/// `direction|port|subset|host`; in part empty for other names.
struct Parts<'a> {
    inbound: bool,
    port: Option<u32>,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let parts: Vec<&str> = if name.contains('|') {
            name.splitn(4, '|').collect()
        } else {
            // Clusters for connections passed on by SNI: `outbound_.80_.v1_.host`.
            name.splitn(4, "_.").collect()
        };
        match parts[..] {
            [direction, port, subset, host] => Self {
                inbound: direction == "inbound",
                port: port.parse().ok(),
                subset,
                host,
            },
            _ => Self {
                inbound: false,
                port: None,
                subset: "",
                host: "",
            },
        }
    }
}

/// The hosts of the services that an inbound cluster is of, as its metadata says.
fn services(cluster: &Cluster) -> BTreeSet<&str> {
    let istio = cluster
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.filter_metadata.get("istio"));
    let listed = istio.and_then(|istio| istio.fields.get("services")?.kind.as_ref());
    let Some(Kind::ListValue(listed)) = listed else {
        return BTreeSet::new();
    };
    let hosts = listed.values.iter().filter_map(|value| match value.kind.as_ref()? {
        Kind::StructValue(service) => match service.fields.get("host")?.kind.as_ref()? {
            Kind::StringValue(host) => Some(host.as_str()),
            _ => None,
        },
        _ => None,
    });
    hosts.collect()
}
