//! WebAssembly modules for Envoy, which cannot fetch them itself: it knows no registries, and a module must be there
//! before traffic is. Configurations of filters that name a module by URL are rewritten, on their way to Envoy, to name
//! a file that the agent has fetched and checked.
//!
//! A module that cannot be had is replaced by a filter that refuses everything, or by one that does nothing where the
//! user says `FAIL_OPEN`, and is tried again until it is there.

mod archive;
mod cache;
mod config;
mod convert;
mod fetch;
mod registry;
#[cfg(test)]
mod tests;

pub(crate) use config::WasmConfig;
pub(crate) use convert::{Converted, Failed, Modules, TYPE};
