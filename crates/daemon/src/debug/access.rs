//! Who may see debug endpoints: everybody on this machine, and identities of the control plane's namespace; others
//! only what concerns proxies of their own namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lateen_ca::Authenticator;
use lateen_names::Namespace;
use lateen_runtime::admin::Link;

/// What is open to callers of other namespaces, about proxies of their own.
const OWN: &[&str] = &["config_dump", "ndsz", "edsz"];

/// The rules.
pub(crate) struct Access {
    pub authenticator: Arc<Authenticator>,
    /// Whose identities see everything.
    pub system_namespace: Namespace,
    /// Further namespaces whose identities see everything.
    pub namespaces: BTreeSet<String>,
    /// Whether namespaces count; otherwise every proven identity sees everything.
    pub by_namespace: bool,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Sees everything.
    Operator,
    /// Sees proxies of this namespace.
    Of(Namespace),
}

impl Caller {
    /// Whether it may know of proxies there.
    pub(crate) fn sees(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Operator => true,
            Self::Of(own) => own == namespace,
        }
    }

    /// Whether it may ask at an endpoint, by its name after `/debug/`.
    pub(crate) fn may_ask(&self, endpoint: &str) -> bool {
        matches!(self, Self::Operator) || OWN.contains(&endpoint)
    }
}

impl Access {
    /// What an identity of a namespace is.
    pub(crate) fn of(&self, namespace: &Namespace) -> Caller {
        let whole =
            !self.by_namespace || *namespace == self.system_namespace || self.namespaces.contains(namespace.as_str());
        if whole {
            Caller::Operator
        } else {
            Caller::Of(namespace.clone())
        }
    }
}

/// Lets those pass who may, with their [`Caller`] among the request's extensions.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    ConnectInfo(link): ConnectInfo<Link>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = if link.is_local() {
        Caller::Operator
    } else {
        let proven = access
            .authenticator
            .authenticate(request.extensions(), request.headers())
            .await;
        match proven {
            Ok(caller) => access.of(&caller.identity.namespace),
            Err(error) => {
                tracing::warn!(%error, peer = %link.peer, path = request.uri().path(), "debug request refused");
                return (StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response();
            }
        }
    };
    let path = request.uri().path();
    if !caller.may_ask(path.strip_prefix("/debug/").unwrap_or_default()) {
        let text = format!(
            "{path} is for identities of namespace {} only\n",
            access.system_namespace
        );
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}
