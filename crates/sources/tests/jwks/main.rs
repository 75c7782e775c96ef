//! Fetching issuers' keys, against real servers that behave and that do not.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod hostile;
mod issuer;
mod polling;
mod tls;
