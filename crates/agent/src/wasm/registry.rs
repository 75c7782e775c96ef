//! Modules in registries of images: the pull half of OCI's distribution protocol.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::archive;
use super::cache::digest;
use super::fetch::{Fetched, Fetcher};

/// Where images are that name no registry.
const DEFAULT_REGISTRY: &str = "index.docker.io";
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Layers that are modules as they are: of Solo's image specification, and of the CNCF's.
const BARE: [&str; 2] = ["application/vnd.module.wasm.content.layer.v1+wasm", "application/wasm"];

/// What an image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// `host` or `host:port`.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: String,
    /// `sha256:…`, which counts instead of the tag.
    pub(super) digest: Option<String>,
}

impl Reference {
    /// Reads what stands behind `oci://`.
    ///
    /// # Errors
    /// When it names no repository.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let (repository, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
        if repository.is_empty() || tag.is_empty() || tag.contains('/') {
            bail!("`{text}` is no name of an image");
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        Ok(Self {
            registry: registry.to_owned(),
            repository: if official {
                format!("library/{repository}")
            } else {
                repository.to_owned()
            },
            tag: tag.to_owned(),
            digest,
        })
    }

    /// The name without tag and digest.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    fn wanted(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }

    /// On the machine itself and in private networks registries need no TLS, as Docker has it.
    fn is_near(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(&*self.registry, |(host, _)| host);
        let private = |ip: std::net::Ipv4Addr| ip.is_private() || ip.is_loopback();
        host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(private)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Credentials>,
}

/// Who asks. Has no `Debug`: it holds a password.
#[derive(Clone, Deserialize)]
struct Credentials {
    #[serde(default, deserialize_with = "secret_text")]
    auth: Zeroizing<String>,
    #[serde(default)]
    username: String,
    #[serde(default, deserialize_with = "secret_text")]
    password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

fn secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

impl Credentials {
    /// User and password in base64, as Basic authentication wants them.
    fn basic(&self) -> Zeroizing<String> {
        match self.auth.is_empty() {
            false => self.auth.clone(),
            true => Zeroizing::new(STANDARD.encode(format!("{}:{}", self.username, *self.password))),
        }
    }
}

/// Credentials for a repository of a Docker configuration: those of the longest path that leads to it.
fn credentials(config: &[u8], reference: &Reference) -> anyhow::Result<Option<Credentials>> {
    let config: DockerConfig = serde_json::from_slice(config)
        .map_err(|_| anyhow::anyhow!("the image pull secret is no Docker configuration"))?;
    let name = reference.name();
    let path = |key: &str| {
        let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
        let rest = rest
            .trim_end_matches('/')
            .trim_end_matches("/v1")
            .trim_end_matches("/v2");
        match rest.split_once('/') {
            Some(("docker.io", repository)) => format!("{DEFAULT_REGISTRY}/{repository}"),
            None if rest == "docker.io" => DEFAULT_REGISTRY.to_owned(),
            _ => rest.to_owned(),
        }
    };
    let found = config.auths.iter().map(|(key, credentials)| (path(key), credentials));
    let found = found.filter(|(path, _)| {
        name.strip_prefix(path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    Ok(found
        .max_by_key(|(path, _)| path.len())
        .map(|(_, credentials)| credentials.clone()))
}

/// A session with one repository.
pub(super) struct Repository<'a> {
    fetcher: &'a Fetcher,
    reference: &'a Reference,
    credentials: Option<Credentials>,
    base: String,
    /// What the registry accepted last.
    authorization: Option<HeaderValue>,
}

/// An image of which the manifest is known.
#[derive(Debug)]
pub(super) struct Image {
    /// SHA-256 of the manifest, hexadecimal.
    pub(super) digest: String,
    /// SHA-256 of the index that it was chosen from.
    pub(super) index: Option<String>,
    manifest: Manifest,
}

impl<'a> Repository<'a> {
    /// Opens the repository of an image.
    ///
    /// # Errors
    /// When the pull secret cannot be read.
    pub(super) fn new(fetcher: &'a Fetcher, reference: &'a Reference, secret: Option<&[u8]>) -> anyhow::Result<Self> {
        let plain = reference.is_near() || fetcher.config.is_insecure(&reference.registry);
        let scheme = if plain { "http" } else { "https" };
        let credentials = match secret {
            Some(secret) => credentials(secret, reference)?,
            None => None,
        };
        Ok(Self {
            fetcher,
            reference,
            credentials,
            base: format!("{scheme}://{}/v2/{}", reference.registry, reference.repository),
            authorization: None,
        })
    }

    /// The image's manifest; of an index that of the module's own platform, else of Linux, else the first.
    ///
    /// # Errors
    /// When the registry does not give it, or gives another one than was asked for.
    pub(super) async fn image(&mut self) -> anyhow::Result<Image> {
        let (manifest, digest) = self.manifest(self.reference.wanted()).await?;
        if manifest.manifests.is_empty() {
            return Ok(Image {
                digest,
                index: None,
                manifest,
            });
        }
        let rank = |one: &&Descriptor| match &one.platform {
            Some(platform) if platform.architecture == "wasm" => 0,
            Some(platform) if platform.os == "linux" && platform.architecture == "amd64" => 1,
            _ => 2,
        };
        let chosen = manifest.manifests.iter().min_by_key(rank).map(|one| one.digest.clone());
        let (chosen, own) = self.manifest(&chosen.unwrap_or_default()).await?;
        Ok(Image {
            digest: own,
            index: Some(digest),
            manifest: chosen,
        })
    }

    async fn manifest(&mut self, wanted: &str) -> anyhow::Result<(Manifest, String)> {
        let url = format!("{}/manifests/{wanted}", self.base);
        let body = self.get(&url, MANIFESTS).await?;
        let found = digest(&body);
        if let Some(wanted) = wanted.strip_prefix("sha256:")
            && wanted != found
        {
            bail!("{url}: the manifest has the SHA-256 {found}");
        }
        let manifest = serde_json::from_slice(&body).with_context(|| format!("{url}: manifest"))?;
        Ok((manifest, found))
    }

    /// The module of an image.
    ///
    /// # Errors
    /// When the registry does not give it, or there is none in it.
    pub(super) async fn module(&mut self, image: &Image) -> anyhow::Result<Vec<u8>> {
        let layers = &image.manifest.layers;
        let bare = layers.iter().find(|layer| BARE.contains(&layer.media_type.as_str()));
        let layer = bare.or(layers.last()).context("the image has no layers")?;
        let url = format!("{}/blobs/{}", self.base, layer.digest);
        let body = self.get(&url, "*/*").await?;
        if layer.digest.strip_prefix("sha256:") != Some(digest(&body).as_str()) {
            bail!("{url}: what was downloaded has another SHA-256");
        }
        let largest = self.fetcher.config.largest;
        match bare {
            Some(_) => archive::unpack(body.into(), largest),
            None => archive::plugin(&body, largest),
        }
    }

    async fn get(&mut self, url: &str, accept: &'static str) -> anyhow::Result<Bytes> {
        let uri: Uri = url.parse().with_context(|| format!("URL `{url}`"))?;
        let mut fetched = self.ask(&uri, accept).await?;
        if fetched.status == StatusCode::UNAUTHORIZED {
            self.authorization = Some(self.authorize(&fetched).await?);
            fetched = self.ask(&uri, accept).await?;
        }
        if fetched.status != StatusCode::OK {
            let hint = match fetched.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; see spec.imagePullSecret",
                _ => "",
            };
            bail!("{url}: answered {}{hint}", fetched.status);
        }
        Ok(fetched.body)
    }

    async fn ask(&self, uri: &Uri, accept: &'static str) -> anyhow::Result<Fetched> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        self.fetcher.get(uri, headers).await
    }

    /// Does what a challenge asks for.
    async fn authorize(&self, challenged: &Fetched) -> anyhow::Result<HeaderValue> {
        let challenges = challenged.headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> = challenges
            .filter_map(|text| Challenge::parse(text.to_str().ok()?))
            .collect();
        let find = |scheme: &str| challenges.iter().find(|one| one.scheme.eq_ignore_ascii_case(scheme));
        let basic = self.credentials.as_ref().map(Credentials::basic);
        let registry = &self.reference.registry;
        if let Some(bearer) = find("bearer") {
            let token = self.token(bearer, basic.as_deref().map(String::as_str)).await?;
            return secret_header(&format!("Bearer {}", *token));
        }
        let Some(basic) = basic.filter(|_| find("basic").is_some()) else {
            bail!("{registry} wants credentials; name a Secret in spec.imagePullSecret");
        };
        secret_header(&format!("Basic {}", *basic))
    }

    async fn token(&self, challenge: &Challenge, basic: Option<&str>) -> anyhow::Result<Zeroizing<String>> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default, deserialize_with = "secret_text")]
            token: Zeroizing<String>,
            #[serde(default, deserialize_with = "secret_text")]
            access_token: Zeroizing<String>,
        }
        let get = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let realm = get("realm").context("the registry's challenge names no realm")?;
        let scope = format!("repository:{}:pull", self.reference.repository);
        let query = [("service", get("service")), ("scope", get("scope").or(Some(&scope)))];
        let query = query
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
        let query = query.collect::<Vec<_>>().join("&").replace(' ', "%20");
        let mark = if realm.contains('?') { '&' } else { '?' };
        let uri: Uri = format!("{realm}{mark}{query}")
            .parse()
            .with_context(|| format!("realm `{realm}`"))?;
        let mut headers = HeaderMap::new();
        if let Some(basic) = basic {
            headers.insert(AUTHORIZATION, secret_header(&format!("Basic {basic}"))?);
        }
        let fetched = self.fetcher.get(&uri, headers).await?;
        if fetched.status != StatusCode::OK {
            bail!("{realm}: answered {}; see spec.imagePullSecret", fetched.status);
        }
        let token: Token = serde_json::from_slice(&fetched.body).map_err(|_| anyhow::anyhow!("{realm}: no token"))?;
        Ok(match token.token.is_empty() {
            true => token.access_token,
            false => token.token,
        })
    }
}

fn secret_header(text: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).context("the credentials hold characters that no header may")?;
    value.set_sensitive(true);
    Ok(value)
}

/// One value of `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = BTreeMap::new();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            parameters.insert(name, value.trim().to_owned());
            rest = left;
        }
        (!scheme.is_empty()).then(|| Self {
            scheme: scheme.to_owned(),
            parameters,
        })
    }
}
