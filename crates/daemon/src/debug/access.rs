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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, SystemTime};

    use axum::body::Body;
    use axum::extract::Extension;
    use axum::routing::get;
    use axum::{Router, middleware};
    use lateen_ca::{CaConfig, CertificateAuthority, RootSource, TokenIssuer};
    use lateen_names::{ServiceAccount, TrustDomain};
    use lateen_runtime::metrics::Metrics;
    use tower::ServiceExt as _;

    use super::*;

    /// Endpoints that tell who asks, and tokens for them.
    struct Guarded {
        tokens: TokenIssuer,
        router: Router,
        _directory: tempfile::TempDir,
    }

    impl Guarded {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
            let domain = TrustDomain::new("cluster.local").unwrap();
            let config = CaConfig::new(domain.clone(), RootSource::SelfSigned(directory.path().join("ca")));
            let authority = CertificateAuthority::open(config, Arc::clone(&clock), Metrics::new().registry()).unwrap();
            let tokens = TokenIssuer::open_or_create(directory.path()).unwrap();
            let verifier = Arc::new(tokens.verifier().unwrap());
            let access = Arc::new(Access {
                authenticator: Arc::new(Authenticator::new(
                    domain,
                    authority.trust_bundle(),
                    vec![verifier as Arc<dyn lateen_ca::TokenVerifier>],
                    clock,
                )),
                system_namespace: Namespace::new("istio-system").unwrap(),
                namespaces: BTreeSet::from(["tools".to_owned()]),
                by_namespace: true,
            });
            let who = |Extension(caller): Extension<Caller>| async move { format!("{caller:?}") };
            let router = Router::new()
                .route("/debug/syncz", get(who))
                .route("/debug/config_dump", get(who))
                .layer(middleware::from_fn_with_state(access, guard));
            Self {
                tokens,
                router,
                _directory: directory,
            }
        }

        /// The status and the text that a caller from there gets, with a token of that namespace.
        async fn ask(&self, path: &str, peer: &str, namespace: Option<&str>) -> (u16, String) {
            let link = Link {
                peer: peer.parse::<SocketAddr>().unwrap(),
                local: Some("10.0.0.1:8080".parse().unwrap()),
            };
            let mut request = axum::http::Request::get(path).extension(ConnectInfo(link));
            if let Some(namespace) = namespace {
                let (namespace, account) = (
                    Namespace::new(namespace).unwrap(),
                    ServiceAccount::new("default").unwrap(),
                );
                let hour = Duration::from_secs(3600);
                let token = self
                    .tokens
                    .issue(&namespace, &account, hour, SystemTime::now())
                    .unwrap();
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let answer = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
            let answer = answer.unwrap();
            let status = answer.status().as_u16();
            let bytes = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn callers_from_elsewhere_must_prove_who_they_are() {
        let guarded = Guarded::new();
        let (near, far) = ("127.0.0.1:9", "10.0.0.2:9");
        assert_eq!(guarded.ask("/debug/syncz", near, None).await, (200, "Operator".into()));
        assert_eq!(
            guarded.ask("/debug/syncz", "10.0.0.1:9", None).await,
            (200, "Operator".into())
        );
        let (status, said) = guarded.ask("/debug/syncz", far, None).await;
        assert!(
            status == 401 && said.contains("no proof of identity"),
            "{status} {said}"
        );
        for namespace in ["istio-system", "tools"] {
            let answer = guarded.ask("/debug/syncz", far, Some(namespace)).await;
            assert_eq!(answer, (200, "Operator".into()), "{namespace}");
        }
        let (status, said) = guarded.ask("/debug/syncz", far, Some("shop")).await;
        assert!(status == 403 && said.contains("istio-system"), "{status} {said}");
        let (status, said) = guarded.ask("/debug/config_dump", far, Some("shop")).await;
        assert!(
            status == 200 && said.contains("Of(") && said.contains("shop"),
            "{status} {said}"
        );
    }
}
