//! Connections of callers who have not proved anything yet: few at once, few from one address, and for a short time.
//!
//! Where all places are taken, the next callers wait until one is free: thousands of proxies may come at once, and each is
//! known within milliseconds. Who has all places of their own address is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use lateen_ca::network;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Strangers at one port.
const ALL: usize = 4096;
/// Strangers from one address.
const OF_ADDRESS: usize = 512;

/// The strangers at a port.
#[derive(Debug)]
pub(crate) struct Strangers {
    all: Arc<Semaphore>,
    of_address: Arc<OfAddress>,
}

/// By [`network`].
#[derive(Debug)]
struct OfAddress {
    most: usize,
    /// Whether callers on this machine are counted, too.
    loopback: bool,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A stranger's place. Dropped when they are known, or gone.
#[derive(Debug)]
pub(crate) struct Place {
    _room: OwnedSemaphorePermit,
    counted: Option<(Arc<OfAddress>, IpAddr)>,
}

impl Strangers {
    /// `of_address` strangers from one address; where that is not given, as many as anybody needs, and from this machine
    /// any number.
    pub(crate) fn new(of_address: Option<usize>) -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            of_address: Arc::new(OfAddress {
                most: of_address.unwrap_or(OF_ADDRESS),
                loopback: of_address.is_some(),
                counts: Mutex::default(),
            }),
        }
    }

    /// Waits until there is room for one more; nothing when there never is.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// A place for a caller from there, if its address has one left.
    pub(crate) fn admit(&self, room: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = network(address);
        if address.is_loopback() && !self.of_address.loopback {
            return Some(Place {
                _room: room,
                counted: None,
            });
        }
        let mut counts = self.of_address.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let from_there = counts.get(&address).copied().unwrap_or_default();
        if from_there >= self.of_address.most {
            return None;
        }
        counts.insert(address, from_there + 1);
        Some(Place {
            _room: room,
            counted: Some((Arc::clone(&self.of_address), address)),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((of, address)) = &self.counted else { return };
        let mut counts = of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_few_and_come_back() {
        let strangers = Strangers::new(Some(2));
        let admit = async |address: &str| {
            let room = strangers.room().await.unwrap();
            strangers.admit(room, address.parse().unwrap())
        };
        let first = admit("10.0.0.1").await.unwrap();
        let second = admit("::ffff:10.0.0.1").await.unwrap();
        assert!(admit("10.0.0.1").await.is_none(), "no more from one address");
        let other = admit("2001:db8::1").await.unwrap();
        drop(first);
        let again = admit("10.0.0.1").await.unwrap();
        assert_eq!(
            strangers.all.available_permits(),
            ALL - 3,
            "who is refused takes no place"
        );
        drop((second, other, again));
        assert!(strangers.of_address.counts.lock().unwrap().is_empty());
        assert_eq!(strangers.all.available_permits(), ALL);
    }

    #[tokio::test]
    async fn this_machine_is_not_counted_unless_asked_for() {
        for (of_address, all_in) in [(None, true), (Some(1), false)] {
            let strangers = Strangers::new(of_address);
            let mut held = Vec::new();
            for _ in 0..=OF_ADDRESS {
                let room = strangers.room().await.unwrap();
                held.extend(strangers.admit(room, "127.0.0.1".parse().unwrap()));
            }
            assert_eq!(held.len() > OF_ADDRESS, all_in);
        }
    }
}
