//! How modules may be fetched, by pilot-agent's variables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;

use crate::config::Environment;

/// Where modules are kept, within the folder that injection gives the agent.
const FOLDER: &str = "./var/lib/istio/data/wasm";
/// Metadata services of clouds outside the link-local range: AWS over IPv6, Alibaba Cloud, Oracle Cloud.
const METADATA: [&str; 3] = ["fd00:ec2::254", "100.100.100.200", "192.0.0.192"];

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct WasmConfig {
    /// Where modules are kept.
    pub(crate) folder: PathBuf,
    /// Hosts that may be asked without TLS (registries), or whose certificate is not verified (`https`); `*` for all.
    pub(crate) insecure: BTreeSet<String>,
    /// After this time without use a module is forgotten.
    pub(crate) expiry: Duration,
    /// For one request.
    pub(crate) request_timeout: Duration,
    /// Attempts at most.
    pub(crate) attempts: usize,
    /// Bytes of the largest module.
    pub(crate) largest: usize,
    /// Addresses that are not asked, beside those of metadata services.
    pub(crate) blocked: Vec<IpNet>,
}

impl WasmConfig {
    /// Reads the variables; none when the agent is to leave modules to Envoy.
    ///
    /// # Errors
    /// When a value cannot be read; the message names the variable.
    pub(crate) fn load(environment: &Environment) -> anyhow::Result<Option<Self>> {
        if !environment.flag("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", true)? {
            return Ok(None);
        }
        let list = |name: &str| -> Vec<String> {
            let texts = environment.get(name).unwrap_or_default().split(',');
            texts
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect()
        };
        const BLOCKED: &str = "BLOCKED_CIDRS_IN_WASM_FETCH";
        let blocked = list(BLOCKED);
        let blocked = blocked
            .iter()
            .map(|text| text.parse().with_context(|| format!("{BLOCKED} `{text}`")));
        Ok(Some(Self {
            folder: PathBuf::from(FOLDER),
            insecure: list("WASM_INSECURE_REGISTRIES").into_iter().collect(),
            expiry: environment.duration("WASM_MODULE_EXPIRY", Duration::from_secs(24 * 3600))?,
            request_timeout: environment.duration("WASM_HTTP_REQUEST_TIMEOUT", Duration::from_secs(15))?,
            attempts: environment.number("WASM_HTTP_REQUEST_MAX_RETRIES", 5_usize)?.max(1),
            largest: environment.number("ISTIO_WASM_MAX_BINARY_SIZE_BYTES", 256 << 20)?,
            blocked: blocked.collect::<anyhow::Result<_>>()?,
        }))
    }

    /// Whether a host (without port, or with) is trusted without proof.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        self.insecure.contains("*") || self.insecure.contains(authority) || self.insecure.contains(host)
    }

    /// Whether an address must not be asked: that of a cloud's metadata, which hands out credentials, or one that the
    /// operator forbids.
    pub(crate) fn is_blocked(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let metadata = METADATA.iter().any(|text| text.parse() == Ok(ip));
        link_local || metadata || self.blocked.iter().any(|net| net.contains(&ip))
    }
}
