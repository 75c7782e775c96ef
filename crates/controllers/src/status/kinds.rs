//! The kinds whose status is written, and the shape that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use kube::core::{GroupVersion, GroupVersionKind};
use kube::discovery;
use lateen_api::gateway_api::{self, GROUP};
use tokio::sync::watch;

/// How often the API server is asked which kinds of the Gateway API it serves: their definitions come and go.
const ASK: Duration = Duration::from_secs(20);

/// Where conditions stand in a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One list, and messages of validation: Istio's kinds.
    Istio,
    /// One list: GatewayClass, which reaches no proxy by itself.
    Class,
    /// One list, and one for each listener: Gateway, ListenerSet.
    Listeners,
    /// One list for each parent and controller, in this field.
    Parents(&'static str),
}

/// A kind whose status is written.
#[derive(Debug)]
pub(super) struct StatusKind {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    plural: &'static str,
    /// Versions that can be served, the best first.
    versions: &'static [&'static str],
    pub(super) shape: Shape,
}

/// All of them.
pub(super) static KINDS: LazyLock<Vec<StatusKind>> = LazyLock::new(|| {
    let istio = lateen_api::KINDS.iter().map(|info| StatusKind {
        group: info.group,
        kind: info.kind,
        plural: info.plural,
        versions: std::slice::from_ref(&info.storage_version),
        shape: Shape::Istio,
    });
    let gateway = gateway_api::KINDS.iter().filter_map(|served| {
        let shape = match served.kind {
            "GatewayClass" => Shape::Class,
            "Gateway" | "ListenerSet" => Shape::Listeners,
            "BackendTLSPolicy" => Shape::Parents("ancestors"),
            route if route.ends_with("Route") => Shape::Parents("parents"),
            // A ReferenceGrant has no status.
            _ => return None,
        };
        Some(StatusKind {
            group: GROUP,
            kind: served.kind,
            plural: served.plural,
            versions: served.versions,
            shape,
        })
    });
    istio.chain(gateway).collect()
});

/// The versions in which kinds are served, by their places in [`KINDS`].
pub(super) type Served = BTreeMap<usize, &'static str>;

impl StatusKind {
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, version, self.kind), self.plural)
    }
}

/// Istio's kinds, which are where they are defined to be.
pub(super) fn always_served() -> Served {
    let istio = KINDS.iter().enumerate().filter(|(_, kind)| kind.shape == Shape::Istio);
    istio.map(|(at, kind)| (at, kind.versions[0])).collect()
}

/// Keeps telling which kinds are served, and in which version. Never ends by itself.
pub(super) async fn follow(client: Client, told: watch::Sender<Arc<Served>>) {
    loop {
        match ask(&client).await {
            Ok(served) => {
                told.send_if_modified(|known| {
                    let differs = **known != served;
                    if differs {
                        *known = Arc::new(served);
                    }
                    differs
                });
            }
            Err(error) => tracing::debug!(%error, group = GROUP, "the API server does not say what it serves"),
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Asks for each version by its name: the list of all groups lags behind the definitions.
async fn ask(client: &Client) -> Result<Served, kube::Error> {
    let gateway = || KINDS.iter().enumerate().filter(|(_, kind)| kind.group == GROUP);
    let versions: BTreeSet<&'static str> = gateway().flat_map(|(_, kind)| kind.versions).copied().collect();
    let mut found: BTreeSet<(&'static str, String)> = BTreeSet::new();
    for version in versions {
        match discovery::pinned_group(client, &GroupVersion::gv(GROUP, version)).await {
            Ok(group) => {
                let resources = group.versioned_resources(version).into_iter();
                found.extend(resources.map(|(resource, _)| (version, resource.plural)));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let mut served = always_served();
    for (at, kind) in gateway() {
        let best = kind
            .versions
            .iter()
            .find(|version| found.contains(&(**version, kind.plural.to_owned())));
        served.extend(best.map(|version| (at, *version)));
    }
    Ok(served)
}
