//! Whether workloads take mutual TLS, as PeerAuthentications say.

use lateen_model::policy::{MtlsMode, PeerAuthentication};
use lateen_model::{Labels, Shared, Snapshot};
use lateen_names::Namespace;

/// The PeerAuthentications that may turn mutual TLS off for some workload of some namespaces, oldest first; empty where
/// none of them does. What only makes it stricter is of no concern to callers: they use it wherever it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Peers {
    policies: Vec<Shared<PeerAuthentication>>,
    root: Option<Namespace>,
}

impl Peers {
    /// Those that concern workloads in these namespaces.
    pub(crate) fn of<'a>(all: &AllPeers, namespaces: impl Iterator<Item = &'a Namespace> + Clone) -> Self {
        if !all.any_disabled {
            return Self::default();
        }
        let concerns =
            |policy: &PeerAuthentication| namespaces.clone().any(|namespace| *namespace == policy.scope.namespace);
        let policies: Vec<_> = all
            .policies
            .iter()
            .filter(|policy| policy.scope.namespace == all.root || concerns(policy))
            .cloned()
            .collect();
        if policies.iter().any(|policy| disables(policy)) {
            Self {
                policies,
                root: Some(all.root.clone()),
            }
        } else {
            Self::default()
        }
    }

    /// Whether a port of a workload refuses mutual TLS: the policy of the mesh, then of the namespace, then of the
    /// workload, then of the port; the oldest of each counts, and one that says nothing leaves the wider one's mode.
    pub(crate) fn disabled(&self, namespace: &Namespace, labels: &Labels, port: u16) -> bool {
        let in_root = |policy: &PeerAuthentication| self.root.as_ref() == Some(&policy.scope.namespace);
        let find = |wanted: &dyn Fn(&PeerAuthentication) -> bool| self.policies.iter().find(|policy| wanted(policy));
        let mesh = find(&|policy| policy.scope.selector.is_empty() && in_root(policy));
        let wide = find(&|policy| {
            policy.scope.selector.is_empty() && !in_root(policy) && policy.scope.namespace == *namespace
        });
        let own = find(&|policy| {
            !policy.scope.selector.is_empty()
                && !in_root(policy)
                && policy.scope.namespace == *namespace
                && policy.scope.selector.matches(labels)
        });
        let at_port = own.and_then(|policy| policy.ports.get(&port)).copied();
        let modes = [
            at_port,
            own.map(|policy| policy.mode),
            wide.map(|policy| policy.mode),
            mesh.map(|policy| policy.mode),
        ];
        let mode = modes.into_iter().flatten().find(|mode| *mode != MtlsMode::Unset);
        mode == Some(MtlsMode::Disable)
    }
}

/// All PeerAuthentications, read once for a list of inputs.
pub(crate) struct AllPeers {
    policies: Vec<Shared<PeerAuthentication>>,
    root: Namespace,
    any_disabled: bool,
}

impl AllPeers {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mut policies: Vec<_> = snapshot.peer_authentications.values().cloned().collect();
        policies.sort_by(|a, b| {
            (a.scope.created, &a.scope.origin.key.name, &a.scope.namespace).cmp(&(
                b.scope.created,
                &b.scope.origin.key.name,
                &b.scope.namespace,
            ))
        });
        Self {
            any_disabled: policies.iter().any(|policy| disables(policy)),
            policies,
            root: snapshot.mesh.root_namespace.clone(),
        }
    }

    /// Whether the policies of the mesh and of a namespace as a whole turn mutual TLS off there. Single workloads'
    /// policies do not count: they change single endpoints.
    pub(crate) fn namespace_disabled(&self, namespace: &Namespace) -> bool {
        self.any_disabled && Peers::of(self, std::iter::once(namespace)).disabled(namespace, &Labels::new(), 0)
    }
}

fn disables(policy: &PeerAuthentication) -> bool {
    policy.mode == MtlsMode::Disable || policy.ports.values().any(|mode| *mode == MtlsMode::Disable)
}
