//! Public keys of token issuers, which somebody fetches: the index is told of them and inlines them into the
//! RequestAuthentications that name where they are published. Nothing here fetches.
//!
//! Whoever never tells of keys, as when configuration is rendered offline, has rules without them: proxies then refuse
//! these issuers' tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use lateen_model::policy::KeySource;

/// What is known of the keys at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedKeys {
    /// The last keys that were had (RFC 7517), if any were.
    pub keys: Option<Arc<str>>,
    /// Why the last attempt failed, if it did; without anything that differs from one attempt to the next.
    pub problem: Option<Arc<str>>,
}

/// What is known of the keys at one place is now this; nothing when nobody asks for them any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysEvent {
    /// Where they are published.
    pub source: KeySource,
    /// What is known.
    pub fetched: Option<FetchedKeys>,
}

/// All keys that the index has been told of.
pub type Fetched = BTreeMap<KeySource, FetchedKeys>;
