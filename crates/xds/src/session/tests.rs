//! Sessions against a fake proxy, without I/O.

mod demand;
mod dialects;
mod histories;
mod order;
mod proxy;

use std::sync::Arc;

use crate::{Resource, ResourceSet, Wanted};

/// What should be held: by type, names with bodies.
fn wanted(snapshot: u64, sets: &[(&str, &[(&str, &str)])]) -> Arc<Wanted> {
    let set = |names: &[(&str, &str)]| -> ResourceSet {
        names
            .iter()
            .map(|(name, body)| Resource::new(*name, body.as_bytes().to_vec().into()))
            .collect::<ResourceSet>()
            .shared()
    };
    Arc::new(Wanted {
        snapshot,
        version: Arc::from(format!("v{snapshot}")),
        changed_at: None,
        sets: sets.iter().map(|(url, names)| (Arc::from(*url), set(names))).collect(),
        ..Wanted::default()
    })
}
