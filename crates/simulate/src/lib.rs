//! What one proxy does with a request, told from its configuration alone, hop by hop and with reasons.
//!
//! [`Proxy::decode`] takes the resources that an Envoy holds; [`simulate`] follows a [`Request`] through them as Envoy
//! would: listener, filter chain, filters, virtual host, route, cluster, endpoint. Rules are those of Envoy's
//! documentation, never those of Istio's objects, so that a wrong configuration shows as what it does.
//!
//! What is left to chance (weights, faults for a share of requests) comes out as several [`Outcome`]s with their shares.
//! What depends on more than configuration and request is said in the notes of a step: filters that are not simulated are
//! named, and passed as if they let everything through.

#![expect(deprecated, reason = "Envoy obeys its older fields, so they are looked at")]

mod action;
mod chain;
mod connection;
mod exchange;
mod fault;
mod headers;
mod http;
mod jwt;
mod listener;
mod matching;
mod path;
mod proxy;
mod rbac;
mod request;
mod route;
mod trace;
mod upstream;

pub use connection::simulate;
pub use headers::{HeaderChange, Headers};
pub use proxy::{DecodeError, Proxy};
pub use request::{Connection, Entry, Http, Request, Tls, Version};
pub use trace::{
    Answer, Beaten, Delay, Forward, HttpForward, Kind, Mirror, Outcome, Place, Retries, Step, Trace, Verdict,
};
pub use upstream::{Endpoint, Transport, Upstream};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
