//! `lateen proxy-config`: what a proxy holds, out of the control plane, or out of a dump.

mod dump;
mod tables;

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::control_plane::ControlPlane;
use crate::print::Output;

use dump::Dump;

/// What of a proxy's configuration is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Upstream clusters
    #[value(alias = "clusters", alias = "c")]
    Cluster,
    /// Listeners and their filter chains
    #[value(alias = "listeners", alias = "l")]
    Listener,
    /// Route tables
    #[value(alias = "routes", alias = "r")]
    Route,
    /// Endpoints of clusters
    #[value(alias = "endpoints", alias = "ep")]
    Endpoint,
    /// Certificates and roots; keys are never shown
    #[value(alias = "secrets", alias = "s")]
    Secret,
    /// All of these
    All,
}

impl What {
    const EACH: [Self; 5] = [Self::Cluster, Self::Listener, Self::Route, Self::Endpoint, Self::Secret];

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Listener => "listeners",
            Self::Route => "routes",
            Self::Endpoint => "endpoints",
            Self::Secret => "secrets",
            Self::All => "all",
        }
    }
}

/// The options of `lateen proxy-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyConfig {
    /// What to show
    #[arg(value_enum)]
    what: What,

    /// The proxy
    #[arg(
        value_name = "POD.NAMESPACE",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    proxy: Option<String>,

    /// Read this dump instead: Envoy's /config_dump or the control plane's; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Only resources whose name contains this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    #[command(flatten)]
    control_plane: ControlPlane,

    #[command(flatten)]
    output: Output,
}

impl ProxyConfig {
    pub(crate) fn run(self) -> Result<()> {
        let document = match (&self.file, &self.proxy) {
            (Some(file), _) => read(file)?,
            (None, Some(proxy)) if proxy.contains('.') => {
                self.control_plane.get("/debug/config_dump", &[("proxyID", proxy)])?
            }
            (None, Some(proxy)) => bail!("`{proxy}` names no proxy; write it as <pod>.<namespace>"),
            // The command line asks for one of them.
            (None, None) => bail!("name a proxy, or a dump with --file"),
        };
        let mut dump = Dump::read(&document)?;
        if let Some(part) = &self.name {
            dump.retain(part);
        }
        match self.what {
            What::All => {
                let value: Map<String, Value> = What::EACH
                    .iter()
                    .map(|what| (what.name().to_owned(), dump.of(*what)))
                    .collect();
                self.output.write(&Value::Object(value), || {
                    let tables = What::EACH
                        .iter()
                        .map(|what| format!("# {}\n{}", what.name(), tables::of(*what, &dump)));
                    tables.collect::<Vec<_>>().join("\n")
                })
            }
            what => self.output.write(&dump.of(what), || tables::of(what, &dump)),
        }
    }
}

fn read(file: &PathBuf) -> Result<Value> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}
