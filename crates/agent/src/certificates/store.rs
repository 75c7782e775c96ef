//! The secrets that the agent has, by the names under which Envoy asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lateen_pki::{Certificate, PrivateKey, TrustBundle};
use lateen_proto::Any;
use lateen_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use lateen_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{Identity, ROOTS, WORKLOAD, pem};

/// Names that Envoy may ask for at most: the control plane chooses them, and each costs a look at a file.
const MAXIMUM_NAMES: usize = 1000;

/// What a secret holds. Has no `Debug`: it may hold a private key.
#[derive(Clone)]
pub(crate) enum Content {
    /// A certificate chain and its key.
    KeyPair {
        /// PEM.
        chain: String,
        key: Arc<PrivateKey>,
    },
    /// Roots, PEM.
    Roots(String),
    /// Roots, and what is revoked of theirs, PEM.
    RootsWithRevoked(String, String),
}

/// A secret as SDS sends it. Has no `Debug`: its bytes may hold a private key.
#[derive(Clone)]
pub(crate) struct Secret {
    /// Grows with each change of this secret.
    pub(crate) version: u64,
    encoded: Zeroizing<Vec<u8>>,
}

/// Clones share the secrets.
#[derive(Clone)]
pub(crate) struct SecretStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    wanted: watch::Sender<BTreeSet<String>>,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Secret>,
    identity: Option<Arc<Identity>>,
    /// Roots that came with the workload's certificate.
    issued_roots: TrustBundle,
    /// Roots that the control plane keeps in a file for everybody.
    mesh_roots: Vec<Certificate>,
    /// What is revoked, PEM; empty where nothing is.
    revoked: String,
}

// === impl Secret ===

impl Secret {
    /// For a discovery response.
    pub(crate) fn any(&self) -> Any {
        Any {
            type_url: lateen_proto::type_url::<tls::Secret>(),
            value: self.encoded.to_vec(),
        }
    }
}

// === impl SecretStore ===

impl SecretStore {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            wanted: watch::Sender::new(BTreeSet::new()),
        }))
    }

    /// The secret of this name, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<Secret> {
        self.state().secrets.get(name).cloned()
    }

    /// Wakes at each change of any secret.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Somebody asks for this name; secrets in files are read from now on. Returns whether the name is one of a file,
    /// one of the workload's, or already there.
    pub(crate) fn want(&self, name: &str) -> bool {
        if name == WORKLOAD || name == ROOTS {
            return true;
        }
        if !super::files::is_file_name(name) {
            return self.state().secrets.contains_key(name);
        }
        let known = self.0.wanted.borrow().contains(name);
        if !known && self.0.wanted.borrow().len() >= MAXIMUM_NAMES {
            tracing::warn!(
                name,
                limit = MAXIMUM_NAMES,
                "too many secrets from files, this one is not served"
            );
            return false;
        }
        if !known {
            self.0.wanted.send_modify(|names| {
                names.insert(name.to_owned());
            });
        }
        true
    }

    /// The names of files that were asked for.
    pub(super) fn wanted(&self) -> watch::Receiver<BTreeSet<String>> {
        self.0.wanted.subscribe()
    }

    /// Puts a secret in place of the one of that name.
    pub(crate) fn publish(&self, name: &str, content: &Content) {
        {
            let mut state = self.state();
            publish(&mut state, name, content);
        }
        self.notify();
    }

    /// A new certificate of the workload, with its roots.
    pub(crate) fn set_identity(&self, identity: Identity, roots: TrustBundle) {
        {
            let mut state = self.state();
            let content = Content::KeyPair {
                chain: pem(&identity.chain),
                key: Arc::clone(&identity.key),
            };
            state.identity = Some(Arc::new(identity));
            state.issued_roots = roots;
            publish(&mut state, WORKLOAD, &content);
            publish_roots(&mut state);
        }
        self.notify();
    }

    /// The roots that the control plane keeps in a file have changed.
    pub(super) fn set_mesh_roots(&self, roots: Vec<Certificate>) {
        {
            let mut state = self.state();
            state.mesh_roots = roots;
            publish_roots(&mut state);
        }
        self.notify();
    }

    /// What is revoked has changed: lists in PEM, or nothing.
    pub(super) fn set_revoked(&self, lists: String) {
        {
            let mut state = self.state();
            state.revoked = lists;
            publish_roots(&mut state);
        }
        self.notify();
    }

    /// The workload's certificate, if the CA has issued one.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.state().identity.clone()
    }

    /// Waits for the CA's first certificate, not longer than `patience`.
    pub(crate) async fn first_identity(&self, patience: std::time::Duration) {
        let mut changes = self.changes();
        let came = async { while self.identity().is_none() && changes.changed().await.is_ok() {} };
        // Without one the caller proves itself otherwise.
        let _ = tokio::time::timeout(patience, came).await;
    }

    /// What workloads are verified against.
    pub(crate) fn roots(&self) -> TrustBundle {
        all_roots(&self.state())
    }

    /// When the workload's certificate ends.
    pub(crate) fn expiry(&self) -> Option<std::time::SystemTime> {
        self.state()
            .identity
            .as_ref()
            .map(|identity| identity.validity.not_after)
    }

    /// Names and versions, for people.
    pub(crate) fn versions(&self) -> BTreeMap<String, u64> {
        self.state()
            .secrets
            .iter()
            .map(|(name, secret)| (name.clone(), secret.version))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.0.changed.send_modify(|generation| *generation += 1);
    }
}

fn publish(state: &mut State, name: &str, content: &Content) {
    let encoded = encode(name, content);
    let old = state.secrets.get(name);
    if old.is_some_and(|old| *old.encoded == *encoded) {
        return;
    }
    let version = old.map_or(1, |old| old.version + 1);
    state.secrets.insert(name.to_owned(), Secret { version, encoded });
}

fn publish_roots(state: &mut State) {
    let roots = all_roots(state);
    if roots.roots().is_empty() {
        return;
    }
    let content = match state.revoked.is_empty() {
        true => Content::Roots(roots.pem()),
        false => Content::RootsWithRevoked(roots.pem(), state.revoked.clone()),
    };
    publish(state, ROOTS, &content);
}

/// The issued roots, and with them those of the mesh's file when it is a file of the same mesh: it has at least one root
/// in common. So a root that is being introduced is trusted before anybody's certificate is renewed, while a file that
/// only authenticates the control plane adds nothing.
fn all_roots(state: &State) -> TrustBundle {
    let mut roots = state.issued_roots.clone();
    if state.mesh_roots.iter().any(|root| roots.roots().contains(root)) {
        for root in &state.mesh_roots {
            roots.add(root.clone());
        }
    }
    roots
}

fn encode(name: &str, content: &Content) -> Zeroizing<Vec<u8>> {
    use prost::Message as _;
    let inline = |bytes: &[u8]| {
        let specifier = Specifier::InlineBytes(Bytes::copy_from_slice(bytes));
        Some(DataSource {
            specifier: Some(specifier),
            ..Default::default()
        })
    };
    let kind = match content {
        Content::KeyPair { chain, key } => tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: inline(chain.as_bytes()),
            private_key: inline(key.expose_pem().as_bytes()),
            ..Default::default()
        }),
        Content::Roots(roots) => tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
            trusted_ca: inline(roots.as_bytes()),
            ..Default::default()
        }),
        Content::RootsWithRevoked(roots, lists) => {
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: inline(roots.as_bytes()),
                crl: inline(lists.as_bytes()),
                ..Default::default()
            })
        }
    };
    let secret = tls::Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    };
    Zeroizing::new(secret.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lateen_pki::{Serial, SigningCa, Validity};

    use super::*;

    fn ca(serial: u8) -> SigningCa {
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
        SigningCa::self_signed(
            &"cluster.local".parse().unwrap(),
            PrivateKey::generate().unwrap(),
            validity,
            Serial::new([serial; 16]),
        )
        .unwrap()
    }

    fn root(ca: &SigningCa) -> Certificate {
        ca.roots().roots()[0].clone()
    }

    #[test]
    fn the_mesh_file_adds_roots_only_when_it_is_of_the_same_mesh() {
        let (old, new, other) = (ca(1), ca(2), ca(3));
        let mut state = State {
            issued_roots: TrustBundle::new([root(&old)]),
            ..State::default()
        };
        state.mesh_roots = vec![root(&other)];
        assert_eq!(all_roots(&state).roots(), [root(&old)]);
        state.mesh_roots = vec![root(&old), root(&new)];
        assert_eq!(all_roots(&state).roots(), [root(&old), root(&new)]);
    }

    #[test]
    fn what_is_revoked_goes_with_the_roots() {
        use prost::Message as _;
        let mut state = State {
            issued_roots: TrustBundle::new([root(&ca(1))]),
            ..State::default()
        };
        let sent = |state: &State| {
            let secret = tls::Secret::decode(state.secrets[ROOTS].encoded.as_slice()).unwrap();
            let Some(tls::secret::Type::ValidationContext(context)) = secret.r#type else {
                panic!("no validation context");
            };
            assert!(context.trusted_ca.is_some());
            context.crl.and_then(|crl| crl.specifier)
        };
        publish_roots(&mut state);
        assert_eq!(sent(&state), None);
        state.revoked = "lists".to_owned();
        publish_roots(&mut state);
        assert_eq!(sent(&state), Some(Specifier::InlineBytes(Bytes::from_static(b"lists"))));
        state.revoked = String::new();
        publish_roots(&mut state);
        assert_eq!(sent(&state), None);
    }

    #[test]
    fn equal_content_is_no_change() {
        let store = SecretStore::new();
        let content = Content::Roots(root(&ca(1)).pem());
        store.publish(ROOTS, &content);
        store.publish(ROOTS, &content);
        assert_eq!(store.versions()[ROOTS], 1);
        store.publish(ROOTS, &Content::Roots(root(&ca(2)).pem()));
        assert_eq!(store.versions()[ROOTS], 2);
    }
}
