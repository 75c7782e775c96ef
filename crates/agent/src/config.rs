//! What the agent was told, read once from flags, environment and files.

mod duration;
mod environment;
mod network;
mod proxy_config;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lateen_names::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use lateen_pki::RenewalPolicy;

pub(crate) use duration::parse_duration;
pub(crate) use environment::{Environment, interface_ips};
pub(crate) use proxy_config::{AuthenticationPolicy, ProxyConfig, RemoteService, TlsSettings, Tracer};

use crate::cli::ProxyArgs;
use crate::wasm::WasmConfig;

/// Folder of the socket over which Envoy gets the workload's certificate.
const WORKLOAD_SOCKETS: &str = "./var/run/secrets/workload-spiffe-uds";
/// Name of the socket that the agent itself serves.
const OWN_SOCKET: &str = "socket";
/// How long clusters on demand stay without being used, unless `LATEEN_ON_DEMAND_IDLE` says it.
const ON_DEMAND_IDLE: Duration = Duration::from_secs(30 * 60);
/// Labels and annotations of the pod, as the downward API writes them.
const POD_LABELS: &str = "./etc/istio/pod/labels";
const POD_ANNOTATIONS: &str = "./etc/istio/pod/annotations";

/// What the proxy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    Router,
    Waypoint,
}

impl Role {
    /// As it begins the node's ID.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
        }
    }
}

/// The ports of one proxy that the agent decides on. Zero means off where a port may be off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) admin: u16,
    pub(crate) status: u16,
    pub(crate) envoy_status: u16,
    pub(crate) envoy_prometheus: u16,
    pub(crate) secure_metrics: u16,
    pub(crate) secure_merged_metrics: u16,
}

/// How certificates are obtained.
#[derive(Debug, Clone)]
pub(crate) struct CertificateConfig {
    /// `host:port` of the CA.
    pub(crate) ca_address: String,
    /// The name expected in the CA's certificate, where it is not the address's host.
    pub(crate) ca_san: Option<String>,
    pub(crate) ca_roots: Roots,
    pub(crate) ca_headers: Vec<(String, String)>,
    pub(crate) cluster_id: String,
    pub(crate) cert_signer: Option<String>,
    pub(crate) identity: SpiffeId,
    pub(crate) token_path: PathBuf,
    pub(crate) provisioned: Option<PathBuf>,
    /// Certificate, key and roots that somebody else keeps up to date in files.
    pub(crate) mounted: Option<FileCertificate>,
    pub(crate) output: Option<PathBuf>,
    /// What is revoked in the mesh, as the control plane says; the file need not be there.
    pub(crate) revoked: PathBuf,
    pub(crate) ttl: Duration,
    pub(crate) renewal: RenewalPolicy,
    pub(crate) poll_interval: Duration,
    /// Somebody else (SPIRE) serves the workload's certificate on the workload socket.
    pub(crate) external_socket: bool,
}

/// Three PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileCertificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) roots: PathBuf,
}

impl FileCertificate {
    /// The names that Istio gives the files in a folder.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Self {
            chain: file("cert-chain.pem"),
            key: file("key.pem"),
            roots: file("root-cert.pem"),
        }
    }
}

/// Whom to trust on a connection to the control plane or the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// No TLS at all.
    Plaintext,
    /// The roots in a PEM file, read anew for each connection.
    File(PathBuf),
}

/// The connection to the control plane.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamConfig {
    /// `host:port`.
    pub(crate) address: String,
    /// The name expected in the certificate, where it is not the address's host.
    pub(crate) san: Option<String>,
    pub(crate) roots: Roots,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) token_path: PathBuf,
    pub(crate) provisioned: Option<PathBuf>,
    pub(crate) socket: PathBuf,
    /// The agent gets a certificate from the CA, which proves it to the control plane too.
    pub(crate) certificate_expected: bool,
}

/// The DNS proxy.
#[derive(Debug, Clone)]
pub(crate) struct DnsConfig {
    /// One address for each IP version that the proxy has.
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) namespace: String,
    pub(crate) domain: String,
    pub(crate) parallel: bool,
    pub(crate) timeout: Duration,
}

/// How Envoy is run and ended.
#[derive(Debug, Clone)]
pub(crate) struct DrainConfig {
    pub(crate) termination: Duration,
    pub(crate) exit_on_zero_connections: bool,
    pub(crate) minimum: Duration,
    pub(crate) maximum: Duration,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct AgentConfig {
    pub(crate) role: Role,
    pub(crate) pod_name: String,
    pub(crate) namespace: String,
    pub(crate) domain: String,
    pub(crate) instance_ips: Vec<IpAddr>,
    pub(crate) ports: Ports,
    /// Replaces both loopback and wildcard, for many proxies on one machine.
    pub(crate) bind_address: Option<IpAddr>,
    pub(crate) app_address: IpAddr,
    pub(crate) proxy: ProxyConfig,
    pub(crate) environment: Environment,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
    /// Labels were given by environment, apart from the pod's.
    pub(crate) static_labels: std::collections::BTreeMap<String, String>,
    pub(crate) workload_socket_file: String,
    pub(crate) outlier_log_path: Option<String>,
    pub(crate) certificates: CertificateConfig,
    pub(crate) upstream: UpstreamConfig,
    pub(crate) dns: Option<DnsConfig>,
    /// None when modules are left to Envoy.
    pub(crate) wasm: Option<WasmConfig>,
    /// After which time without a request a cluster that came on demand is forgotten; none where the agent takes no such
    /// demands, and what came stays.
    pub(crate) on_demand_idle: Option<Duration>,
    pub(crate) drain: DrainConfig,
    pub(crate) envoy_enabled: bool,
    pub(crate) log_as_json: bool,
}

// === impl AgentConfig ===

impl AgentConfig {
    /// Reads everything. The working directory must be the root folder already.
    ///
    /// # Errors
    /// When a value cannot be read; the message names the flag, variable, file or field.
    pub(crate) fn load(args: &ProxyArgs, environment: Environment, log_as_json: bool) -> anyhow::Result<Self> {
        let annotations = environment::downward_api(Path::new(POD_ANNOTATIONS))?;
        let proxy = ProxyConfig::load(args, &environment, &annotations)?;
        let environment = environment.with_defaults(proxy.proxy_metadata.clone());
        let namespace = environment.get("POD_NAMESPACE").unwrap_or_default().to_owned();
        let domain = args
            .domain
            .clone()
            .unwrap_or_else(|| format!("{namespace}.svc.cluster.local"));
        let role = match args.role.as_str() {
            "router" => Role::Router,
            "waypoint" => Role::Waypoint,
            _ => Role::Sidecar,
        };
        let static_labels = environment.labels()?;
        let mut labels = static_labels.clone();
        labels.extend(environment::downward_api(Path::new(POD_LABELS))?);
        labels.remove("pod-template-hash");
        let ports = Ports {
            admin: proxy.proxy_admin_port,
            status: proxy.status_port,
            envoy_status: environment.number("ENVOY_STATUS_PORT", 15021)?,
            envoy_prometheus: environment.number("ENVOY_PROMETHEUS_PORT", 15090)?,
            secure_metrics: environment.number("ENVOY_SECURE_METRICS_PORT", 0)?,
            secure_merged_metrics: environment.number("ENVOY_SECURE_MERGED_METRICS_PORT", 0)?,
        };
        let workload_socket_file = environment
            .get("WORKLOAD_IDENTITY_SOCKET_FILE")
            .unwrap_or(OWN_SOCKET)
            .to_owned();
        let mut upstream = upstream(args, &environment, &proxy)?;
        let certificates = certificates(args, &environment, &proxy, &upstream, &workload_socket_file)?;
        upstream.certificate_expected =
            upstream.roots != Roots::Plaintext && certificates.mounted.is_none() && !certificates.external_socket;
        let loopback = args.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let instance_ips = network::instance_ips(&environment)?;
        let locals = args
            .bind_address
            .map_or_else(|| network::loopbacks(&instance_ips), |ip| vec![ip]);
        Ok(Self {
            pod_name: environment.get("POD_NAME").unwrap_or_default().to_owned(),
            wasm: WasmConfig::load(&environment)?,
            on_demand_idle: Some(environment.duration("LATEEN_ON_DEMAND_IDLE", ON_DEMAND_IDLE)?)
                .filter(|idle| role == Role::Sidecar && !idle.is_zero()),
            dns: network::dns(role, &environment, &namespace, &domain, &locals)?,
            instance_ips,
            drain: DrainConfig {
                termination: parse_duration(&proxy.termination_drain_duration)
                    .context("ProxyConfig.terminationDrainDuration")?,
                exit_on_zero_connections: environment.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false)?,
                minimum: environment.duration("MINIMUM_DRAIN_DURATION", Duration::from_secs(5))?,
                maximum: environment.duration("MAXIMUM_DRAIN_DURATION", Duration::from_secs(3600))?,
            },
            envoy_enabled: !environment.flag("DISABLE_ENVOY", false)?,
            namespace,
            domain,
            ports,
            bind_address: args.bind_address,
            app_address: args.app_address.unwrap_or(loopback),
            proxy,
            labels,
            annotations,
            static_labels,
            workload_socket_file,
            outlier_log_path: args.outlier_log_path.clone(),
            certificates,
            upstream,
            role,
            environment,
            log_as_json,
        })
    }

    /// Looks for what must be there before anything is started. A machine that joins may get its roots later.
    ///
    /// # Errors
    /// When a file is missing; the message names it.
    pub(crate) fn check_files(&self) -> anyhow::Result<()> {
        if self.upstream.provisioned.is_some() || self.certificates.mounted.is_some() {
            return Ok(());
        }
        for (roots, variable) in [
            (&self.upstream.roots, "XDS_ROOT_CA"),
            (&self.certificates.ca_roots, "CA_ROOT_CA"),
        ] {
            if let Roots::File(path) = roots
                && !path.is_file()
            {
                bail!("no roots at {}: mount them there or set {variable}", path.display());
            }
        }
        Ok(())
    }

    /// Where Envoy's admin interface and the agent's local clients meet.
    pub(crate) fn loopback(&self) -> IpAddr {
        self.bind_address.unwrap_or(if self.ipv6_only() {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        })
    }

    /// What listeners for others bind.
    pub(crate) fn wildcard(&self) -> IpAddr {
        self.bind_address.unwrap_or(if self.ipv6_only() {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        })
    }

    /// The proxy has IPv6 addresses only.
    pub(crate) fn ipv6_only(&self) -> bool {
        !self.instance_ips.is_empty() && self.instance_ips.iter().all(IpAddr::is_ipv6)
    }

    /// Envoy's admin interface.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.loopback(), self.ports.admin)
    }

    /// The node's ID, as control planes of Istio's kind read it.
    pub(crate) fn node_id(&self) -> String {
        let ip = self.instance_ips.first().map(ToString::to_string).unwrap_or_default();
        format!(
            "{}~{ip}~{}.{}~{}",
            self.role.name(),
            self.pod_name,
            self.namespace,
            self.domain
        )
    }
}

/// The connection to the control plane.
fn upstream(args: &ProxyArgs, environment: &Environment, proxy: &ProxyConfig) -> anyhow::Result<UpstreamConfig> {
    let provisioned = environment.get("PROV_CERT").map(PathBuf::from);
    let roots = if proxy.control_plane_auth_policy == AuthenticationPolicy::None {
        Roots::Plaintext
    } else if let Some(file) = environment.get("XDS_ROOT_CA") {
        Roots::File(root_file(file)?)
    } else if Path::new("./etc/certs/root-cert.pem").is_file() {
        Roots::File("./etc/certs/root-cert.pem".into())
    } else if let Some(folder) = &provisioned {
        Roots::File(folder.join("root-cert.pem"))
    } else if let Some(file) = environment.get("ISTIO_META_TLS_CLIENT_ROOT_CERT") {
        Roots::File(file.into())
    } else {
        Roots::File("./var/run/secrets/istio/root-cert.pem".into())
    };
    host_and_port(&proxy.discovery_address).context("ProxyConfig.discoveryAddress")?;
    Ok(UpstreamConfig {
        address: proxy.discovery_address.clone(),
        san: server_name(environment, &proxy.discovery_address),
        roots,
        headers: environment.with_prefix("XDS_HEADER_"),
        token_path: args.token_path.clone(),
        provisioned,
        socket: Path::new(&proxy.config_path).join("XDS"),
        certificate_expected: false,
    })
}

fn certificates(
    args: &ProxyArgs,
    environment: &Environment,
    proxy: &ProxyConfig,
    upstream: &UpstreamConfig,
    socket_file: &str,
) -> anyhow::Result<CertificateConfig> {
    if socket_file.contains('/') {
        bail!("WORKLOAD_IDENTITY_SOCKET_FILE `{socket_file}`: must be a file name, not a path");
    }
    let socket = Path::new(WORKLOAD_SOCKETS).join(socket_file);
    let external_socket = std::os::unix::net::UnixStream::connect(&socket).is_ok();
    if socket_file != OWN_SOCKET && !external_socket {
        bail!(
            "WORKLOAD_IDENTITY_SOCKET_FILE `{socket_file}`: nobody listens on {}",
            socket.display()
        );
    }
    let ca_address = environment
        .get("CA_ADDR")
        .unwrap_or(&proxy.discovery_address)
        .to_owned();
    let (_, port) = host_and_port(&ca_address).context("CA_ADDR")?;
    let own_ca = ca_address == proxy.discovery_address;
    let ca_roots = match environment.get("CA_ROOT_CA") {
        // Port 15010 is the control plane's plaintext port by convention.
        _ if port == 15010 || (own_ca && upstream.roots == Roots::Plaintext) => Roots::Plaintext,
        Some(file) => Roots::File(root_file(file)?),
        None => match &upstream.roots {
            Roots::Plaintext => Roots::File("./var/run/secrets/istio/root-cert.pem".into()),
            roots => roots.clone(),
        },
    };
    let spiffe = Path::new("./var/run/secrets/workload-spiffe-credentials");
    let mounted = if environment.flag("FILE_MOUNTED_CERTS", false)? {
        Some(FileCertificate::in_folder(Path::new("./etc/certs")))
    } else {
        Some(FileCertificate::in_folder(spiffe)).filter(|files| files.chain.is_file() && files.key.is_file())
    };
    if mounted.is_some() && upstream.provisioned.is_some() {
        bail!("PROV_CERT and FILE_MOUNTED_CERTS exclude each other: unset one");
    }
    let trust_domain = environment.get("TRUST_DOMAIN").unwrap_or("cluster.local");
    let namespace = environment.get("POD_NAMESPACE").unwrap_or("default");
    let account = environment.get("SERVICE_ACCOUNT").unwrap_or("default");
    Ok(CertificateConfig {
        ca_san: if own_ca { upstream.san.clone() } else { None },
        ca_address,
        ca_roots,
        ca_headers: environment.with_prefix("CA_HEADER_"),
        cluster_id: environment
            .get("ISTIO_META_CLUSTER_ID")
            .unwrap_or("Kubernetes")
            .to_owned(),
        cert_signer: environment.get("ISTIO_META_CERT_SIGNER").map(str::to_owned),
        identity: SpiffeId {
            trust_domain: TrustDomain::new(trust_domain).context("TRUST_DOMAIN")?,
            namespace: Namespace::new(namespace).context("POD_NAMESPACE")?,
            service_account: ServiceAccount::new(account).context("SERVICE_ACCOUNT")?,
        },
        token_path: args.token_path.clone(),
        provisioned: upstream.provisioned.clone(),
        mounted,
        output: environment.get("OUTPUT_CERTS").map(PathBuf::from),
        revoked: environment
            .get("LATEEN_CRL_FILE")
            .unwrap_or("/var/run/secrets/istio/crl/ca-crl.pem")
            .into(),
        ttl: environment.duration("SECRET_TTL", Duration::from_secs(24 * 3600))?,
        renewal: RenewalPolicy {
            grace_ratio: environment.number("SECRET_GRACE_PERIOD_RATIO", 0.5)?,
            jitter_ratio: environment.number("SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01)?,
        },
        poll_interval: parse_duration(&args.file_poll_interval).context("--file-poll-interval")?,
        external_socket,
    })
}

/// `SYSTEM` means the machine's own roots.
fn root_file(value: &str) -> anyhow::Result<PathBuf> {
    const SYSTEM: [&str; 3] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ];
    if value != "SYSTEM" {
        return Ok(value.into());
    }
    let found = SYSTEM.iter().map(PathBuf::from).find(|path| path.is_file());
    found.with_context(|| format!("SYSTEM: none of {} exists", SYSTEM.join(", ")))
}

/// The name to expect in the control plane's certificate, where the address does not say it.
fn server_name(environment: &Environment, address: &str) -> Option<String> {
    if let Some(name) = environment.get("ISTIOD_SAN") {
        return Some(name.to_owned());
    }
    let (host, _) = host_and_port(address).ok()?;
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    local.then(|| "istiod.istio-system.svc".to_owned())
}

/// Splits `host:port`; IPv6 hosts are in brackets.
///
/// # Errors
/// When there is no port, or it is no number.
pub(crate) fn host_and_port(address: &str) -> anyhow::Result<(&str, u16)> {
    let (host, port) = address
        .rsplit_once(':')
        .with_context(|| format!("`{address}`: must be host:port"))?;
    let port = port
        .parse()
        .with_context(|| format!("`{address}`: the port must be a number"))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use proxy_config::defaults as proxy_defaults;
#[cfg(test)]
pub(crate) use tests::load as load_for_test;
