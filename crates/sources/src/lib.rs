//! Everything read from outside, as typed events: files, JWKS, the Kubernetes API.
//!
//! Sources decode and compare; what objects mean is `lower`'s business.

pub mod file;
mod holdover;
pub mod jwks;
pub mod kube;
mod update;

pub use holdover::hold_over;
pub use update::{Problem, Severity, Update};
