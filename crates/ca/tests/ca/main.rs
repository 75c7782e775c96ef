//! The CA as its users meet it: a real server with real TLS, real files, tokens and certificates.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod authenticate;
mod directory;
mod gate;
mod revoked;
mod rotation;
mod service;
mod support;
mod tokens;
