//! Istio's own kinds, one module per kind. Each lowers one object:
//!
//! ```text
//! // destination_rule.rs
//! pub fn lower(object: &lateen_api::…::DestinationRule, meta: &Meta, ctx: &Context<'_>, diags: &mut Vec<Diagnostic>)
//!     -> lateen_model::destination::DestinationRule
//! ```
//!
//! - pure, total: what is wrong becomes a diagnostic and the fixed replacement of it, never a panic or an error;
//! - depends on the object and the [`Context`](crate::Context) only. `meta` is the object's checked identity
//!   ([`Meta`](crate::context::Meta), made by `Index`); use `ctx.host`, `ctx.export_to`;
//! - `virtual_service::lower` takes one argument more, `delegates: &dyn Fn(&ObjectKey) -> Option<&VirtualService>`, to
//!   merge delegates in; it returns `None` for a VirtualService that is a delegate itself (no hosts).
//!   `virtual_service::delegates(object, meta) -> Vec<ObjectKey>` lists what it would ask for, so that `Index` knows
//!   which VirtualServices to lower again when a delegate changes;
//! - modules: `virtual_service`, `destination_rule`, `gateway`, `sidecar`, `peer_authentication`,
//!   `request_authentication`, `authorization_policy`, `telemetry`, `envoy_filter`,
//!   `extension`;
//! - `Index` calls them in `index/config.rs`, one line per kind: add the line there with the module.

pub mod analysis;
pub mod authorization_policy;
pub mod destination_rule;
pub mod envoy_filter;
pub mod extension;
pub mod gateway;
pub mod peer_authentication;
pub mod request_authentication;
pub mod sidecar;
pub mod telemetry;
pub mod virtual_service;

pub(crate) mod report;
mod scope;
