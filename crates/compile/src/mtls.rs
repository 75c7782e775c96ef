//! Mutual TLS of inbound connections: which mode holds at a port.

use lateen_model::Snapshot;
use lateen_model::policy::MtlsMode;
use lateen_names::{Namespace, ObjectKey};

/// The mode at a port of a workload, given the PeerAuthentications in force: the workload's own (port before whole), its
/// namespace's, the mesh's; permissive where nobody says anything. The oldest of each width counts. Port 0 asks for
/// ports that nobody names.
pub fn mode(snapshot: &Snapshot, policies: &[ObjectKey], namespace: &Namespace, port: u16) -> MtlsMode {
    let root = &snapshot.mesh.root_namespace;
    let mut mesh = MtlsMode::Unset;
    let mut own_namespace = MtlsMode::Unset;
    let mut workload = (MtlsMode::Unset, false);
    for policy in policies.iter().filter_map(|key| snapshot.peer_authentications.get(key)) {
        let wide = policy.scope.selector.is_empty();
        if !wide {
            if !workload.1 {
                let at_port = policy.ports.get(&port).copied().unwrap_or_default();
                workload = (
                    if at_port == MtlsMode::Unset {
                        policy.mode
                    } else {
                        at_port
                    },
                    true,
                );
            }
        } else if policy.scope.namespace == *root && mesh == MtlsMode::Unset {
            mesh = policy.mode;
        } else if policy.scope.namespace == *namespace && own_namespace == MtlsMode::Unset {
            own_namespace = policy.mode;
        }
    }
    [workload.0, own_namespace, mesh]
        .into_iter()
        .find(|mode| *mode != MtlsMode::Unset)
        .unwrap_or(MtlsMode::Permissive)
}
