//! Who is calling: proved by the certificate of the connection, or by a bearer token.

pub(crate) mod claims;
pub(crate) mod jwt;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use lateen_names::{InvalidName, Namespace, ServiceAccount, SpiffeId, TrustDomain};
use lateen_pki::{CertificateDer, Chain, TrustBundle, VerifyError};
use tokio::sync::watch;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};

use crate::Clock;
use crate::limits::{self, Allowance, Failures};

/// The certificates that the peer of a TLS connection presented, leaf first. Whoever accepts connections puts it into
/// the extensions of every request (and tonic's `TcpConnectInfo`, for the address in logs); tonic's own
/// `TlsConnectInfo` is understood too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// A caller whose identity is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is, in the mesh's own trust domain.
    pub identity: SpiffeId,
    /// What proved it.
    pub proof: Proof,
}

/// What proved an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The certificate of the connection.
    Certificate {
        /// Its serial number in hexadecimal.
        serial: String,
        /// When it ends.
        not_after: SystemTime,
    },
    /// A bearer token.
    Token {
        /// Who issued it.
        issuer: String,
        /// The pod that it is bound to, if it is bound to one.
        pod: Option<BoundPod>,
    },
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// Its name; its namespace is the token's.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A caller could not prove who it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing was presented.
    #[error(
        "no proof of identity: present a client certificate of the mesh, or a service account token as `authorization: Bearer …`"
    )]
    Nothing,
    /// The certificate proves nothing.
    #[error("client certificate refused: {0}")]
    Certificate(#[from] VerifyError),
    /// The token proves nothing.
    #[error("token refused: {0}")]
    Token(#[from] TokenError),
    /// Both were presented, neither proves anything.
    #[error("client certificate refused: {certificate}; token refused: {token}")]
    Both {
        /// About the certificate.
        certificate: Box<VerifyError>,
        /// About the token.
        token: Box<TokenError>,
    },
    /// The identity is of another mesh.
    #[error("`{identity}` is not of this mesh, whose trust domain is `{trust_domain}`")]
    ForeignTrustDomain {
        /// Who the caller is.
        identity: Box<SpiffeId>,
        /// The mesh's own.
        trust_domain: TrustDomain,
    },
}

/// A token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no JWT.
    #[error("it is not a JWT: {0}")]
    Malformed(&'static str),
    /// Its algorithm is not taken.
    #[error("its algorithm is `{0}`; RS256, ES256 and EdDSA are taken")]
    Algorithm(String),
    /// Nobody configured vouches for its issuer.
    #[error("its issuer `{0}` is not configured here")]
    UnknownIssuer(String),
    /// The issuer has no such key.
    #[error("issuer `{issuer}` has no {algorithm} key `{key_id}`")]
    UnknownKey {
        /// Whose keys.
        issuer: String,
        /// The `kid`; empty when the token names none.
        key_id: String,
        /// Of which algorithm.
        algorithm: String,
    },
    /// The signature is not by the issuer's key.
    #[error("its signature is not by a key of issuer `{0}`")]
    Signature(String),
    /// It is over.
    #[error("it expired {0} s ago; ask for a new one")]
    Expired(u64),
    /// It has not begun.
    #[error("it is valid only in {0} s; compare the clocks")]
    NotYetValid(u64),
    /// It is meant for somebody else.
    #[error("its audience is {found:?}, not {expected:?}")]
    Audience {
        /// What the token says.
        found: Vec<String>,
        /// One of these is wanted.
        expected: Vec<String>,
    },
    /// It is not a service account's.
    #[error("its subject `{0}` is not `system:serviceaccount:<namespace>:<name>`, or its claims contradict it")]
    Subject(String),
    /// Its subject has a name that cannot be.
    #[error("its subject is no identity: {0}")]
    Identity(#[from] InvalidName),
    /// The API server refuses it.
    #[error("the API server refuses it: {0}")]
    Refused(String),
    /// The pod that it is bound to does not run any more.
    #[error("pod `{0}`, which it is bound to, is gone or has ended")]
    PodGone(String),
    /// The pod that it is bound to runs as somebody else.
    #[error("pod `{pod}`, which it is bound to, runs as service account `{found}`")]
    PodAccount {
        /// The pod.
        pod: String,
        /// Its service account.
        found: String,
    },
    /// It came from elsewhere than the pod that it is bound to.
    #[error("it is bound to pod `{pod}`, but came from {from}, the address of {owner}: it may be stolen")]
    Stolen {
        /// The pod.
        pod: String,
        /// Where it came from.
        from: IpAddr,
        /// Whose address that is.
        owner: String,
    },
    /// Whoever can tell does not answer.
    #[error("it cannot be checked now: {0}")]
    Unavailable(String),
    /// Too many from that address proved nothing; nobody is asked about it.
    #[error("too many tokens from {from} proved nothing: try again in {} ms", .wait.as_millis())]
    TooOften {
        /// Where they came from.
        from: IpAddr,
        /// When the next one is looked at.
        wait: Duration,
    },
}

/// Whom a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSubject {
    /// The service account's namespace.
    pub namespace: Namespace,
    /// The service account.
    pub service_account: ServiceAccount,
    /// Who issued the token.
    pub issuer: String,
    /// The pod that the token is bound to, if it is bound to one.
    pub pod: Option<BoundPod>,
}

/// Checks bearer tokens: by known keys ([`crate::JwtVerifier`]), or by asking an API server.
pub trait TokenVerifier: Send + Sync {
    /// Whom the token names, if it is good at `now` and may come from this address. [`TokenError::UnknownIssuer`] passes the token on to the next
    /// verifier; every other error is the answer.
    fn verify<'a>(
        &'a self,
        token: &'a str,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<TokenSubject, TokenError>>;
}

/// Proves who calls the CA and the configuration server.
///
/// A valid client certificate is enough, and else a valid token is: an agent may present both, and one of them may have
/// ended. Certificates are verified anew at every call, against the roots and the time of the call: a connection may
/// be older than both.
pub struct Authenticator {
    trust_domain: TrustDomain,
    aliases: Vec<TrustDomain>,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    tokens: Vec<Arc<dyn TokenVerifier>>,
    clock: Clock,
    failures: Failures,
}

// === impl Authenticator ===

impl Authenticator {
    /// Certificates lead to a root of `bundle`; tokens are shown to `tokens` in order.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        bundle: watch::Receiver<Arc<TrustBundle>>,
        tokens: Vec<Arc<dyn TokenVerifier>>,
        clock: Clock,
    ) -> Self {
        Self {
            trust_domain,
            aliases: Vec::new(),
            bundle,
            tokens,
            clock,
            failures: Failures::new(Allowance::FAILURES),
        }
    }

    /// Looks at so many tokens from one address that prove nothing, and at no more: checking them is others' work, too.
    /// Certificates are not counted.
    #[must_use]
    pub fn with_failures(mut self, allowance: Allowance) -> Self {
        self.failures = Failures::new(allowance);
        self
    }

    /// Takes certificates of these trust domains too, as the mesh's own (`trustDomainAliases`).
    #[must_use]
    pub fn with_aliases(mut self, aliases: impl IntoIterator<Item = TrustDomain>) -> Self {
        self.aliases.extend(aliases);
        self
    }

    /// Who the caller is, by the peer's certificates or the content of the `authorization` header after `Bearer `.
    ///
    /// # Errors
    /// When neither proves an identity of this mesh.
    pub async fn verified_identity(
        &self,
        peer: Option<&PeerCertificates>,
        bearer: Option<&str>,
    ) -> Result<Caller, AuthError> {
        self.identity_from(peer, bearer, None).await
    }

    /// As [`Authenticator::verified_identity`], with the address that the caller connects from: a token that is bound
    /// to a pod elsewhere is refused.
    ///
    /// # Errors
    /// When neither proves an identity of this mesh.
    pub async fn identity_from(
        &self,
        peer: Option<&PeerCertificates>,
        bearer: Option<&str>,
        from: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        let now = (self.clock)();
        let certificate = peer
            .filter(|peer| !peer.0.is_empty())
            .map(|peer| self.by_certificate(peer, now));
        let certificate = match certificate {
            Some(Ok(caller)) => return Ok(caller),
            Some(Err(foreign @ AuthError::ForeignTrustDomain { .. })) => return Err(foreign),
            Some(Err(AuthError::Certificate(error))) => Some(error),
            Some(Err(other)) => return Err(other),
            None => None,
        };
        let token = match bearer {
            Some(token) => match self.counted(token, from, now).await {
                Ok(caller) => return Ok(caller),
                Err(error) => Some(error),
            },
            None => None,
        };
        Err(match (certificate, token) {
            (None, None) => AuthError::Nothing,
            (Some(error), None) => error.into(),
            (None, Some(error)) => error.into(),
            (Some(certificate), Some(token)) => AuthError::Both {
                certificate: Box::new(certificate),
                token: Box::new(token),
            },
        })
    }

    /// As [`Authenticator::verified_identity`], from a request's extensions and headers.
    ///
    /// # Errors
    /// When neither proves an identity of this mesh.
    pub async fn authenticate(&self, extensions: &Extensions, headers: &HeaderMap) -> Result<Caller, AuthError> {
        let peer = peer_certificates(extensions);
        self.identity_from(peer.as_ref(), bearer(headers), address(extensions))
            .await
    }

    /// As [`Authenticator::authenticate`], from a gRPC request.
    ///
    /// # Errors
    /// When neither proves an identity of this mesh.
    pub async fn authenticate_request<T>(&self, request: &tonic::Request<T>) -> Result<Caller, AuthError> {
        let peer = peer_certificates(request.extensions());
        let bearer = bearer(request.metadata().as_ref()).map(str::to_owned);
        let from = address(request.extensions());
        self.identity_from(peer.as_ref(), bearer.as_deref(), from).await
    }

    fn by_certificate(&self, peer: &PeerCertificates, now: SystemTime) -> Result<Caller, AuthError> {
        let chain = Chain::from_ders(&peer.0).map_err(VerifyError::from)?;
        let bundle = Arc::clone(&self.bundle.borrow());
        let identity = bundle.verify(&chain, now)?;
        if identity.trust_domain != self.trust_domain && !self.aliases.contains(&identity.trust_domain) {
            let trust_domain = self.trust_domain.clone();
            return Err(AuthError::ForeignTrustDomain {
                identity: Box::new(identity),
                trust_domain,
            });
        }
        Ok(Caller {
            identity: SpiffeId {
                trust_domain: self.trust_domain.clone(),
                ..identity
            },
            proof: Proof::Certificate {
                serial: chain.leaf().serial().to_owned(),
                not_after: chain.leaf().not_after(),
            },
        })
    }

    async fn counted(&self, token: &str, from: Option<IpAddr>, now: SystemTime) -> Result<Caller, TokenError> {
        let Some(from) = from else {
            return self.by_token(token, None, now).await;
        };
        if let Err(wait) = self.failures.may_try(from, now) {
            return Err(TokenError::TooOften { from, wait });
        }
        let proved = self.by_token(token, Some(from), now).await;
        // Nobody is to blame for what cannot be checked.
        if proved
            .as_ref()
            .is_err_and(|error| !matches!(error, TokenError::Unavailable(_)))
        {
            self.failures.failed(from, now);
        }
        proved
    }

    async fn by_token(&self, token: &str, from: Option<IpAddr>, now: SystemTime) -> Result<Caller, TokenError> {
        let mut unknown = TokenError::Unavailable("no issuer of tokens is configured here".to_owned());
        for verifier in &self.tokens {
            match verifier.verify(token, from, now).await {
                Ok(subject) => {
                    let identity = SpiffeId {
                        trust_domain: self.trust_domain.clone(),
                        namespace: subject.namespace,
                        service_account: subject.service_account,
                    };
                    return Ok(Caller {
                        identity,
                        proof: Proof::Token {
                            issuer: subject.issuer,
                            pod: subject.pod,
                        },
                    });
                }
                Err(error @ TokenError::UnknownIssuer(_)) => unknown = error,
                Err(error) => return Err(error),
            }
        }
        Err(unknown)
    }
}

// === impl AuthError ===

impl AuthError {
    /// The reason in one word, for metrics and for whoever searches the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Nothing => "no_proof",
            Self::Certificate(_) => "certificate",
            Self::Token(error) => error.reason(),
            Self::Both { token, .. } => token.reason(),
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
        }
    }
}

impl TokenError {
    /// The reason in one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::Algorithm(_) => "token_algorithm",
            Self::UnknownIssuer(_) | Self::UnknownKey { .. } => "token_issuer",
            Self::Signature(_) => "token_signature",
            Self::Expired(_) => "token_expired",
            Self::NotYetValid(_) => "token_not_yet_valid",
            Self::Audience { .. } => "token_audience",
            Self::Subject(_) | Self::Identity(_) => "token_subject",
            Self::Refused(_) => "token_refused",
            Self::PodGone(_) => "token_pod_gone",
            Self::PodAccount { .. } => "token_pod_account",
            Self::Stolen { .. } => "token_stolen",
            Self::Unavailable(_) => "unavailable",
            Self::TooOften { .. } => "rate",
        }
    }
}

impl From<&AuthError> for Status {
    /// `Unauthenticated`; `ResourceExhausted` where too much has failed before; `PermissionDenied` for the proved identity of another mesh; `Unavailable` when the proof could
    /// not be checked.
    fn from(error: &AuthError) -> Self {
        let code = match error {
            AuthError::ForeignTrustDomain { .. } => Code::PermissionDenied,
            AuthError::Token(TokenError::Unavailable(_)) => Code::Unavailable,
            AuthError::Token(TokenError::TooOften { wait, .. }) => return limits::too_often(error.to_string(), *wait),
            _ => Code::Unauthenticated,
        };
        Self::new(code, error.to_string())
    }
}

fn peer_certificates(extensions: &Extensions) -> Option<PeerCertificates> {
    extensions.get::<PeerCertificates>().cloned().or_else(|| {
        let certificates = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
        Some(PeerCertificates(certificates.iter().cloned().collect()))
    })
}

/// Whom a token says it is for, whether or not that is true: for the log of refusals.
pub(crate) fn claimed_subject(headers: &HeaderMap) -> Option<String> {
    claims::Claims::read(bearer(headers)?).ok()?.subject
}

/// Where the caller connects from.
fn address(extensions: &Extensions) -> Option<IpAddr> {
    let of_tls = || Some(extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref().clone());
    let info = extensions.get::<TcpConnectInfo>().cloned().or_else(of_tls)?;
    info.remote_addr().map(|address| address.ip().to_canonical())
}

/// The token of `authorization: Bearer …`; the scheme's case does not matter (RFC 9110, §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
