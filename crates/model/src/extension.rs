//! What users put into the filter chains of proxies: WebAssembly modules and Lua scripts.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_names::Name;

use crate::policy::{Scope, TelemetryMode};

/// A TrafficExtension, or a WasmPlugin, which is an older form of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extension {
    /// Where it holds.
    pub scope: Scope,
    /// `<namespace>.<name>`, by which proxies know it.
    pub name: Arc<str>,
    /// Where it goes in the order of filters.
    pub phase: Phase,
    /// Higher ones come earlier within a phase; those without come last.
    pub priority: Option<i32>,
    /// The traffic, of which one entry must match; all when empty.
    pub matches: Vec<TrafficMatch>,
    /// What it runs.
    pub runs: Runs,
}

/// Where an extension goes in the order of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Phase {
    /// After all others that decide who may pass.
    #[default]
    Unspecified,
    /// Before tokens are checked.
    Authn,
    /// Before authorization.
    Authz,
    /// After authorization.
    Stats,
}

/// Traffic that an extension is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrafficMatch {
    /// Side of the proxy; a gateway is a client.
    pub mode: TelemetryMode,
    /// Ports of services for clients, of the workload for servers; all when empty.
    pub ports: Vec<u16>,
}

/// What an extension runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Runs {
    /// A WebAssembly module.
    Wasm(Box<Wasm>),
    /// A Lua script, which handles HTTP.
    Lua(Arc<str>),
}

/// A WebAssembly module and its settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wasm {
    /// Whether it handles streams of bytes rather than HTTP.
    pub network: bool,
    /// The name that the module knows itself by.
    pub root_id: Arc<str>,
    /// Where the module is.
    pub code: Code,
    /// The Secret with credentials for the registry, in the namespace of the object.
    pub pull_secret: Option<Name>,
    /// When it is fetched again: `IfNotPresent` or `Always`.
    pub pull_policy: Option<&'static str>,
    /// Changes with the object, so that `Always` means once for each form of it.
    pub version: Arc<str>,
    /// Variables of the module's environment.
    pub env: BTreeMap<Arc<str>, Arc<str>>,
    /// Variables that it gets of the proxy's environment.
    pub host_env: Vec<Arc<str>>,
    /// Its configuration, as JSON.
    pub configuration: Option<Arc<str>>,
    /// What becomes of traffic when it fails.
    pub on_failure: OnFailure,
}

/// Where a module is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Code {
    /// In a file of the proxy.
    File(Arc<str>),
    /// Behind a URL of `oci`, `http` or `https`.
    Remote {
        /// The URL.
        url: Arc<str>,
        /// SHA-256 in hexadecimal; empty for any.
        sha256: Arc<str>,
    },
}

/// What becomes of traffic when a module fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum OnFailure {
    /// It is refused.
    #[default]
    Close,
    /// It passes without the module.
    Open,
    /// The module is started again; if that fails, it is refused.
    Reload,
}

impl Extension {
    /// Whether it handles streams of bytes.
    pub fn is_network(&self) -> bool {
        matches!(&self.runs, Runs::Wasm(wasm) if wasm.network)
    }

    /// The module, if it runs one.
    pub fn wasm(&self) -> Option<&Wasm> {
        match &self.runs {
            Runs::Wasm(wasm) => Some(wasm),
            Runs::Lua(_) => None,
        }
    }

    /// Whether some traffic on a side of proxies may be for it: the inbound side of sidecars, or any other.
    pub fn may_concern(&self, inbound: bool) -> bool {
        let other = if inbound {
            TelemetryMode::Client
        } else {
            TelemetryMode::Server
        };
        self.matches.is_empty() || self.matches.iter().any(|matched| matched.mode != other)
    }

    /// Whether it is for the traffic on a side at a port; 0 stands for traffic whose port is not known.
    pub fn concerns(&self, inbound: bool, port: u16) -> bool {
        let other = if inbound {
            TelemetryMode::Client
        } else {
            TelemetryMode::Server
        };
        let here = |matched: &TrafficMatch| {
            matched.mode != other && (matched.ports.is_empty() || (port != 0 && matched.ports.contains(&port)))
        };
        self.matches.is_empty() || self.matches.iter().any(here)
    }
}
