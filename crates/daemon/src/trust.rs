//! The certificate authority and the proof of callers' identities.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Client};
use lateen_ca::kube::{ClusterSigner, NodeProxies, SecretRoot, TokenReviewer};
use lateen_ca::pki::TrustBundle;
use lateen_ca::{
    Allowance, AuditLog, Authenticator, CaConfig, CertificateAuthority, ExternalSigner, JwksSource, JwtVerifier,
    NodeAuthorizer, RootSource, TokenIssuer, TokenVerifier, control_plane_names,
};
use lateen_names::{Hostname, Namespace, TrustDomain};
use lateen_runtime::Supervisor;
use lateen_runtime::metrics::Metrics;

use crate::config::{Config, ExternalCa};

/// How often an API server that does not answer is asked at the start, and how long between.
const ATTEMPTS: u32 = 30;
const BETWEEN: Duration = Duration::from_secs(1);

/// What is trusted, and who decides it.
pub(crate) struct Trust {
    /// The certificate authority.
    pub authority: CertificateAuthority,
    /// Who proves callers' identities.
    pub authenticator: Arc<Authenticator>,
    /// Who decides whether a node proxy may ask for another's certificate; nobody may where it is absent.
    pub nodes: Option<Arc<dyn NodeAuthorizer>>,
    /// Who signs elsewhere; the authority itself where it is absent.
    pub external: Option<Arc<dyn ExternalSigner>>,
}

/// Opens the authority, makes its root on first use, and keeps it going.
pub(crate) fn open(config: &Config, metrics: &Metrics, supervisor: &Supervisor) -> Result<Trust> {
    if config.external_ca.is_some() {
        bail!("--external-ca: only a cluster has signers");
    }
    let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
    let source = if config.cacerts.is_dir() {
        RootSource::PluggedIn(config.cacerts.clone())
    } else {
        RootSource::SelfSigned(config.data_dir.join("ca"))
    };
    let ca = ca(config, &MeshTrust::of(config.trust_domain.clone()), source)?;
    let authority = CertificateAuthority::open(ca, Arc::clone(&clock), metrics.registry())?;

    let own = TokenIssuer::open_or_create(&config.data_dir.join("tokens"))?;
    let mut verifiers: Vec<Arc<dyn TokenVerifier>> = vec![Arc::new(JwtVerifier::new(
        own.issuer(),
        &config.token_audiences,
        JwksSource::Inline(own.jwks()),
    )?)];
    verifiers.extend(configured_issuer(config)?);
    let authenticator = Authenticator::new(config.trust_domain.clone(), authority.trust_bundle(), verifiers, clock);
    let running = authority.clone();
    supervisor.spawn("certificate authority", async move { running.run().await });
    Ok(Trust {
        authority,
        authenticator: Arc::new(authenticator),
        nodes: None,
        external: None,
    })
}

/// As [`open`], in a cluster: the root is plugged in from files or kept in a Secret, tokens are the API server's, and
/// trusted node proxies may ask for their node's identities.
pub(crate) async fn open_in_cluster(
    config: &Config,
    client: Client,
    mesh: MeshTrust,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<Trust> {
    let clock: lateen_ca::Clock = Arc::new(SystemTime::now);
    let registry = metrics.registry();
    let ca = |source| ca(config, &mesh, source);
    let authority = if config.cacerts.join("ca-cert.pem").is_file() {
        let source = RootSource::PluggedIn(config.cacerts.clone());
        CertificateAuthority::open(ca(source)?, Arc::clone(&clock), registry)?
    } else {
        let root = SecretRoot::new(client.clone(), &config.namespace);
        // Where the root is kept is the keeper's own matter.
        let ca = ca(RootSource::Held(PathBuf::new()))?;
        let authority = root.open(ca, Arc::clone(&clock), registry).await?;
        supervisor.spawn("root secret", root.keep(authority.clone()));
        authority
    };
    let mut verifiers: Vec<Arc<dyn TokenVerifier>> = Vec::new();
    verifiers.extend(configured_issuer(config)?);
    let mut reviewer = TokenReviewer::new(client.clone(), &config.token_audiences);
    if config.tokens_from_anywhere {
        reviewer = reviewer.without_address_check();
    }
    verifiers.push(Arc::new(reviewer));
    let external = config.external_ca.map(|ExternalCa::KubernetesApi| {
        let (default, domain) = (config.k8s_signer.clone(), config.cert_signer_domain.clone());
        let signer = ClusterSigner::new(
            client.clone(),
            default,
            domain,
            authority.trust_bundle(),
            Arc::clone(&clock),
        );
        Arc::new(signer) as Arc<dyn ExternalSigner>
    });
    let authenticator =
        Authenticator::new(mesh.domain, authority.trust_bundle(), verifiers, clock).with_aliases(mesh.aliases);
    let running = authority.clone();
    supervisor.spawn("certificate authority", async move { running.run().await });
    let nodes: Arc<dyn NodeAuthorizer> = Arc::new(NodeProxies::new(client, config.trusted_node_accounts.clone()));
    Ok(Trust {
        authority,
        authenticator: Arc::new(authenticator),
        nodes: (!config.trusted_node_accounts.is_empty()).then_some(nodes),
        external,
    })
}

fn ca(config: &Config, mesh: &MeshTrust, source: RootSource) -> Result<CaConfig> {
    let mut names = control_plane_names(&config.namespace, config.revision.as_deref());
    // Agents of the embedded mode reach the control plane on the machine itself.
    names.extend(
        ["localhost", "127.0.0.1", "::1"]
            .iter()
            .filter_map(|name| Hostname::new(name).ok()),
    );
    let mut also_trusted = mesh.trusted.clone();
    if config.external_ca == Some(ExternalCa::KubernetesApi) {
        add(&mut also_trusted, &mesh.signers);
        let path = &config.external_roots;
        let of = || format!("--external-roots {}", path.display());
        match std::fs::read(path) {
            Ok(pem) => {
                add(&mut also_trusted, &TrustBundle::parse_pem(&pem).with_context(of)?);
            }
            // The mesh's settings may name them.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !mesh.signers.roots().is_empty() => {}
            Err(error) => return Err(error).with_context(of),
        }
    }
    Ok(CaConfig {
        default_ttl: config.workload_cert_ttl,
        max_ttl: config.max_workload_cert_ttl,
        serving_names: names,
        also_trusted,
        ..CaConfig::new(mesh.domain.clone(), source)
    })
}

/// The issuer of tokens that flags name, whose keys are in a file.
fn configured_issuer(config: &Config) -> Result<Option<Arc<dyn TokenVerifier>>> {
    let (Some(issuer), Some(jwks)) = (&config.token_issuer, &config.token_jwks) else {
        return Ok(None);
    };
    let verifier = JwtVerifier::new(issuer, &config.token_audiences, JwksSource::File(jwks.clone()))?;
    Ok(Some(Arc::new(verifier)))
}

/// How many certificates a caller may ask for.
pub(crate) fn allowance(config: &Config) -> Allowance {
    Allowance {
        burst: config.ca_burst.max(1),
        every: config.ca_interval,
    }
}

/// Where what is issued and refused is written down.
pub(crate) fn audit_log(config: &Config, authority: &CertificateAuthority) -> Result<AuditLog> {
    let path = &config.ca_audit_log;
    let lost = authority.audit_lost();
    let log = match path.as_os_str() == "-" {
        true => AuditLog::to_writer(std::io::stdout(), lost),
        false => AuditLog::to_file(path, lost),
    };
    log.with_context(|| format!("--ca-audit-log {}", path.display()))
}

/// What MeshConfig in the cluster says of trust. As of istiod, a change needs a restart: all certificates are of the old one.
pub(crate) struct MeshTrust {
    /// The trust domain of the mesh.
    domain: TrustDomain,
    /// Those that count as it.
    aliases: Vec<TrustDomain>,
    /// Roots of other authorities that certify workloads of the mesh's trust domain: entries of `caCertificates` that name
    /// neither signers nor another trust domain.
    trusted: TrustBundle,
    /// Roots of the cluster's signers: entries of `caCertificates` that name signers.
    signers: TrustBundle,
}

impl MeshTrust {
    /// A trust domain, and nothing besides.
    fn of(domain: TrustDomain) -> Self {
        Self {
            domain,
            aliases: Vec::new(),
            trusted: TrustBundle::default(),
            signers: TrustBundle::default(),
        }
    }

    /// Reads it; what it does not name is as `config` has it.
    pub(crate) async fn read(config: &Config, client: Client) -> Result<Self> {
        let name = crate::pipeline::settings(config)?.config_map;
        let place = format!("ConfigMap {}/{name}", config.namespace);
        let text = settings_of_the_mesh(client, &config.namespace, name.as_str(), &place).await?;
        // Whether the rest is well-formed, the index says.
        let mesh = lateen_lower::yaml::parse(&text).unwrap_or_default();
        let domain = match mesh["trustDomain"].as_str().filter(|text| !text.is_empty()) {
            Some(text) => TrustDomain::new(text).with_context(|| format!("{place}: trustDomain"))?,
            None => config.trust_domain.clone(),
        };
        let list = |name: &str| mesh[name].as_array().into_iter().flatten();
        let aliases = list("trustDomainAliases").filter_map(|alias| TrustDomain::new(alias.as_str()?).ok());
        let mut trust = Self {
            aliases: aliases.collect(),
            ..Self::of(domain)
        };
        for (at, entry) in list("caCertificates").enumerate() {
            trust
                .add(entry)
                .with_context(|| format!("{place}: caCertificates[{at}].pem"))?;
        }
        Ok(trust)
    }

    /// Takes in an entry of `caCertificates`.
    fn add(&mut self, entry: &serde_json::Value) -> Result<()> {
        let Some(pem) = entry["pem"].as_str() else {
            return Ok(());
        };
        let names = |list: &str| {
            let names = entry[list].as_array().into_iter().flatten();
            names.filter_map(serde_json::Value::as_str).collect::<Vec<_>>()
        };
        let (signers, domains) = (names("certSigners"), names("trustDomains"));
        let ours = |name: &&str| {
            let mut known = std::iter::once(&self.domain).chain(&self.aliases);
            known.any(|known| known.as_str() == *name)
        };
        let roots = TrustBundle::parse_pem(pem.as_bytes())?;
        if !signers.is_empty() {
            add(&mut self.signers, &roots);
        } else if domains.is_empty() || domains.iter().any(ours) {
            add(&mut self.trusted, &roots);
        } else {
            // Trusted for every name, its authority could call itself ours.
            tracing::warn!(
                ?domains,
                "a root in caCertificates is for other trust domains only and is not used: name them in trustDomainAliases to have it trusted"
            );
        }
        Ok(())
    }
}

fn add(to: &mut TrustBundle, roots: &TrustBundle) {
    roots.roots().iter().for_each(|root| _ = to.add(root.clone()));
}

/// The text of MeshConfig; empty where there is none. An API server that does not answer yet is waited for, as long as for
/// the root.
async fn settings_of_the_mesh(client: Client, namespace: &Namespace, name: &str, place: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace.as_str());
    // Whoever may follow the ConfigMap may list it, too.
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    let mut attempts = 0;
    loop {
        match maps.list(&only).await {
            Ok(found) => {
                let mut data = found.items.into_iter().filter_map(|map| map.data);
                return Ok(data.next().and_then(|mut data| data.remove("mesh")).unwrap_or_default());
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!(
                    error = status.message,
                    "{place} cannot be read: the trust domain is as the flags say"
                );
                return Ok(String::new());
            }
            Err(error) if attempts >= ATTEMPTS => {
                return Err(error).with_context(|| format!("{place}: the mesh's settings cannot be read"));
            }
            Err(error) => {
                tracing::warn!(%error, object = place, "the API server does not answer yet");
                attempts += 1;
                tokio::time::sleep(BETWEEN).await;
            }
        }
    }
}
