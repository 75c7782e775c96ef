//! How often a caller may ask: more than any agent needs, and not enough to keep the authority busy.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lateen_names::SpiffeId;
use tonic::Status;

use crate::authenticate::{Caller, Proof};

/// Callers that are remembered; beyond, new ones share one allowance.
const REMEMBERED: usize = 50_000;

/// An allowance: this many at once, and one more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many may be asked for at once.
    pub burst: u32,
    /// After how long another one may be.
    pub every: Duration,
}

impl Allowance {
    /// Certificates of one caller: an agent asks twice a day; one that restarts again and again, some times a minute.
    pub const CERTIFICATES: Self = Self {
        burst: 30,
        every: Duration::from_secs(2),
    };
    /// Tokens from one address that prove nothing.
    pub const FAILURES: Self = Self {
        burst: 100,
        every: Duration::from_millis(100),
    };
}

/// The trailer that tells a gRPC client when to try again (gRPC's retry design, A6).
const RETRY_AFTER: &str = "grpc-retry-pushback-ms";

/// A refusal that says when to come again.
pub(crate) fn too_often(message: String, wait: Duration) -> Status {
    let mut status = Status::resource_exhausted(message);
    if let Ok(wait) = wait.as_millis().to_string().parse() {
        status.metadata_mut().insert(RETRY_AFTER, wait);
    }
    status
}

/// Who asks for what, as far as allowances go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asking {
    caller: SpiffeId,
    /// The UID of the caller's pod, or its address.
    place: String,
    wanted: SpiffeId,
}

/// What is left of callers' allowances of certificates: of a pod, where its token is bound to one, else of an identity at an
/// address; for each identity that a node proxy asks for, an allowance of its own.
#[derive(Debug)]
pub(crate) struct Gate(Buckets<Asking>);

/// What is left of addresses' allowances of tokens that prove nothing.
#[derive(Debug)]
pub(crate) struct Failures(Buckets<IpAddr>);

// === impl Asking ===

impl Asking {
    pub(crate) fn new(caller: &Caller, wanted: &SpiffeId, from: Option<IpAddr>) -> Self {
        let place = match &caller.proof {
            Proof::Token { pod: Some(pod), .. } => pod.uid.clone(),
            _ => from.map(|from| network(from).to_string()).unwrap_or_default(),
        };
        Self {
            caller: caller.identity.clone(),
            place,
            wanted: wanted.clone(),
        }
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self(Buckets::new(allowance))
    }

    /// Takes one from the caller's allowance.
    ///
    /// # Errors
    /// When nothing is left: in how long something is.
    pub(crate) fn admit(&self, asking: Asking, now: SystemTime) -> Result<(), Duration> {
        self.0.take(asking, now, true)
    }
}

// === impl Failures ===

impl Failures {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self(Buckets::new(allowance))
    }

    /// Whether an address may still try to prove something.
    ///
    /// # Errors
    /// When it has failed too often: in how long it may.
    pub(crate) fn may_try(&self, from: IpAddr, now: SystemTime) -> Result<(), Duration> {
        self.0.take(network(from), now, false)
    }

    /// An address has failed to prove anything.
    pub(crate) fn failed(&self, from: IpAddr, now: SystemTime) {
        // How much is left shows at the next attempt.
        let _ = self.0.take(network(from), now, true);
    }
}

/// Who is counted as one caller: an address, or of an IPv6 address its network of 64 bits, since who has one has all of it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        other => other,
    }
}

/// Allowances by key. Only what has been taken is remembered: the time at which all of it will be there again.
#[derive(Debug)]
struct Buckets<K> {
    allowance: Allowance,
    full_at: Mutex<HashMap<Option<K>, SystemTime>>,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            full_at: Mutex::default(),
        }
    }

    fn take(&self, key: K, now: SystemTime, really: bool) -> Result<(), Duration> {
        let Allowance { burst, every } = self.allowance;
        if every.is_zero() {
            return Ok(());
        }
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = Some(key);
        if all.len() >= REMEMBERED && !all.contains_key(&key) {
            all.retain(|_, full_at| *full_at > now);
            if all.len() >= REMEMBERED {
                key = None;
            }
        }
        // Beyond what clocks can say, there is no limit.
        let Some(most) = now.checked_add(every.saturating_mul(burst)) else {
            return Ok(());
        };
        // A time that lies further ahead was written before the clock was set back: it must not lock anybody out.
        let full_at = all.get(&key).copied().filter(|at| *at <= most).unwrap_or(now).max(now);
        let Some(after) = full_at.checked_add(every) else {
            return Ok(());
        };
        if let Ok(missing) = after.duration_since(most)
            && !missing.is_zero()
        {
            return Err(missing);
        }
        if really {
            all.insert(key, after);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn buckets() -> Buckets<u32> {
        Buckets::new(Allowance {
            burst: 3,
            every: SECOND,
        })
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let (buckets, start) = (buckets(), SystemTime::UNIX_EPOCH + 1000 * SECOND);
        for _ in 0..3 {
            assert_eq!(buckets.take(1, start, true), Ok(()));
        }
        assert_eq!(buckets.take(1, start, true), Err(SECOND));
        assert_eq!(buckets.take(1, start + SECOND / 2, false), Err(SECOND / 2));
        assert_eq!(buckets.take(2, start, true), Ok(()), "another one's");
        assert_eq!(buckets.take(1, start + SECOND, false), Ok(()));
        assert_eq!(buckets.take(1, start + SECOND, true), Ok(()));
        assert_eq!(buckets.take(1, start + SECOND, true), Err(SECOND));
        // The clock is set back: nobody waits until it is where it was.
        assert_eq!(buckets.take(1, start - 900 * SECOND, true), Ok(()));
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let (buckets, start) = (buckets(), SystemTime::UNIX_EPOCH);
        let many = u32::try_from(REMEMBERED).unwrap();
        for key in 0..many + 3 {
            assert_eq!(buckets.take(key, start, true), Ok(()), "{key}");
        }
        assert_eq!(
            buckets.take(many + 4, start, true),
            Err(SECOND),
            "new ones share what is left"
        );
        assert!(buckets.full_at.lock().unwrap().len() <= REMEMBERED + 1);
        assert_eq!(buckets.take(many + 5, start + 2 * SECOND, true), Ok(()));
        assert_eq!(
            buckets.full_at.lock().unwrap().len(),
            2,
            "those that are full again are forgotten"
        );
    }

    #[test]
    fn an_ipv6_network_is_one_caller() {
        let network = |ip: &str| network(ip.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(network("::1"), "::1");
    }
}
