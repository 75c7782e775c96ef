//! Streams over real sockets: the server with its own client, with the generated client, and with real Envoy.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails panics, in its helpers too"
)]

mod envoy;
mod fixture;
mod live;
mod messages;
mod server;
