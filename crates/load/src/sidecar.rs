//! A sidecar as a control plane sees it: what it says of itself, what it asks for, and that it takes whatever comes.
//!
//! It keeps no resource, only which of them it holds that lead to others, as bits in a set: what they are called and what
//! they lead to is known once, for all sidecars ([`catalog`]). So thousands of sidecars fit into one process.

pub(crate) mod catalog;
pub(crate) mod connection;
mod follow;
mod names;
pub(crate) mod node;
pub(crate) mod session;
pub(crate) mod wire;
