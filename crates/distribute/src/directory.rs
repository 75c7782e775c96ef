//! Where proxies are found by what snapshots say of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_compile::Changes;
use lateen_model::Proxy;
use lateen_names::{ClusterId, Namespace};

/// Numbers of proxies by their addresses and by the pods that they are, so that a change costs those whom it concerns rather
/// than a look at everybody.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    addresses: BTreeSet<(ClusterId, IpAddr, u64)>,
    pods: BTreeSet<(ClusterId, Namespace, Arc<str>, u64)>,
}

impl Directory {
    /// Enters a proxy under its number.
    pub(crate) fn enter(&mut self, number: u64, proxy: &Proxy) {
        self.addresses.extend(addresses(number, proxy));
        self.pods.insert(pod(number, proxy));
    }

    /// Strikes out a proxy, as it was entered.
    pub(crate) fn strike(&mut self, number: u64, proxy: &Proxy) {
        for address in addresses(number, proxy) {
            self.addresses.remove(&address);
        }
        self.pods.remove(&pod(number, proxy));
    }

    /// Whose Nodes have to be read anew after these changes, if not everybody's.
    pub(crate) fn concerned(&self, changes: &Changes) -> impl Iterator<Item = u64> {
        let at = changes.addresses().iter().flat_map(|(cluster, address)| {
            let key = |number| (cluster.clone(), *address, number);
            self.addresses.range(key(0)..=key(u64::MAX)).map(|found| found.2)
        });
        let pods = changes.pods().iter().flat_map(|(cluster, namespace, name)| {
            let key = |number| (cluster.clone(), namespace.clone(), Arc::clone(name), number);
            self.pods.range(key(0)..=key(u64::MAX)).map(|found| found.3)
        });
        at.chain(pods)
    }
}

fn addresses(number: u64, proxy: &Proxy) -> impl Iterator<Item = (ClusterId, IpAddr, u64)> {
    proxy
        .addresses
        .iter()
        .map(move |address| (proxy.cluster.clone(), *address, number))
}

fn pod(number: u64, proxy: &Proxy) -> (ClusterId, Namespace, Arc<str>, u64) {
    let (cluster, namespace) = (proxy.cluster.clone(), proxy.namespace.clone());
    (cluster, namespace, Arc::clone(&proxy.name), number)
}
