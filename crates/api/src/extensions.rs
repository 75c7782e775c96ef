//! The kinds of group `extensions.istio.io`.

pub mod traffic_extension;
pub mod wasm;
pub mod wasm_plugin;

pub use self::traffic_extension::{TrafficExtension, TrafficExtensionSpec};
pub use self::wasm_plugin::{WasmPlugin, WasmPluginSpec};
