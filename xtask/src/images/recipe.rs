//! What is in each image. None has a shell; all start as a user that is not root, and write only below folders that pods
//! mount, so that their root may be read-only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::Start;
use super::layer::Layer;
use super::machine;
use super::programs::Programs;
use super::sbom::{self, Component};

/// The user that proxies and the control plane run as: traffic of this one is not intercepted.
const PROXY_USER: u64 = 1337;
/// The user that the sample runs as.
const APP_USER: u64 = 10001;

/// An image before it is packed.
pub(super) struct Image {
    pub(super) name: &'static str,
    /// Lowest first; what changes seldom is low.
    pub(super) layers: Vec<Layer>,
    pub(super) start: Start,
    /// The package whose crates are in it, and the rest of what is in it.
    pub(super) package: &'static str,
    pub(super) components: Vec<Component>,
}

/// The control plane.
pub(super) fn lateend(programs: &Programs) -> Result<Image> {
    let mut base = base();
    base.folder_of("var/lib/lateen", 0o750, PROXY_USER);
    let mut layer = Layer::default();
    machine::program(&mut layer, "usr/local/bin/lateend", &programs.get("lateend")?)?;
    // The name that tools written for Istio call: `pilot-discovery request GET /debug/syncz`.
    layer.link("usr/local/bin/pilot-discovery", "lateend");
    image(
        "lateend",
        "lateen-daemon",
        vec![base, layer],
        PROXY_USER,
        "The control plane of Lateen",
    )
}

/// The sidecar and gateway: Envoy, the agent, and what the agent needs to redirect a pod's traffic.
pub(super) fn proxy(programs: &Programs, envoy: &Path) -> Result<Image> {
    let mut base = base();
    for folder in [
        "etc/istio/proxy",
        "etc/istio/pod",
        "var/lib/istio/data",
        "var/run/secrets/tokens",
    ] {
        base.folder_of(folder, 0o755, PROXY_USER);
    }
    iptables(&mut base)?;
    machine::libraries(&mut base, envoy)?;
    let mut with_envoy = Layer::default();
    with_envoy.file("usr/local/bin/envoy", envoy)?;
    let mut with_agent = Layer::default();
    machine::program(
        &mut with_agent,
        "usr/local/bin/lateen-agent",
        &programs.get("lateen-agent")?,
    )?;
    // The name that hooks and tools written for Istio call.
    with_agent.link("usr/local/bin/pilot-agent", "lateen-agent");
    let mut image = image(
        "proxy",
        "lateen-agent",
        vec![base, with_envoy, with_agent],
        PROXY_USER,
        "Envoy and its agent, for sidecars and gateways",
    )?;
    image.start.entrypoint = vec!["/usr/local/bin/lateen-agent".to_owned()];
    image.components.push(sbom::envoy());
    Ok(image)
}

/// The sample.
pub(super) fn shop(programs: &Programs) -> Result<Image> {
    let mut layer = Layer::default();
    machine::program(&mut layer, "usr/local/bin/shop", &programs.get("shop")?)?;
    image(
        "shop",
        "lateen-shop",
        vec![base(), layer],
        APP_USER,
        "The sample shop of Lateen",
    )
}

fn image(name: &'static str, package: &'static str, layers: Vec<Layer>, user: u64, description: &str) -> Result<Image> {
    let files: Vec<PathBuf> = layers
        .iter()
        .flat_map(|layer| layer.sources().map(|(_, from)| from.to_path_buf()))
        .collect();
    let packages = machine::packages(files.iter().map(PathBuf::as_path));
    let program = layers.last().context("an image has a program")?;
    let entrypoint = program
        .sources()
        .find(|(path, _)| path.starts_with("usr/local/bin/"))
        .map(|(path, _)| format!("/{path}"));
    Ok(Image {
        name,
        layers,
        start: Start {
            entrypoint: entrypoint.into_iter().collect(),
            user: format!("{user}:{user}"),
            labels: BTreeMap::from([
                ("org.opencontainers.image.title".to_owned(), name.to_owned()),
                (
                    "org.opencontainers.image.description".to_owned(),
                    description.to_owned(),
                ),
                ("org.opencontainers.image.licenses".to_owned(), "Apache-2.0".to_owned()),
                (
                    "org.opencontainers.image.version".to_owned(),
                    env!("CARGO_PKG_VERSION").to_owned(),
                ),
            ]),
        },
        package,
        components: packages.into_iter().map(sbom::debian).collect(),
    })
}

/// What every program may look for: users, name resolution, roots of trust, a place for temporary files.
fn base() -> Layer {
    let mut layer = Layer::default();
    for folder in ["dev", "proc", "sys", "run", "var/run"] {
        layer.folder(folder);
    }
    layer.folder_of("tmp", 0o1777, 0);
    layer.bytes(
        "etc/passwd",
        format!(
            "root:x:0:0:root:/:/sbin/nologin\n\
             istio-proxy:x:{PROXY_USER}:{PROXY_USER}:proxy:/:/sbin/nologin\n\
             app:x:{APP_USER}:{APP_USER}:app:/:/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
        ),
    );
    layer.bytes(
        "etc/group",
        format!("root:x:0:\nistio-proxy:x:{PROXY_USER}:\napp:x:{APP_USER}:\nnogroup:x:65534:\n"),
    );
    layer.bytes("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    let roots = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if roots.is_file() && layer.file("etc/ssl/certs/ca-certificates.crt", roots).is_err() {
        eprintln!(
            "  note: {} cannot be read, so images trust no public authority",
            roots.display()
        );
    }
    layer
}

/// Both kinds of iptables, under the names that the agent calls, with the extensions that they load.
fn iptables(layer: &mut Layer) -> Result<()> {
    const WHERE: &str = "/usr/sbin";
    for kind in ["nft", "legacy"] {
        let program = format!("xtables-{kind}-multi");
        machine::program(layer, &format!("{WHERE}/{program}"), &Path::new(WHERE).join(&program))
            .context("the proxy's image takes iptables from this machine; install it (Debian's package iptables)")?;
        for family in ["iptables", "ip6tables"] {
            for action in ["", "-save", "-restore"] {
                layer.link(&format!("{WHERE}/{family}-{kind}{action}"), &program);
                if kind == "nft" {
                    layer.link(&format!("{WHERE}/{family}{action}"), &program);
                }
            }
        }
    }
    for extension in extensions()? {
        machine::program(layer, &extension.to_string_lossy(), &extension)?;
    }
    Ok(())
}

/// The extensions of this machine's iptables.
fn extensions() -> Result<Vec<PathBuf>> {
    let multiarch = format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
    let folder = [multiarch.as_str(), "/usr/lib64/xtables", "/usr/lib/xtables"]
        .into_iter()
        .map(Path::new)
        .find(|folder| folder.is_dir())
        .context("the extensions of iptables are in no folder known here")?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".so")
                && ["libxt_", "libipt_", "libip6t_"]
                    .iter()
                    .any(|kind| name.starts_with(kind))
        })
        .collect();
    found.sort();
    Ok(found)
}
