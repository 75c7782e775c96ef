//! Node proxies: one proxy holds the certificates of all pods on its node.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use lateen_names::{Namespace, ServiceAccount, SpiffeId};

use super::pods::Pods;
use crate::authenticate::{Caller, Proof};
use crate::impersonate::{ImpersonationError, NodeAuthorizer};

/// Lets the proxies of trusted accounts ask for the identities of pods that run on the same node. Which node a proxy is
/// on is read from its pod, never from what it says.
pub struct NodeProxies {
    accounts: Vec<(Namespace, ServiceAccount)>,
    pods: Pods,
}

impl NodeProxies {
    /// Trusts these accounts (`CA_TRUSTED_NODE_ACCOUNTS`).
    #[must_use]
    pub fn new(client: Client, accounts: Vec<(Namespace, ServiceAccount)>) -> Self {
        Self {
            accounts,
            pods: Pods::new(client),
        }
    }

    async fn check(&self, caller: &Caller, wanted: &SpiffeId) -> Result<(), ImpersonationError> {
        let SpiffeId {
            namespace,
            service_account,
            ..
        } = &caller.identity;
        let trusted = |(of, account): &(Namespace, ServiceAccount)| of == namespace && account == service_account;
        if !self.accounts.iter().any(trusted) {
            return Err(ImpersonationError::NotTrusted(Box::new(caller.identity.clone())));
        }
        let Proof::Token { pod: Some(pod), .. } = &caller.proof else {
            return Err(ImpersonationError::NoPod);
        };
        let unavailable = |error: kube::Error| ImpersonationError::Unavailable(error.to_string());
        let own = self
            .pods
            .running(namespace.as_str(), &pod.name, &pod.uid)
            .await
            .map_err(unavailable)?;
        let unknown = || ImpersonationError::UnknownPod(format!("{namespace}/{}", pod.name));
        let own = own
            .filter(|own| own.account == service_account.as_str())
            .ok_or_else(unknown)?;
        let node = own.node.ok_or_else(unknown)?;
        let (of, account) = (wanted.namespace.as_str(), wanted.service_account.as_str());
        if self.pods.any_on(&node, of, account).await.map_err(unavailable)? {
            return Ok(());
        }
        Err(ImpersonationError::NotOnNode {
            wanted: Box::new(wanted.clone()),
            node,
        })
    }
}

impl NodeAuthorizer for NodeProxies {
    fn authorize<'a>(
        &'a self,
        caller: &'a Caller,
        wanted: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<(), ImpersonationError>> {
        self.check(caller, wanted).boxed()
    }
}
