//! Questions to a running control plane, over the HTTP of its debug endpoints.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long an answer may take: the dump of a large proxy takes seconds to write.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes. Proxies of large meshes hold tens of MiB.
const LARGEST: usize = 512 << 20;

/// Where the control plane is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ControlPlane {
    /// The control plane's --http-address
    #[arg(
        long,
        value_name = "URL",
        env = "LATEEN_ADDRESS",
        default_value = "http://127.0.0.1:8080"
    )]
    address: String,
}

impl ControlPlane {
    /// The JSON at a path, with a query.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start")?;
        runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, self.ask(path, query));
            answer
                .await
                .unwrap_or_else(|_| bail!("{} did not answer within {} s", self.address, PATIENCE.as_secs()))
        })
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let uri = self.uri(path, query)?;
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let response = client.get(uri.clone()).await.map_err(|error| {
            let cause = root_cause(&error);
            anyhow!("cannot reach the control plane at {}: {cause}; is lateend running, and is --address its --http-address?", self.address)
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body
            .map_err(|error| anyhow!("the answer of {uri} broke off: {error}"))?
            .to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body);
            match said.trim() {
                "" => bail!("{uri} answered {status}; is --address the --http-address of a lateend?"),
                said => bail!("{said}"),
            }
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("the answer of {uri} is not JSON; is --address that of a lateend?"))
    }

    fn uri(&self, path: &str, query: &[(&str, &str)]) -> Result<Uri> {
        let wrong = "must be an address such as http://127.0.0.1:8080";
        let base: Uri = self
            .address
            .parse()
            .with_context(|| format!("--address {} {wrong}", self.address))?;
        if base.scheme_str() != Some("http") || base.host().is_none() {
            bail!(
                "--address {} {wrong}; debug endpoints are served without TLS",
                self.address
            );
        }
        let query: Vec<String> = query
            .iter()
            .map(|(key, value)| format!("{key}={}", escape(value)))
            .collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = format!("{}{path}{mark}{}", self.address.trim_end_matches('/'), query.join("&"));
        uri.parse().with_context(|| format!("{uri} is no address"))
    }
}

/// Percent-encoding of what is not plain in a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The innermost error says what happened; those around it say only where.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> ControlPlane {
        ControlPlane {
            address: address.to_owned(),
        }
    }

    #[test]
    fn queries_are_encoded() {
        let uri = at("http://127.0.0.1:1/")
            .uri("/debug/config_dump", &[("proxyID", "sidecar~10.0.0.1~a b&c")])
            .unwrap();
        assert_eq!(
            uri.to_string(),
            "http://127.0.0.1:1/debug/config_dump?proxyID=sidecar~10.0.0.1~a%20b%26c"
        );
    }

    #[test]
    fn wrong_addresses_are_named() {
        for address in ["127.0.0.1:8080", "https://127.0.0.1:8080", "nowhere", "http://"] {
            let error = at(address).get("/debug/syncz", &[]).unwrap_err().to_string();
            assert!(
                error.contains(address) && error.contains("http://127.0.0.1:8080"),
                "{error}"
            );
        }
    }

    #[test]
    fn nobody_there_says_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = at(&format!("http://{free}"))
            .get("/debug/syncz", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&free.to_string()) && error.contains("is lateend running"),
            "{error}"
        );
    }
}
