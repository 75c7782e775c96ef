//! `lateen proxy-config`: what a proxy holds, out of the control plane, out of its Envoy, or out of a dump.

pub(crate) mod dump;
mod filter;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ValueEnum};
use serde_json::{Map, Value};

use crate::control_plane::{ControlPlane, get_json};
use crate::input::read;
use crate::print::Output;

use dump::Dump;
use filter::Filter;

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
    #[value(alias = "a")]
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
        required_unless_present_any = ["file", "admin"],
        conflicts_with_all = ["file", "admin"]
    )]
    proxy: Option<String>,

    #[command(flatten)]
    dump: DumpSource,

    #[command(flatten)]
    filter: Filter,

    /// One line for each filter chain and route; `--verbose=false` for one line for each listener and route table
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    verbose: bool,

    #[command(flatten)]
    pod: PodNamespace,

    #[command(flatten)]
    control_plane: ControlPlane,

    #[command(flatten)]
    output: Output,
}

/// Envoy's own dump.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpSource {
    /// Read this dump: Envoy's /config_dump or the control plane's; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Ask Envoy itself, at its admin address, e.g. http://127.0.0.1:15000
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    pub(crate) admin: Option<String>,
}

/// The namespace of a pod that is named without one.
#[derive(Debug, clap::Args)]
pub(crate) struct PodNamespace {
    /// The namespace of the proxy's pod, where its name does not say it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl PodNamespace {
    /// The pod as `<pod>.<namespace>`; a kind before it, as `pod/`, may be there.
    pub(crate) fn of(&self, pod: &str) -> Result<String> {
        let name = match pod.split_once('/') {
            Some(("pod" | "pods" | "po", name)) => name,
            Some((kind, _)) => bail!("`{pod}`: a {kind} is no proxy; name its pod, as <pod>.<namespace>"),
            None => pod,
        };
        match &self.namespace {
            Some(namespace) if !name.contains('.') => Ok(format!("{name}.{namespace}")),
            None if !name.contains('.') => {
                bail!("`{pod}` names no proxy; write it as <pod>.<namespace>, or give --namespace")
            }
            _ => Ok(name.to_owned()),
        }
    }
}

impl DumpSource {
    /// Envoy's dump, where one is named.
    pub(crate) fn read(&self) -> Result<Option<Dump>> {
        let document = match (&self.file, &self.admin) {
            (Some(file), _) => read_json(file)?,
            (None, Some(admin)) => get_json("--admin", admin, "/config_dump", &[("include_eds", "true")], None)?,
            (None, None) => return Ok(None),
        };
        Dump::read(&document).map(Some)
    }
}

/// What the control plane has for a proxy, `<pod>.<namespace>`.
pub(crate) fn of_control_plane(control_plane: &ControlPlane, proxy: &str) -> Result<Dump> {
    let query = [("proxyID", proxy), ("include_eds", "true")];
    let answer = control_plane.get("/debug/config_dump", &query);
    Dump::read(&answer.with_context(|| format!("proxy {proxy}"))?)
}

impl ProxyConfig {
    pub(crate) fn run(self) -> Result<()> {
        let mut dump = match (self.dump.read()?, &self.proxy) {
            (Some(dump), _) => dump,
            (None, Some(proxy)) => of_control_plane(&self.control_plane, &self.pod.of(proxy)?)?,
            // The command line asks for one of them.
            (None, None) => bail!("name a proxy, or a dump with --file or --admin"),
        };
        self.filter.apply(self.what, &mut dump);
        dump.sort();
        match self.what {
            What::All => {
                let value: Map<String, Value> = What::EACH
                    .iter()
                    .map(|what| (what.name().to_owned(), dump.of(*what)))
                    .collect();
                self.output.write(&Value::Object(value), || {
                    let tables = What::EACH
                        .iter()
                        .map(|what| format!("# {}\n{}", what.name(), tables::of(*what, &dump, self.verbose)));
                    tables.collect::<Vec<_>>().join("\n")
                })
            }
            what => self
                .output
                .write(&dump.of(what), || tables::of(what, &dump, self.verbose)),
        }
    }
}

fn read_json(file: &Path) -> Result<Value> {
    serde_json::from_str(&read(file)?).with_context(|| format!("{} is not JSON", file.display()))
}
