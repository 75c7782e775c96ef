//! Everything read from outside, as typed events: files, JWKS, the Kubernetes API.
//!
//! Sources decode and compare; what objects mean is `lower`'s business.

pub mod file;
pub mod kube;
mod update;

pub use update::{Problem, Severity, Update};
