//! Where packets with TPROXY's mark go: to this machine, whatever their destination. Asked of the kernel over rtnetlink,
//! because an image that has iptables need not have ip.

use std::io;

use anyhow::Context as _;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

use super::rule::Family;

/// Message types and flags of `linux/rtnetlink.h`, `linux/netlink.h` and `linux/fib_rules.h`.
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const REQUEST_AND_ANSWER: u16 = 1 | 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
/// Attributes: of a route, its interface; of a rule, its mark; of both, their table.
const ROUTE_INTERFACE: u16 = 4;
const RULE_MARK: u16 = 10;
const TABLE: u16 = 15;
/// A route to this machine, known to this machine alone, made by an administrator.
const LOCAL: u8 = 2;
const HOST: u8 = 254;
const BOOT: u8 = 3;
/// A rule that looks into a table.
const LOOK_UP: u8 = 1;
/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// More equal rules than anybody leaves behind.
const MAXIMUM_RULES: usize = 64;

/// A route for everything to loopback in a table.
fn route(family: Family, table: u32) -> Vec<u8> {
    let header = [number(family), 0, 0, 0, 0, BOOT, HOST, LOCAL, 0, 0, 0, 0];
    [
        &header[..],
        &attribute(TABLE, table),
        &attribute(ROUTE_INTERFACE, LOOPBACK),
    ]
    .concat()
}

/// A rule that has packets with a mark look into a table.
fn rule(family: Family, mark: u32, table: u32) -> Vec<u8> {
    let header = [number(family), 0, 0, 0, 0, 0, 0, LOOK_UP, 0, 0, 0, 0];
    [&header[..], &attribute(RULE_MARK, mark), &attribute(TABLE, table)].concat()
}

fn number(family: Family) -> u8 {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    u8::try_from(family.as_raw()).unwrap_or_default()
}

fn attribute(kind: u16, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&8_u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

/// Adds rule and route, or leaves them as they are.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn add(family: Family, mark: u32, table: u32) -> anyhow::Result<()> {
    let what = || format!("TPROXY's route, table {table}");
    ask(NEW_ROUTE, CREATE | REPLACE, &route(family, table)).with_context(what)?;
    // The kernel takes any number of equal rules: what a former run left goes first.
    remove_rules(family, mark, table);
    ask(NEW_RULE, CREATE, &rule(family, mark, table)).with_context(|| format!("TPROXY's rule for mark {mark}"))
}

fn remove_rules(family: Family, mark: u32, table: u32) {
    for _ in 0..MAXIMUM_RULES {
        if let Err(error) = ask(DELETE_RULE, 0, &rule(family, mark, table)) {
            tracing::debug!(%error, mark, table, "no more rule of TPROXY");
            return;
        }
    }
}

/// Takes away what is there; without TPROXY before there is nothing.
pub(super) fn remove(family: Family, mark: u32, table: u32) {
    remove_rules(family, mark, table);
    if let Err(error) = ask(DELETE_ROUTE, 0, &route(family, table)) {
        tracing::debug!(%error, table, "no route of TPROXY");
    }
}

/// Sends one message and reads the kernel's answer.
fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    const HEADER: usize = 16;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(REQUEST_AND_ANSWER | flags).to_ne_bytes());
    // Sequence and sender: there is one question on this socket, and the kernel knows the socket.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    // Protocol zero is routing.
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (received, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let field = |from: usize| {
        answer[..received]
            .get(from..from + 4)
            .and_then(|bytes| bytes.try_into().ok())
    };
    let (Some(second), Some(code)) = (field(4), field(HEADER)) else {
        return Err(io::Error::other("the kernel's answer is cut off"));
    };
    let second: [u8; 4] = second;
    if u16::from_ne_bytes([second[0], second[1]]) != ERROR {
        return Err(io::Error::other("the kernel answers something else"));
    }
    // An error of zero is an acknowledgement.
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}
