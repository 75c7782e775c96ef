//! What `lateend` is told: flags, each with an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use lateen_names::{Namespace, ServiceAccount, TrustDomain};

use crate::request::RequestArgs;

/// The control plane of a service mesh of stock Envoys.
#[derive(Debug, Parser)]
#[command(
    name = "lateend",
    version,
    about,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub config: Config,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done instead of being the control plane.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the control plane on this machine, and print its answer: `request GET /debug/syncz`
    Request(RequestArgs),
}

/// What the control plane is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// File or directory of YAML to read, watched for changes; repeatable. Without it, the cluster is read.
    #[arg(long = "config", value_name = "PATH", env = "LATEEN_CONFIG", value_delimiter = ':')]
    pub config: Vec<PathBuf>,

    /// Kubeconfig of the cluster; without it, the service account of the pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Address of ADS without TLS. Off unless given: whoever reaches it gets configuration.
    #[arg(long, value_name = "ADDRESS", env = "LATEEN_PLAINTEXT_ADDRESS")]
    pub plaintext_address: Option<SocketAddr>,

    /// Address of ADS and of the certificate authority, with mutual TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LATEEN_SECURE_ADDRESS",
        default_value = "[::]:15012"
    )]
    pub secure_address: SocketAddr,

    /// Address of readiness and debug endpoints.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LATEEN_HTTP_ADDRESS",
        default_value = "[::]:8080"
    )]
    pub http_address: SocketAddr,

    /// Address of the API server's webhooks, with TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LATEEN_HTTPS_ADDRESS",
        default_value = "[::]:15017"
    )]
    pub https_address: SocketAddr,

    /// Address of metrics.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LATEEN_MONITORING_ADDRESS",
        default_value = "[::]:15014"
    )]
    pub monitoring_address: SocketAddr,

    /// Address at which the levels of logging are shown and changed, as `istioctl admin log` does. Off unless given:
    /// whoever reaches it may.
    #[arg(long, value_name = "ADDRESS", env = "LATEEN_CONTROL_ADDRESS")]
    pub control_address: Option<SocketAddr>,

    /// File to write the addresses to that are listened on, as JSON, once everything listens: for ports given as 0.
    #[arg(long, value_name = "FILE", env = "LATEEN_ADDRESSES_FILE")]
    pub addresses_file: Option<PathBuf>,

    /// Directory of the certificate authority's root and keys, made on first use.
    #[arg(long, value_name = "DIR", env = "LATEEN_DATA_DIR", default_value = "/var/lib/lateen")]
    pub data_dir: PathBuf,

    /// Directory of a plugged-in authority: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`. Used when it
    /// exists.
    #[arg(long, value_name = "DIR", env = "LATEEN_CACERTS", default_value = "/etc/cacerts")]
    pub cacerts: PathBuf,

    /// Issuer of service account tokens (`iss`), besides Lateen's own.
    #[arg(long, value_name = "URL", env = "LATEEN_TOKEN_ISSUER", requires = "token_jwks")]
    pub token_issuer: Option<String>,

    /// File with that issuer's public keys (JWKS).
    #[arg(long, value_name = "FILE", env = "LATEEN_TOKEN_JWKS", requires = "token_issuer")]
    pub token_jwks: Option<PathBuf>,

    /// How often the keys of token issuers are fetched again that RequestAuthentications name.
    #[arg(long, value_name = "DURATION", env = "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", default_value = "20m", value_parser = duration)]
    pub jwks_refresh: std::time::Duration,

    /// Address ranges from which no keys are fetched, besides loopback, link-local addresses, metadata services of clouds
    /// and the API server.
    #[arg(long = "jwks-blocked", value_name = "CIDR", env = "BLOCKED_CIDRS_IN_JWKS_URIS", value_delimiter = ',', value_parser = range)]
    pub jwks_blocked: Vec<IpNet>,

    /// Address ranges from which keys are fetched although it would be refused, as for an issuer on this machine.
    #[arg(long = "jwks-permitted", value_name = "CIDR", env = "LATEEN_JWKS_PERMITTED", value_delimiter = ',', value_parser = range)]
    pub jwks_permitted: Vec<IpNet>,

    /// File with roots, besides the system's, that vouch for issuers whose keys are fetched over https. Used when it
    /// exists.
    #[arg(
        long,
        value_name = "FILE",
        env = "LATEEN_JWKS_ROOTS",
        default_value = "/cacerts/extra.pem"
    )]
    pub jwks_roots: PathBuf,

    /// Audiences of which tokens must name one; repeatable.
    #[arg(long = "token-audience", value_name = "AUDIENCE", env = "TOKEN_AUDIENCES", value_delimiter = ',', default_value = lateen_ca::TOKEN_AUDIENCE)]
    pub token_audiences: Vec<String>,

    /// Take a pod's token from any address, for networks that show one pod's address as another's.
    #[arg(long, env = "LATEEN_TOKENS_FROM_ANYWHERE")]
    pub tokens_from_anywhere: bool,

    /// Accounts of node proxies, which may have the identities of pods on their node certified: `NAMESPACE/NAME`.
    #[arg(
        long = "trusted-node-account",
        value_name = "ACCOUNT",
        env = "CA_TRUSTED_NODE_ACCOUNTS",
        value_delimiter = ',',
        value_parser = account
    )]
    pub trusted_node_accounts: Vec<(Namespace, ServiceAccount)>,

    /// Who signs workloads' certificates in place of Lateen's own authority.
    #[arg(long, value_enum, env = "EXTERNAL_CA")]
    pub external_ca: Option<ExternalCa>,

    /// The cluster's signer of workloads' certificates, where the workload names none.
    #[arg(long, value_name = "SIGNER", env = "K8S_SIGNER")]
    pub k8s_signer: Option<String>,

    /// Domain of the signers that workloads name.
    #[arg(long, value_name = "DOMAIN", env = "CERT_SIGNER_DOMAIN")]
    pub cert_signer_domain: Option<String>,

    /// File with the roots of the cluster's signers, which the mesh then trusts.
    #[arg(
        long,
        value_name = "FILE",
        env = "LATEEN_EXTERNAL_ROOTS",
        default_value = "/etc/external-ca-cert/root-cert.pem"
    )]
    pub external_roots: PathBuf,

    /// Where every certificate and every refusal is written down, a line of JSON each: a file, or `-` for standard output.
    #[arg(long, value_name = "FILE", env = "LATEEN_CA_AUDIT_LOG", default_value = "-")]
    pub ca_audit_log: PathBuf,

    /// How many certificates a pod may ask for at once.
    #[arg(long, value_name = "NUMBER", env = "LATEEN_CA_BURST", default_value = "30")]
    pub ca_burst: u32,

    /// After how long it may ask for another one. 0s: no limit.
    #[arg(long, value_name = "DURATION", env = "LATEEN_CA_INTERVAL", default_value = "2s", value_parser = duration)]
    pub ca_interval: std::time::Duration,

    /// Default lifetime of workload certificates.
    #[arg(long, value_name = "DURATION", env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h", value_parser = duration)]
    pub workload_cert_ttl: std::time::Duration,

    /// Longest lifetime of workload certificates.
    #[arg(long, value_name = "DURATION", env = "MAX_WORKLOAD_CERT_TTL", default_value = "2160h", value_parser = duration)]
    pub max_workload_cert_ttl: std::time::Duration,

    /// Trust domain of the mesh, where MeshConfig does not name one.
    #[arg(long, value_name = "DOMAIN", env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// Suffix of the cluster's service names.
    #[arg(long, value_name = "DOMAIN", env = "DOMAIN_SUFFIX", default_value = "cluster.local")]
    pub domain: String,

    /// Name of this cluster in the mesh.
    #[arg(long, value_name = "ID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: lateen_names::ClusterId,

    /// Namespace that Lateen runs in.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "istio-system"
    )]
    pub namespace: Namespace,

    /// Revision of this control plane.
    #[arg(long, value_name = "REVISION", env = "REVISION")]
    pub revision: Option<String>,

    /// Whether sidecars are init containers that restart, where the pod does not say: `auto` where every node can.
    #[arg(long, value_enum, env = "ENABLE_NATIVE_SIDECARS", default_value = "auto")]
    pub native_sidecars: NativeSidecars,

    /// How long endpoints are believed in that became unready all at once and leave their service none, as when the kubelet
    /// of their node restarts. 0s: not at all.
    #[arg(long, value_name = "DURATION", env = "LATEEN_ENDPOINT_HOLDOVER", default_value = "10s", value_parser = duration)]
    pub endpoint_holdover: std::time::Duration,

    /// Cryptographic standard that proxies are told to keep to, such as `fips-140-3`.
    #[arg(
        long,
        value_name = "POLICY",
        env = "COMPLIANCE_POLICY",
        default_value = "",
        hide_default_value = true
    )]
    pub compliance_policy: String,
    /// Whether debug endpoints are served over HTTP.
    #[arg(long, value_name = "BOOL", env = "ENABLE_DEBUG_ON_HTTP", default_value = "true", action = ArgAction::Set)]
    pub debug_on_http: bool,

    /// Whether, of callers from other machines, only identities of this process' namespace see all of the debug
    /// endpoints, and others only what concerns their own namespace.
    #[arg(
        long,
        value_name = "BOOL",
        env = "ENABLE_DEBUG_ENDPOINT_AUTH",
        default_value = "true",
        action = ArgAction::Set
    )]
    pub debug_by_namespace: bool,

    /// Further namespaces whose identities see all of the debug endpoints.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES",
        value_delimiter = ','
    )]
    pub debug_namespaces: Vec<String>,

    /// Connections at one port, at most.
    #[arg(long, value_name = "NUMBER", env = "LATEEN_MAX_CONNECTIONS", default_value = "32768")]
    pub max_connections: usize,

    /// Connections from one address at one port that have proved nothing yet, at most: 512 where it is not given, and any
    /// number from this machine.
    #[arg(long, value_name = "NUMBER", env = "LATEEN_MAX_STRANGERS")]
    pub max_strangers: Option<usize>,

    /// How long connections may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", env = "LATEEN_GRACE", default_value = "5s", value_parser = duration)]
    pub grace: std::time::Duration,

    /// What is logged: a level, or directives as `lateen_xds=debug,info`.
    #[arg(long, value_name = "FILTER", env = "LATEEN_LOG", default_value = "info")]
    pub log: String,

    /// Form of log lines.
    #[arg(long, value_enum, env = "LATEEN_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Whether sidecars are init containers that restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NativeSidecars {
    /// Where every node's kubelet can.
    Auto,
    /// Always.
    True,
    /// Never.
    False,
}

/// Who signs elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExternalCa {
    /// The signers of the cluster, by the API `certificates.k8s.io`.
    #[value(name = "ISTIOD_RA_KUBERNETES_API")]
    KubernetesApi,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn account(text: &str) -> Result<(Namespace, ServiceAccount), String> {
    let (namespace, name) = text.trim().split_once('/').ok_or("write it as NAMESPACE/NAME")?;
    let namespace = Namespace::new(namespace).map_err(|error| error.to_string())?;
    let name = ServiceAccount::new(name).map_err(|error| error.to_string())?;
    Ok((namespace, name))
}

/// A range, or a single address.
fn range(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let range = text
        .parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    range.map_err(|_| format!("`{text}` is no address range, such as 10.0.0.0/8"))
}

fn duration(text: &str) -> Result<std::time::Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
