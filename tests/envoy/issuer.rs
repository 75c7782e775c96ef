//! Tokens whose keys Lateen fetches from their issuer: a real issuer, a real Envoy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use lateen_ca::TokenIssuer;
use lateen_names::{Namespace, ServiceAccount};
use lateen_testkit::world::{gateway, mesh, service, virtual_service};
use lateen_testkit::{Envoy, Lateend, Load, Upstream, World, envoy, eventually, http, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::scene::PATIENCE;

/// Publishes keys; ends with its value.
struct Keys {
    address: SocketAddr,
    published: Arc<Mutex<String>>,
    _serving: JoinSet<()>,
}

impl Keys {
    async fn publish(at: SocketAddr, keys: String) -> Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let published = Arc::new(Mutex::new(keys));
        let current = Arc::clone(&published);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let mut request = [0; 4096];
                // Requests are short: the first read has all of it.
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Ok(Self {
            address,
            published,
            _serving: serving,
        })
    }

    fn replace(&self, keys: String) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

fn policy(keys: SocketAddr, path: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: istio-system}}
spec:
  jwtRules:
    - {{issuer: https://issuer.test, jwksUri: \"http://{keys}{path}\", fromParams: [token], timeout: 1s}}
"
    )
}

fn token(issuer: &TokenIssuer) -> Result<String> {
    let (namespace, account) = (Namespace::new("shop")?, ServiceAccount::new("reader")?);
    let hour = Duration::from_secs(3600);
    Ok(issuer.issue_for(&["shop"], &namespace, &account, hour, SystemTime::now())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_follow_their_issuer_and_outlive_it() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    let world = World::new()?;
    let issuer = |name: &str| -> Result<TokenIssuer> {
        let directory = world.directory().join(name);
        Ok(TokenIssuer::open_or_create(&directory)?.with_issuer("https://issuer.test"))
    };
    let (first, second, forger) = (issuer("first")?, issuer("second")?, issuer("forger")?);
    let upstream = Upstream::start("v1", Ipv4Addr::new(127, 0, 1, 1)).await?;
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
    let keys = Keys::publish(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), first.jwks()).await?;
    let base = [
        mesh(),
        gateway(door.port()),
        service("shop", "echo-0", 1, 80, &[&upstream]),
        virtual_service("shop", "echo", "echo.test", "echo-0", "on", &[(None, 100)]),
    ];
    world.write("base.yaml", &base.each_ref().map(String::as_str))?;
    world.write("tokens.yaml", &[&policy(keys.address, "/keys")])?;
    let flags = ["--jwks-permitted", "127.0.0.0/8", "--jwks-refresh", "1s"];
    let lateend = Lateend::start_with(&world, &flags).await?;
    let proxy = Envoy::gateway(&binary, lateend.plaintext(), world.directory()).await?;
    let done = async {
        let status = async |issuer: &TokenIssuer| {
            let path = format!("/?token={}", token(issuer).ok()?);
            let answer = http::get(door, "echo.test", &path).await.ok()?;
            Some(answer.status)
        };
        let becomes = async |what: &str, issuer: &TokenIssuer, wanted: u16| {
            eventually(what, PATIENCE, async || {
                (status(issuer).await == Some(wanted)).then_some(())
            })
            .await
        };
        let told = async |words: &str| {
            let told = async || {
                let status = lateend.push_status().await.ok()?.to_string();
                (status.contains("LTN0103") && status.contains(words)).then_some(())
            };
            eventually(&format!("the finding that says `{words}`"), PATIENCE, told).await
        };
        becomes("a token of the issuer is taken", &first, 200).await?;
        ensure!(status(&forger).await == Some(401), "a forged token is to be refused");
        ensure!(
            http::get(door, "echo.test", "/").await?.status == 200,
            "without token a request passes"
        );

        keys.replace(second.jwks());
        becomes("a token of the new key is taken", &second, 200).await?;
        ensure!(status(&first).await == Some(401), "the old key is to be gone");

        // The issuer is gone: nobody who has a token notices.
        let path = format!("/?token={}", token(&second)?);
        let load = Load::asking(door, &["echo.test"], &path, 2);
        let address = keys.address;
        drop(keys);
        told("the last ones stay in force").await?;
        load.more(200, PATIENCE).await?;
        load.stop().await?.none_failed()?;

        // Keys that were never had: nobody's tokens are taken.
        world.write("tokens.yaml", &[&policy(address, "/elsewhere")])?;
        becomes("tokens are refused where keys cannot be had", &second, 401).await?;
        let _back = Keys::publish(address, first.jwks()).await?;
        becomes("tokens are taken once keys are there", &first, 200).await?;

        // What only the control plane can reach is not asked for keys, whatever a policy says.
        world.write(
            "tokens.yaml",
            &[&policy("169.254.169.254:80".parse()?, "/latest/meta-data")],
        )?;
        told("link-local").await?;
        becomes("and tokens are refused", &first, 401).await
    }
    .await;
    done.with_context(|| format!("lateend:\n{}\n\nEnvoy:\n{}\n", lateend.log(), proxy.log()))
}
