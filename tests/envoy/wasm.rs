//! WebAssembly modules: the agent fetches what a WasmPlugin names, over HTTP or from a registry, and Envoy runs it.
//! While a module cannot be had, traffic is refused or passes without it, as the plugin says, until it can.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_testkit::agent::{GatewayAgent, Who, free_address};
use lateen_testkit::world::{mesh, service, virtual_service};
use lateen_testkit::{Lateend, Upstream, World, envoy, eventually, http};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::scene::PATIENCE;

const HOST: &str = "shop.test";
const PORT: u16 = 18080;
const INGRESS: Who<'_> = Who {
    name: "ingress",
    namespace: "edge",
    label: "edge",
};

/// A module that answers every request itself, with 418 and the text `by a module`:
///
/// ```wat
/// (module
///   (import "env" "proxy_send_local_response"
///     (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
///   (memory (export "memory") 1)
///   (data (i32.const 16) "by a module")
///   (func (export "proxy_abi_version_0_2_1"))
///   (func (export "malloc") (param i32) (result i32) (i32.const 1024))
///   (func (export "proxy_on_context_create") (param i32 i32))
///   (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
///   (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
///   (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
///     (drop (call $answer (i32.const 418) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 11)
///                         (i32.const 0) (i32.const 0) (i32.const -1)))
///     (i32.const 1)))
/// ```
const MODULE: &[&str] = &[
    "0061736d0100000001270660087f7f7f7f7f7f7f7f017f60000060017f017f60027f7f0060027f7f017f60037f7f7f017f0221010365",
    "6e761970726f78795f73656e645f6c6f63616c5f726573706f6e736500000307060102030404050503010001078b0107066d656d6f72",
    "7902001770726f78795f6162695f76657273696f6e5f305f325f310001066d616c6c6f6300021770726f78795f6f6e5f636f6e746578",
    "745f63726561746500031170726f78795f6f6e5f766d5f737461727400041270726f78795f6f6e5f636f6e6669677572650005187072",
    "6f78795f6f6e5f726571756573745f6865616465727300060a300602000b05004180080b02000b040041010b040041010b180041a203",
    "410041004110410b41004100417f10001a41010b0b11010041100b0b62792061206d6f64756c65",
];
/// Its SHA-256.
const MODULE_SHA256: &str = "0e621acab020de5806fb6d7d72261d7d6c84e1602d7e27dbaf2281d369c7ac6f";
/// An image of one layer, the module as it is.
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.module.wasm.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.module.wasm.content.layer.v1+wasm","digest":"sha256:0e621acab020de5806fb6d7d72261d7d6c84e1602d7e27dbaf2281d369c7ac6f","size":309}]}"#;
/// The SHA-256 of that text.
const MANIFEST_SHA256: &str = "3bc5e7f2908e754e9679d4a5f2f93caa95d1a2bb9da70829091feb9299a3f7ec";
const USER: &str = "someone:secret";

fn module() -> Vec<u8> {
    let digits = MODULE.concat();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_default();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// What a server has, by path: status and body.
type Pages = Arc<Mutex<BTreeMap<String, (u16, Vec<u8>)>>>;

/// A server of modules that is a registry of images, too; below `/v2/` it wants a token, which it gives to its user.
struct Server {
    address: SocketAddr,
    pages: Pages,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let pages = Pages::default();
        let mut task = JoinSet::new();
        let held = Arc::clone(&pages);
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // Whoever goes away in between is not waited for.
                let _ = answer(&mut stream, &held, address).await;
            }
        });
        Ok(Self {
            address,
            pages,
            _task: task,
        })
    }

    fn set(&self, path: &str, status: u16, body: &[u8]) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(path.to_owned(), (status, body.to_vec()));
    }
}

async fn answer(stream: &mut TcpStream, pages: &Pages, own: SocketAddr) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let authorization = head.lines().find_map(|line| line.strip_prefix("authorization: "));
    let basic = format!("Basic {}", STANDARD.encode(USER));
    let mut more = String::new();
    let found = match path {
        "/token" if authorization == Some(&basic) => Some((200, br#"{"token":"t0ken"}"#.to_vec())),
        "/token" => Some((401, Vec::new())),
        path if path.starts_with("/v2/") && authorization != Some("Bearer t0ken") => {
            more = format!("www-authenticate: Bearer realm=\"http://{own}/token\",service=\"test\"\r\n");
            Some((401, Vec::new()))
        }
        path => {
            let pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
            pages.get(path).cloned()
        }
    };
    let (status, body) = found.unwrap_or((404, Vec::new()));
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(())
}

/// A WasmPlugin of the gateway; `generation` is another for each form of it.
fn plugin(generation: u32, url: &str, more: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: tea, namespace: edge, generation: {generation}}}
spec: {{selector: {{matchLabels: {{istio: edge}}}}, phase: AUTHN, url: \"{url}\"{more}}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_are_fetched_and_run() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let server = Server::start().await?;
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 4)).await?;
    let address = free_address()?;
    let gateway = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gateway, namespace: edge}}
spec:
  selector: {{istio: edge}}
  servers: [{{port: {{number: {PORT}, name: http, protocol: HTTP}}, bind: {address}, hosts: [\"*/{HOST}\"]}}]
"
    );
    let route = virtual_service("shop", "shop", HOST, "echo", "here", &[(None, 100)]);
    world.write("mesh.yaml", &[&mesh()])?;
    world.write("gateway.yaml", &[&gateway])?;
    world.write("shop.yaml", &[&service("shop", "echo", 1, 80, &[&upstream]), &route])?;
    let lateend = Lateend::start(&world).await?;
    let ingress = GatewayAgent::start(&binary, &world, &lateend, INGRESS, address).await?;
    let door = SocketAddr::from((address, PORT));
    let done = steps(&world, &server, door, &ingress).await;
    done.with_context(|| format!("lateend:\n{}\n\ngateway:\n{}", lateend.log(), ingress.log()))
}

async fn steps(world: &World, server: &Server, door: SocketAddr, ingress: &GatewayAgent) -> Result<()> {
    let becomes = async |status: u16, what: &str| {
        eventually(what, PATIENCE, async || {
            let answer = http::get(door, HOST, "/").await.ok()?;
            (answer.status == status).then_some(answer)
        })
        .await
    };
    let site = format!("http://{}", server.address);
    becomes(200, "requests pass before there is a plugin").await?;

    // Over HTTP, checked.
    server.set("/tea.wasm", 200, &module());
    let checked = format!(", sha256: \"{MODULE_SHA256}\"");
    world.write("plugin.yaml", &[&plugin(1, &format!("{site}/tea.wasm"), &checked)])?;
    let answer = becomes(418, "the module answers").await?;
    ensure!(answer.body == "by a module", "{answer:?}");

    // Another module than the one that is meant is not run, and requests are refused.
    server.set("/other.wasm", 200, b"\0asm\x01\0\0\0");
    world.write("plugin.yaml", &[&plugin(2, &format!("{site}/other.wasm"), &checked)])?;
    becomes(403, "requests are refused for want of the right module").await?;

    // A module that is not there yet: requests pass without it, where that is asked for, and meet it as soon as it is.
    let open = ", failStrategy: FAIL_OPEN";
    world.write("plugin.yaml", &[&plugin(3, &format!("{site}/late.wasm"), open)])?;
    becomes(200, "requests pass while the module is not there").await?;
    server.set("/late.wasm", 200, &module());
    becomes(418, "the module answers once it is there").await?;

    // From a registry, with credentials; and not without.
    let repository = "/v2/plugins/tea";
    server.set(&format!("{repository}/manifests/v1"), 200, MANIFEST.as_bytes());
    server.set(&format!("{repository}/blobs/sha256:{MODULE_SHA256}"), 200, &module());
    let image = format!("oci://{}/plugins/tea:v1", server.address);
    world.write("plugin.yaml", &[&plugin(4, &image, "")])?;
    becomes(403, "requests are refused without credentials for the registry").await?;
    let config = json!({"auths": {server.address.to_string(): {"auth": STANDARD.encode(USER)}}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "registry", "namespace": "edge"},
        "stringData": {".dockerconfigjson": config.to_string()},
    });
    world.write("secret.yaml", &[&secret.to_string()])?;
    let pulled = format!(", imagePullSecret: registry, sha256: \"{MANIFEST_SHA256}\"");
    world.write("plugin.yaml", &[&plugin(5, &image, &pulled)])?;
    becomes(418, "the module of the image answers").await?;

    world.remove("plugin.yaml")?;
    becomes(200, "requests pass after the plugin is gone").await?;

    // A filter of bytes: what the module says of requests is not asked for.
    let url = format!("{site}/tea.wasm");
    world.write(
        "bytes.yaml",
        &[&plugin(1, &url, ", type: NETWORK").replace("name: tea", "name: bytes")],
    )?;
    eventually("Envoy has the filter of bytes", PATIENCE, async || {
        let dump = ingress.admin("/config_dump").await.ok()?;
        // The listener names the type only; this is the configuration itself.
        let configured = r#""@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm""#;
        dump.contains(configured).then_some(())
    })
    .await?;
    becomes(200, "requests pass a filter of bytes").await?;
    Ok(())
}
