//! The configuration of the whole mesh, as the ConfigMap `istio` holds it: MeshConfig, the ProxyConfig in it, MeshNetworks.
//!
//! Unlike custom resources these are not checked by an API server, so field names in snake case and numbers in quotes
//! are read as well (use [`crate::decode_proto`]), and unknown fields are reported but never refused.

pub mod config;
pub mod extension_provider;
pub mod networks;
pub mod proxy_config;

mod defaults;
mod merge;

pub use self::config::MeshConfig;
pub use self::extension_provider::ExtensionProvider;
pub use self::networks::MeshNetworks;
pub use self::proxy_config::ProxyConfig;
