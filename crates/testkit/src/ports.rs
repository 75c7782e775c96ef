//! Ports for processes that must be told theirs, and that come back on the same one.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// Below the range from which Linux takes the ports of outgoing connections: under load, those would take a port while
/// its owner is being started again.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port on which nothing listens, and which no other call in this process returns.
///
/// # Errors
/// When all are taken.
pub fn free() -> Result<u16> {
    // Test binaries that run at once begin at different places.
    let start = std::process::id().wrapping_mul(131);
    (0..COUNT)
        .filter_map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            u16::try_from(FIRST + start.wrapping_add(step) % COUNT).ok()
        })
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .context("no port is free")
}
