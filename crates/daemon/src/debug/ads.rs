//! What `istioctl` asks over ADS: `proxy-status`, `version`, `experimental internal-debug`.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use lateen_distribute::Distributor;
use lateen_proto::Any;
use lateen_runtime::admin::elsewhere;
use lateen_xds::types::QUESTIONS;
use lateen_xds::{Dialect, Discovery, NamedAny, Node, Peer, Question, Refusal};
use tower::ServiceExt as _;

use super::access::Caller;
use super::{Debug, dump, status};
use crate::secrets::{Held, Secrets};

/// Answers of any size that a mesh gives.
const LARGEST: usize = 1 << 30;

/// What proxies should hold, and questions about it.
pub(crate) struct Steering {
    pub distributor: Distributor,
    pub debug: Debug,
    /// Who may have Secrets; everybody, where configuration is read from files.
    pub secrets: Option<Secrets>,
}

impl Discovery for Steering {
    type Subscription = Held;

    async fn connect(&self, node: Node, peer: &Peer, dialect: Dialect) -> Result<Self::Subscription, Refusal> {
        let Some(secrets) = &self.secrets else {
            return self.distributor.connect(node, peer, dialect).await.map(Held::plain);
        };
        let mut peer = peer.clone();
        let Some(identity) = peer.identity.clone() else {
            peer.without_secrets = true;
            return self.distributor.connect(node, &peer, dialect).await.map(Held::plain);
        };
        let may_read = secrets.may_read(&identity).await?;
        peer.without_secrets = !may_read;
        let sidecar = node.id.starts_with("sidecar~");
        let registration = self.distributor.connect(node, &peer, dialect).await?;
        Ok(match sidecar {
            // A sidecar has Secrets only where a DestinationRule is for it alone: it waits for its next connection.
            true => Held::plain(registration),
            false => secrets.hold(registration, identity, may_read),
        })
    }

    async fn inspect(&self, question: Question, peer: &Peer) -> Result<Vec<NamedAny>, Refusal> {
        let Some(identity) = &peer.identity else {
            return Err(Refusal::Unauthenticated(
                "questions are answered on the port with TLS, to proven identities".to_owned(),
            ));
        };
        let caller = self.debug.access.of(&identity.namespace);
        let what = question.type_url.strip_prefix(QUESTIONS).unwrap_or_default();
        match what {
            "/syncz" => {
                let configs = status::client_configs(&self.debug, &caller).into_iter();
                Ok(configs
                    .map(|config| NamedAny {
                        name: config.node.as_ref().map(|node| node.id.clone()).unwrap_or_default(),
                        body: lateen_proto::any(&config),
                    })
                    .collect())
            }
            "/config_dump" => self.config_dump(&question, &caller),
            "" => self.endpoint(&question, caller).await,
            other => Err(Refusal::BadQuestion(format!(
                "there is no `{QUESTIONS}{other}`; there are {QUESTIONS}/syncz, {QUESTIONS}/config_dump and {QUESTIONS}"
            ))),
        }
    }
}

impl Steering {
    /// One proxy's dump, part by part. Nothing for a proxy that is not connected here: the next instance is asked then.
    fn config_dump(&self, question: &Question, caller: &Caller) -> Result<Vec<NamedAny>, Refusal> {
        let proxy = self.debug.proxy(only(question)?, caller);
        let parts = proxy.iter().flat_map(|proxy| dump::configs(proxy, false));
        let unnamed = |body| NamedAny {
            name: String::new(),
            body,
        };
        Ok(parts.map(unnamed).collect())
    }

    /// What a debug endpoint says, by its name with its query.
    async fn endpoint(&self, question: &Question, caller: Caller) -> Result<Vec<NamedAny>, Refusal> {
        let name = only(question)?;
        let path = name.split('?').next().unwrap_or_default();
        if !caller.may_ask(path) {
            return Err(Refusal::Denied(format!(
                "`{path}` is for identities of namespace {} only",
                self.debug.access.system_namespace
            )));
        }
        let mut request = Request::get(format!("/debug/{name}"))
            .body(Body::empty())
            .map_err(|error| Refusal::BadQuestion(format!("`{name}`: {error}")))?;
        request.extensions_mut().insert(caller);
        let answer = match self.debug.clone().routes().fallback(elsewhere).oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let bytes = to_bytes(answer.into_body(), LARGEST)
            .await
            .map_err(|error| Refusal::Unavailable(error.to_string()))?;
        Ok(vec![NamedAny {
            name: name.to_owned(),
            body: Any {
                type_url: QUESTIONS.to_owned(),
                value: bytes.to_vec(),
            },
        }])
    }
}

/// The one name that a question must have.
fn only(question: &Question) -> Result<&str, Refusal> {
    match question.names.as_slice() {
        [name] => Ok(name),
        names => Err(Refusal::BadQuestion(format!(
            "`{}` wants exactly one resource name, not {}",
            question.type_url,
            names.len()
        ))),
    }
}
