//! Questions to a running control plane, over the HTTP of its debug endpoints.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri};
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

    /// File with a service account token, which a control plane on another machine asks for
    #[arg(long, value_name = "FILE", env = "LATEEN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl ControlPlane {
    /// The JSON at a path, with a query.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let token = match &self.token_file {
            Some(file) => {
                Some(std::fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?)
            }
            None => None,
        };
        get_json("--address", &self.address, path, query, token.as_deref().map(str::trim))
    }
}

/// The JSON that a server answers with. `flag` says by which option its address was given.
pub(crate) fn get_json(
    flag: &str,
    address: &str,
    path: &str,
    query: &[(&str, &str)],
    token: Option<&str>,
) -> Result<Value> {
    let uri = uri(flag, address, path, query)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, ask(flag, address, &uri, token));
        answer
            .await
            .unwrap_or_else(|_| bail!("{address} did not answer within {} s", PATIENCE.as_secs()))
    })
}

async fn ask(flag: &str, address: &str, uri: &Uri, token: Option<&str>) -> Result<Value> {
    let (what, port) = match flag {
        "--admin" => ("Envoy", "admin address"),
        _ => ("lateend", "--http-address"),
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut request = Request::get(uri);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::new()).context("--token-file holds no token")?;
    let response = client.request(request).await.map_err(|error| {
        let cause = root_cause(&error);
        anyhow!("cannot reach {what} at {address}: {cause}; is {what} running, and is {flag} its {port}?")
    })?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body
        .map_err(|error| anyhow!("the answer of {uri} broke off: {error}"))?
        .to_bytes();
    if !status.is_success() {
        let said = String::from_utf8_lossy(&body);
        match said.trim() {
            "" => bail!("{uri} answered {status}; is {flag} the {port} of a {what}?"),
            said => bail!("{said}"),
        }
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("the answer of {uri} is not JSON; is {flag} that of a {what}?"))
}

fn uri(flag: &str, address: &str, path: &str, query: &[(&str, &str)]) -> Result<Uri> {
    let wrong = "must be an address such as http://127.0.0.1:8080";
    let base: Uri = address.parse().with_context(|| format!("{flag} {address} {wrong}"))?;
    if base.scheme_str() != Some("http") || base.host().is_none() {
        bail!("{flag} {address} {wrong}; it is asked without TLS");
    }
    let query: Vec<String> = query
        .iter()
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let uri = format!("{}{path}{mark}{}", address.trim_end_matches('/'), query.join("&"));
    uri.parse().with_context(|| format!("{uri} is no address"))
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
            token_file: None,
        }
    }

    #[test]
    fn queries_are_encoded() {
        let query = [("proxyID", "sidecar~10.0.0.1~a b&c")];
        let uri = uri("--address", "http://127.0.0.1:1/", "/debug/config_dump", &query).unwrap();
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
