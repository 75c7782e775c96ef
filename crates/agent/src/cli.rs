//! The command line: pilot-agent's commands and flags, and Lateen's own for running many agents on one machine.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::cni::CniCommand;
use crate::interception::IptablesArgs;

/// What the environment means to `proxy`, shown by `--help`.
const ENVIRONMENT: &str = "\
Environment (as pilot-agent reads it):
  PROXY_CONFIG               ProxyConfig as YAML or JSON: discoveryAddress, binaryPath, configPath, proxyAdminPort,
                             statusPort, drainDuration, terminationDrainDuration, concurrency, tracing, …
  POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT, INSTANCE_IP
                             who this proxy is; the node ID is <role>~<ip>~<pod>.<ns>~<ns>.svc.cluster.local
  ISTIO_META_<KEY>           goes into the node's metadata as <KEY>; ISTIO_METAJSON_<ANY> merges a JSON object into it;
                             ISTIO_METAJSON_LABELS gives the labels
  TRUST_DOMAIN               cluster.local
  CA_ADDR                    who signs certificates, host:port; the discovery address if unset; port 15010 is plaintext
  XDS_ROOT_CA, CA_ROOT_CA    PEM files (or SYSTEM) that authenticate the control plane and the CA;
                             ./var/run/secrets/istio/root-cert.pem if unset
  ISTIOD_SAN                 the name expected in the control plane's certificate; the host of the address if unset
  PROV_CERT                  folder of cert-chain.pem, key.pem, root-cert.pem: the client certificate where there is no
                             token
  FILE_MOUNTED_CERTS         true: the workload's certificate is ./etc/certs/{cert-chain,key,root-cert}.pem
  OUTPUT_CERTS               folder to which the certificate, key and roots are written
  SECRET_TTL, SECRET_GRACE_PERIOD_RATIO, SECRET_GRACE_PERIOD_RATIO_JITTER
                             24h, 0.5, 0.01: lifetime asked for, and the part of it left at which to renew
  WORKLOAD_IDENTITY_SOCKET_FILE
                             socket; a live socket of that name under ./var/run/secrets/workload-spiffe-uds (SPIRE)
                             serves the workload's certificate instead of the agent
  ISTIO_META_DNS_CAPTURE, ISTIO_META_ENABLE_DNS_SERVER, DNS_PROXY_ADDR, DNS_FORWARD_PARALLEL, DNS_FORWARD_TIMEOUT
                             DNS proxy: off; localhost:15053; false; 5s
  ENVOY_STATUS_PORT, ENVOY_PROMETHEUS_PORT
                             15021 and 15090; ENVOY_SECURE_METRICS_PORT, ENVOY_SECURE_MERGED_METRICS_PORT: off
  ISTIO_PROMETHEUS_ANNOTATIONS
                             {\"scrape\":\"true\",\"port\":\"8080\",\"path\":\"/metrics\"}: the application's metrics
  ISTIO_ENABLE_HTTP2_PROBING true: HTTPS probes may speak HTTP/2
  ISTIO_KUBE_APP_PROBERS     {\"/app-health/<container>/readyz\":{\"httpGet\":{…},\"timeoutSeconds\":1}}
  EXIT_ON_ZERO_ACTIVE_CONNECTIONS, MINIMUM_DRAIN_DURATION, MAXIMUM_DRAIN_DURATION
                             false, 5s, 1h: how long to drain after SIGTERM
  DISABLE_ENVOY              true: certificates and DNS only
  XDS_HEADER_<K>, CA_HEADER_<K>
                             further metadata on calls to the control plane and to the CA
Files, relative to the working directory or --root-dir: ./etc/istio/config/mesh (MeshConfig), ./etc/istio/pod/{labels,
annotations}, ./var/run/secrets/tokens/istio-token (JWT, read anew for each call), ./etc/istio/proxy/XDS (socket to
Envoy), ./etc/istio/proxy/envoy-rev.json (bootstrap).
Ports: 15000 Envoy's admin, 15020 agent (/healthz/ready /stats/prometheus /app-health/… /quitquitquit /drain
/debug/ndsz /debug/certz), 15021 readiness, 15053 DNS, 15090 Envoy's metrics.

Many agents on one machine: give each its own --root-dir (sockets, bootstrap, token) and either its own network
namespace, or its own --bind-address 127.1.0.N (Envoy's admin, the agent's port and Envoy's static listeners bind
there instead of 127.0.0.1 and 0.0.0.0), or its own --admin-port, --status-port, ENVOY_STATUS_PORT,
ENVOY_PROMETHEUS_PORT and DNS_PROXY_ADDR. Example:
  INSTANCE_IP=127.1.0.7 POD_NAME=reviews-v1 POD_NAMESPACE=default SERVICE_ACCOUNT=reviews \\
  XDS_ROOT_CA=/demo/root-cert.pem ISTIOD_SAN=istiod.istio-system.svc ISTIO_METAJSON_LABELS='{\"app\":\"reviews\"}' \\
  lateen-agent proxy sidecar --root-dir /demo/reviews-v1 --token-path /demo/reviews-v1/token \\
    --discovery-address 127.0.0.1:15012 --envoy /path/to/envoy --bind-address 127.1.0.7
SIGTERM drains and exits 0; a second one ends at once. When Envoy ends by itself the agent exits 1, or restarts it
(--envoy-restarts).";

/// The companion of one Envoy, in the place of Istio's pilot-agent.
#[derive(Debug, Parser)]
#[command(name = "lateen-agent", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where log lines go and which.
#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// What to log: `info`, `debug`, `default:info,dns:debug`, or directives of tracing
    #[arg(
        long = "log_output_level",
        visible_alias = "log-level",
        env = "LATEEN_LOG",
        default_value = "info",
        global = true
    )]
    pub(crate) log_output_level: String,
    /// Log lines are JSON objects
    #[arg(long = "log_as_json", visible_alias = "log-as-json", global = true)]
    pub(crate) log_as_json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Envoy and be its companion
    #[command(after_long_help = ENVIRONMENT, after_help = "The environment, files and ports are described by --help.")]
    Proxy(Box<ProxyArgs>),
    /// Wait until the proxy is ready
    Wait(WaitArgs),
    /// Send a request to Envoy's admin interface and print the answer
    Request(RequestArgs),
    /// Redirect the traffic of this network namespace to Envoy
    #[command(visible_aliases = ["init", "iptables"])]
    IstioIptables(Box<IptablesArgs>),
    /// Interception by a CNI plugin: the node agent, and the plugin itself
    #[command(subcommand)]
    Cni(CniCommand),
    /// Print the version
    Version {
        /// Only the number
        #[arg(long, short)]
        short: bool,
    },
}

/// `proxy`'s flags. Flags win over the environment, which wins over files.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// What Envoy is: sidecar, router (a gateway) or waypoint
    #[arg(default_value = "sidecar", value_parser = ["sidecar", "router", "waypoint"])]
    pub(crate) role: String,
    /// DNS domain of the proxy [default: NAMESPACE.svc.cluster.local]
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// File with the mesh's configuration
    #[arg(
        long = "meshConfig",
        visible_alias = "mesh-config",
        default_value = "./etc/istio/config/mesh"
    )]
    pub(crate) mesh_config: PathBuf,
    /// Service cluster, where ProxyConfig gives none
    #[arg(
        long = "serviceCluster",
        visible_alias = "service-cluster",
        default_value = "istio-proxy"
    )]
    pub(crate) service_cluster: String,
    /// Envoy's log level, also with components: info,upstream:debug
    #[arg(long = "proxyLogLevel", visible_alias = "proxy-log-level", default_value = "warning")]
    pub(crate) proxy_log_level: String,
    /// Envoy's log levels by component
    #[arg(long = "proxyComponentLogLevel", visible_alias = "proxy-component-log-level")]
    pub(crate) proxy_component_log_level: Option<String>,
    /// Envoy's worker threads, where ProxyConfig gives none
    #[arg(long, default_value_t = 0)]
    pub(crate) concurrency: u32,
    /// Where Envoy logs outlier detection
    #[arg(long = "outlierLogPath", visible_alias = "outlier-log-path")]
    pub(crate) outlier_log_path: Option<String>,
    /// Taken for compatibility, without effect
    #[arg(long = "stsPort", hide = true)]
    pub(crate) sts_port: Option<u16>,
    /// Taken for compatibility, without effect
    #[arg(long = "tokenManagerPlugin", hide = true)]
    pub(crate) token_manager_plugin: Option<String>,
    /// Taken for compatibility, without effect
    #[arg(long = "templateFile", hide = true)]
    pub(crate) template_file: Option<String>,
    /// Taken for compatibility, without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) profiling: Option<bool>,
    /// Folder that relative paths start from, Envoy's too; the working directory if not given
    #[arg(long, env = "LATEEN_ROOT_DIR")]
    pub(crate) root_dir: Option<PathBuf>,
    /// Address for everything that the agent and Envoy's static listeners bind, instead of 127.0.0.1 and 0.0.0.0
    #[arg(long, env = "LATEEN_BIND_ADDRESS")]
    pub(crate) bind_address: Option<IpAddr>,
    /// Where the application's metrics are read [default: the bind address, else 127.0.0.1]
    #[arg(long, env = "LATEEN_APP_ADDRESS")]
    pub(crate) app_address: Option<IpAddr>,
    /// Overrides ProxyConfig's discoveryAddress, host:port
    #[arg(long, env = "LATEEN_DISCOVERY_ADDRESS")]
    pub(crate) discovery_address: Option<String>,
    /// Overrides ProxyConfig's binaryPath
    #[arg(long = "envoy", env = "LATEEN_ENVOY")]
    pub(crate) envoy: Option<PathBuf>,
    /// Overrides ProxyConfig's proxyAdminPort
    #[arg(long, env = "LATEEN_ADMIN_PORT")]
    pub(crate) admin_port: Option<u16>,
    /// Overrides ProxyConfig's statusPort
    #[arg(long, env = "LATEEN_STATUS_PORT")]
    pub(crate) status_port: Option<u16>,
    /// Overrides ProxyConfig's terminationDrainDuration, such as 5s
    #[arg(long, env = "LATEEN_TERMINATION_DRAIN_DURATION")]
    pub(crate) termination_drain_duration: Option<String>,
    /// The token that proves who this workload is
    #[arg(
        long,
        env = "LATEEN_TOKEN_PATH",
        default_value = "./var/run/secrets/tokens/istio-token"
    )]
    pub(crate) token_path: PathBuf,
    /// How often to look whether a certificate file has changed
    #[arg(long, env = "LATEEN_FILE_POLL_INTERVAL", default_value = "2s")]
    pub(crate) file_poll_interval: String,
    /// Restart Envoy this many times when it ends by itself, with growing pauses; 0: exit when Envoy ends
    #[arg(long, env = "LATEEN_ENVOY_RESTARTS", default_value_t = 0)]
    pub(crate) envoy_restarts: u32,
    /// A further argument for Envoy; repeatable
    #[arg(long = "envoy-arg", allow_hyphen_values = true)]
    pub(crate) envoy_args: Vec<String>,
    /// Write the bootstrap to standard output and exit
    #[arg(long)]
    pub(crate) print_bootstrap: bool,
}

/// `wait`'s flags.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// How long to wait at most
    #[arg(long = "timeoutSeconds", visible_alias = "timeout-seconds", default_value_t = 60)]
    pub(crate) timeout_seconds: u64,
    /// How long one request may take
    #[arg(
        long = "requestTimeoutMillis",
        visible_alias = "request-timeout-millis",
        default_value_t = 500
    )]
    pub(crate) request_timeout_millis: u64,
    /// Pause between requests
    #[arg(long = "periodMillis", visible_alias = "period-millis", default_value_t = 500)]
    pub(crate) period_millis: u64,
    /// What to ask
    #[arg(long, default_value = "http://localhost:15021/healthz/ready")]
    pub(crate) url: String,
}

/// `request`'s arguments.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// GET or POST
    pub(crate) method: String,
    /// Path, with or without the leading slash, and query
    pub(crate) path: String,
    /// What is sent with it
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) body: String,
    /// Port of the admin interface
    #[arg(long = "debug-port", env = "LATEEN_ADMIN_PORT", default_value_t = 15000)]
    pub(crate) debug_port: u16,
    /// Address of the admin interface
    #[arg(long, env = "LATEEN_BIND_ADDRESS", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
}

/// Name and version, as `version` prints them.
pub(crate) fn version() -> String {
    format!(
        "lateen-agent {} (Istio API level {})",
        env!("CARGO_PKG_VERSION"),
        crate::bootstrap::ISTIO_VERSION
    )
}

/// Sets up logging. Istio's scopes (`default:info`) are understood; scopes that Lateen does not have are left out.
pub(crate) fn init_logging(logging: &Logging) -> anyhow::Result<()> {
    use lateen_runtime::logging::{Format, init};
    let format = if logging.log_as_json {
        Format::Json
    } else {
        Format::Text
    };
    init(format, &filter(&logging.log_output_level))?;
    Ok(())
}

/// Istio's scope levels as directives of tracing.
fn filter(levels: &str) -> String {
    let level = |name: &str| match name {
        "none" => "off".to_owned(),
        "fatal" => "error".to_owned(),
        other => other.to_owned(),
    };
    let directives = levels.split(',').filter_map(|part| match part.split_once(':') {
        Some(("default" | "all", name)) => Some(level(name)),
        Some((scope, name)) if part.find("::").is_none() => Some(format!("lateen_agent::{scope}={}", level(name))),
        _ if part.is_empty() => None,
        _ => Some(level(part)),
    });
    directives.collect::<Vec<_>>().join(",")
}

/// Drops long flags that no command knows, as pilot-agent does, so that the arguments of an existing pod template work.
pub(crate) fn without_unknown_flags(arguments: Vec<String>) -> Vec<String> {
    let command = Cli::command();
    let known: std::collections::BTreeSet<String> = std::iter::once(&command)
        .chain(command.get_subcommands())
        .flat_map(|command| std::iter::once(command).chain(command.get_subcommands()))
        .flat_map(|command| command.get_arguments())
        .flat_map(|argument| {
            let aliases = argument
                .get_all_aliases()
                .unwrap_or_default()
                .into_iter()
                .map(str::to_owned);
            argument
                .get_long()
                .map(str::to_owned)
                .into_iter()
                .chain(aliases)
                .collect::<Vec<_>>()
        })
        .chain(["help", "version"].map(str::to_owned))
        .collect();
    let keep = |argument: &String| {
        let Some(flag) = argument.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            return true;
        };
        let name = flag.split_once('=').map_or(flag, |(name, _)| name);
        let keep = known.contains(name);
        if !keep {
            eprintln!("lateen-agent: unknown flag --{name} ignored");
        }
        keep
    };
    arguments.into_iter().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_arguments_of_an_injected_pod_are_understood() {
        let arguments = "lateen-agent proxy sidecar --domain default.svc.cluster.local --proxyLogLevel=warning \
            --proxyComponentLogLevel=misc:error --log_output_level=default:info --concurrency 2 --new-flag=7";
        let cli = Cli::parse_from(without_unknown_flags(
            arguments.split_whitespace().map(str::to_owned).collect(),
        ));
        let Command::Proxy(args) = cli.command else {
            panic!("not proxy")
        };
        assert_eq!((args.role.as_str(), args.concurrency), ("sidecar", 2));
        assert_eq!(filter(&cli.logging.log_output_level), "info");
    }

    #[test]
    fn flags_of_commands_below_commands_are_known() {
        let arguments = "lateen-agent cni install --check-interval=1s --repair-label-pods --new-flag";
        let kept = without_unknown_flags(arguments.split_whitespace().map(str::to_owned).collect());
        assert_eq!(kept.join(" "), arguments.trim_end_matches(" --new-flag"));
    }

    #[test]
    fn istio_log_scopes_become_directives() {
        assert_eq!(filter("default:info,dns:debug"), "info,lateen_agent::dns=debug");
        assert_eq!(filter("all:none"), "off");
        assert_eq!(filter("info,lateen_agent::ads=trace"), "info,lateen_agent::ads=trace");
    }
}
