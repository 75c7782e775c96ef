//! Tokens reviewed by the API server.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use lateen_names::{Namespace, ServiceAccount};
use sha2::{Digest, Sha256};

use super::pods::{PodFacts, Pods};
use crate::authenticate::claims::Claims;
use crate::authenticate::{BoundPod, TokenError, TokenSubject, TokenVerifier};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const ACCOUNTS_GROUP: &str = "system:serviceaccounts";

/// How long the API server's word counts.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// How long its refusal counts: an object that it had not seen yet may be there soon.
const BAD_FOR: Duration = Duration::from_secs(1);
const CACHED: usize = 4096;

/// Checks tokens by asking the API server that issued them (TokenReview).
///
/// Its word about a token is kept for some seconds, by the token's hash. The pod that a token is bound to is looked up
/// each time: it must be there with the same UID, run, and run as the token's account. If the caller's address is known
/// to be another pod's, or that of another node, the token counts as stolen. An address that belongs to nobody known
/// proves nothing: networks may rewrite it.
pub struct TokenReviewer {
    client: Client,
    pods: Pods,
    audiences: Vec<String>,
    check_address: bool,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    known: HashMap<[u8; 32], (Reviewed, SystemTime)>,
    order: VecDeque<[u8; 32]>,
}

type Reviewed = Result<TokenSubject, TokenError>;

// === impl TokenReviewer ===

impl TokenReviewer {
    /// Takes tokens for one of these audiences (`TOKEN_AUDIENCES`; Istio's agents ask for `istio-ca`).
    #[must_use]
    pub fn new(client: Client, audiences: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            pods: Pods::new(client.clone()),
            client,
            audiences: audiences.into_iter().map(Into::into).collect(),
            check_address: true,
            cache: Mutex::default(),
        }
    }

    /// Takes tokens from anywhere: for networks in which a pod's address may reach Lateen as another pod's.
    #[must_use]
    pub fn without_address_check(mut self) -> Self {
        self.check_address = false;
        self
    }

    async fn check(&self, token: &str, from: Option<IpAddr>, now: SystemTime) -> Reviewed {
        let claims = Claims::read(token)?;
        claims.check(&self.audiences, now)?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let cached = self.lock().get(&hash, now);
        let subject = match cached {
            Some(reviewed) => reviewed?,
            None => {
                let reviewed = self.review(token, &claims).await;
                if !matches!(reviewed, Err(TokenError::Unavailable(_))) {
                    self.lock().put(hash, reviewed.clone(), now);
                }
                reviewed?
            }
        };
        if let Some(bound) = &subject.pod {
            let pod = self.bound_pod(&subject, bound).await?;
            if let Some(from) = from.filter(|_| self.check_address) {
                self.check_origin(&pod, from).await?;
            }
        }
        Ok(subject)
    }

    async fn review(&self, token: &str, claims: &Claims) -> Reviewed {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(self.audiences.clone()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(unavailable)?;
        let status = answer.status.unwrap_or_default();
        let user = match status.user {
            Some(user) if status.authenticated == Some(true) => user,
            _ => return Err(self.refusal(status.error.unwrap_or_default(), claims).await),
        };
        // A server that knows nothing of audiences would have looked at none.
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(TokenError::Audience {
                found: audiences,
                expected: self.audiences.clone(),
            });
        }
        subject(user, claims.issuer.clone())
    }

    /// The API server says the same of a token whose pod is gone and of one whose account is.
    async fn refusal(&self, error: String, claims: &Claims) -> TokenError {
        if error.contains("invalidated")
            && let (Some(namespace), Some((name, uid))) = (&claims.namespace, &claims.pod)
            && let Ok(None) = self.pods.running(namespace, name, uid).await
        {
            return TokenError::PodGone(format!("{namespace}/{name}"));
        }
        TokenError::Refused(if error.is_empty() {
            "without a reason".to_owned()
        } else {
            error
        })
    }

    async fn bound_pod(&self, subject: &TokenSubject, bound: &BoundPod) -> Result<PodFacts, TokenError> {
        let namespace = subject.namespace.as_str();
        let pod = self
            .pods
            .running(namespace, &bound.name, &bound.uid)
            .await
            .map_err(unavailable)?;
        let Some(pod) = pod else {
            return Err(TokenError::PodGone(format!("{namespace}/{}", bound.name)));
        };
        if pod.account != subject.service_account.as_str() {
            return Err(TokenError::PodAccount {
                pod: format!("{namespace}/{}", bound.name),
                found: pod.account,
            });
        }
        Ok(pod)
    }

    async fn check_origin(&self, pod: &PodFacts, from: IpAddr) -> Result<(), TokenError> {
        if pod.has(from) {
            return Ok(());
        }
        for owner in self.pods.at(from).await.map_err(unavailable)? {
            let owner = if !owner.host_network {
                if owner.uid == pod.uid {
                    continue;
                }
                format!("pod `{}/{}`", owner.namespace, owner.name)
            } else if owner.node == pod.node {
                // The node may stand for its pods.
                continue;
            } else {
                format!("node `{}`", owner.node.unwrap_or_default())
            };
            return Err(TokenError::Stolen {
                pod: format!("{}/{}", pod.namespace, pod.name),
                from,
                owner,
            });
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenVerifier for TokenReviewer {
    fn verify<'a>(
        &'a self,
        token: &'a str,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<TokenSubject, TokenError>> {
        self.check(token, from, now).boxed()
    }
}

// === impl Cache ===

impl Cache {
    fn get(&self, hash: &[u8; 32], now: SystemTime) -> Option<Reviewed> {
        let (reviewed, until) = self.known.get(hash)?;
        (now < *until).then(|| reviewed.clone())
    }

    fn put(&mut self, hash: [u8; 32], reviewed: Reviewed, now: SystemTime) {
        let until = now + if reviewed.is_ok() { GOOD_FOR } else { BAD_FOR };
        if self.known.insert(hash, (reviewed, until)).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > CACHED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

fn subject(user: UserInfo, issuer: String) -> Reviewed {
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let is_account = user.groups.iter().flatten().any(|group| group == ACCOUNTS_GROUP);
    let (Some((namespace, account)), true) = (account, is_account) else {
        return Err(TokenError::Subject(name));
    };
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
    Ok(TokenSubject {
        namespace: Namespace::new(namespace)?,
        service_account: ServiceAccount::new(account)?,
        issuer,
        pod: first(POD_NAME)
            .zip(first(POD_UID))
            .map(|(name, uid)| BoundPod { name, uid }),
    })
}

fn unavailable(error: kube::Error) -> TokenError {
    TokenError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_forgets_with_time_and_with_number() {
        let (mut cache, now) = (Cache::default(), SystemTime::UNIX_EPOCH);
        let refused = || Err(TokenError::Refused("no".to_owned()));
        cache.put([0; 32], refused(), now);
        assert_eq!(cache.get(&[0; 32], now), Some(refused()));
        assert_eq!(cache.get(&[0; 32], now + BAD_FOR), None);
        for count in 0..CACHED as u64 {
            let mut hash = [1; 32];
            hash[..8].copy_from_slice(&count.to_be_bytes());
            cache.put(hash, refused(), now);
        }
        assert_eq!(cache.get(&[0; 32], now), None);
        assert_eq!((cache.known.len(), cache.order.len()), (CACHED, CACHED));
    }

    #[test]
    fn only_service_accounts_are_subjects() {
        let user = |name: &str, group: &str| UserInfo {
            username: Some(name.to_owned()),
            groups: Some(vec![group.to_owned()]),
            ..UserInfo::default()
        };
        assert!(subject(user("system:serviceaccount:shop:cart", ACCOUNTS_GROUP), String::new()).is_ok());
        assert!(subject(user("system:serviceaccount:shop:cart", "people"), String::new()).is_err());
        assert!(subject(user("admin", ACCOUNTS_GROUP), String::new()).is_err());
    }
}
