//! Rows: who asks what, and the verdict that must come of it.
//!
//! A file holds groups; a group holds objects, under which all its rows are asked. Where a field of a row is a list, the row
//! is asked for each of its values; of several lists, for each combination. The verdict is written down, never computed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::call::{self, Ask, Connection, Reply, Wire};
use lateen_testkit::fabric::{Place, at};
use lateen_testkit::table::Text;
use rustls::ClientConfig;
use serde::Deserialize;

use crate::callers::secured;
use crate::scene::Scene;

/// How long after the last acknowledgement a verdict may still be the one of before: Envoy acknowledges a listener before its
/// workers have it.
const LAG: Duration = Duration::from_secs(1);
/// What sidecars ask for by SNI toward a sidecar; its value decides nothing.
const SNI: &str = "outbound_.80_._.web.shop.svc.cluster.local";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) groups: Vec<Group>,
}

/// Objects, and the rows that are asked under them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// Lines of MeshConfig.
    #[serde(default)]
    pub(crate) mesh: String,
    /// The objects.
    #[serde(default)]
    pub(crate) objects: String,
    pub(crate) rows: Vec<Row>,
}

/// One value, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Many<T> {
    One(T),
    Several(Vec<T>),
}

impl<T: Clone> Many<T> {
    fn all(&self, default: &T) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Several(several) if several.is_empty() => vec![default.clone()],
            Self::Several(several) => several.clone(),
        }
    }
}

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

/// A row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// What it shows.
    name: String,
    /// Who asks, as [`crate::callers::Callers::tls`] has it; `@client` for the application of the pod of this name, through
    /// its own proxy. `plain` if it does not say.
    #[serde(default, rename = "as")]
    caller: Many<String>,
    /// Whom: a pod, `web` if it does not say.
    #[serde(default)]
    to: Many<String>,
    /// At which port; 8080 if it does not say.
    #[serde(default)]
    port: Many<u16>,
    /// Another address and port than the pod's, for `@client`.
    dial: Option<SocketAddr>,
    /// Whether a line of text is said instead of a request.
    #[serde(default)]
    tcp: bool,
    #[serde(default)]
    method: Many<String>,
    #[serde(default)]
    path: Many<String>,
    /// The authority; `web.shop` if it does not say.
    #[serde(default)]
    host: Many<String>,
    /// Headers; where one has a list of values, it is sent several times.
    #[serde(default)]
    headers: BTreeMap<String, Many<String>>,
    /// A token by its name, sent as `authorization: Bearer`.
    #[serde(default)]
    token: Many<String>,
    /// The address that the caller connects from.
    #[serde(default)]
    from: Many<Ipv4Addr>,
    #[serde(default)]
    sni: Many<String>,
    /// HTTP/2.
    #[serde(default)]
    two: bool,
    /// `pass`: the application that the row names answered with 200. `broken`: no answer. A status: the proxy's answer.
    verdict: Text,
    /// What the refusal says: in its body, in Envoy's reason, or in the error of a connection.
    why: Option<Text>,
    /// What the application saw: headers, and `:path`, `:authority`; `null` for none.
    #[serde(default)]
    seen: BTreeMap<String, Option<Text>>,
}

/// Puts a value into a request.
type Put = fn(&mut Request, String);

/// One combination of a row.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) caller: String,
    pub(crate) to: String,
    pub(crate) port: u16,
    pub(crate) dial: Option<SocketAddr>,
    pub(crate) tcp: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) token: String,
    pub(crate) from: Option<Ipv4Addr>,
    pub(crate) sni: String,
    pub(crate) two: bool,
}

impl File {
    /// Reads all files beside this one that are tables.
    pub(crate) fn all() -> Result<Vec<(String, Self)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/security/rows"))? {
            let path = entry?.path();
            let name = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            let text = std::fs::read_to_string(&path)?;
            files.push((
                name,
                serde_yaml::from_str(&text).with_context(|| path.display().to_string())?,
            ));
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(files)
    }
}

impl Row {
    /// All its requests.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let headers: Vec<(String, String)> = self
            .headers
            .iter()
            .flat_map(|(name, values)| {
                values
                    .all(&String::new())
                    .into_iter()
                    .map(|value| (name.clone(), value))
            })
            .collect();
        let default = Request::default();
        let mut all = vec![Request {
            dial: self.dial,
            tcp: self.tcp,
            headers,
            two: self.two,
            ..default.clone()
        }];
        let texts: [(Vec<String>, Put); 7] = [
            (self.caller.all(&default.caller), |request, value| {
                request.caller = value
            }),
            (self.to.all(&default.to), |request, value| request.to = value),
            (self.method.all(&default.method), |request, value| {
                request.method = value
            }),
            (self.path.all(&default.path), |request, value| request.path = value),
            (self.host.all(&default.host), |request, value| request.host = value),
            (self.token.all(&default.token), |request, value| request.token = value),
            (self.sni.all(&default.sni), |request, value| request.sni = value),
        ];
        for (values, put) in texts {
            all = product(&all, &values, put);
        }
        all = product(&all, &self.port.all(&default.port), |request, value| {
            request.port = value
        });
        let from: Vec<Option<Ipv4Addr>> = match &self.from {
            Many::Several(several) if several.is_empty() => vec![None],
            from => from.all(&Ipv4Addr::UNSPECIFIED).into_iter().map(Some).collect(),
        };
        product(&all, &from, |request, value| request.from = value)
    }

    /// What is not as it must be.
    fn unmet(&self, request: &Request, reply: &Result<Reply>) -> Vec<String> {
        let mut unmet = Vec::new();
        let verdict = self.verdict.0.as_str();
        let said = match reply {
            Err(error) => {
                if verdict != "broken" {
                    unmet.push(format!("{verdict}, but no answer: {error:#}"));
                }
                format!("{error:#}")
            }
            Ok(reply) => {
                let by = reply.by();
                let why = reply
                    .headers
                    .get("x-why")
                    .map(|why| String::from_utf8_lossy(why.as_bytes()).into_owned());
                let said = format!("{} {}", why.unwrap_or_default(), reply.body);
                let came = match &by {
                    Some(by) if *by == request.answers() && matches!(reply.status, 0 | 200) => "pass".to_owned(),
                    Some(by) => format!("{} by {by}", reply.status),
                    None => reply.status.to_string(),
                };
                if came != verdict {
                    unmet.push(format!("{verdict}, but {came}: {said:.300}"));
                }
                said
            }
        };
        if let Some(why) = self.why.as_ref().filter(|why| !said.contains(&why.0)) {
            unmet.push(format!("`{}` is not said, but: {said:.300}", why.0));
        }
        if !self.seen.is_empty() {
            let arrival = reply.as_ref().ok().and_then(Reply::arrival).unwrap_or_default();
            for (name, wanted) in &self.seen {
                let value = match name.as_str() {
                    ":path" => Some(&arrival.path),
                    ":authority" => Some(&arrival.authority),
                    ":method" => Some(&arrival.method),
                    name => arrival.headers.get(name),
                };
                let met = match (wanted, value) {
                    (Some(wanted), Some(value)) => wanted.holds(value),
                    (wanted, value) => wanted.is_none() && value.is_none(),
                };
                if !met {
                    let wanted = wanted.as_ref().map(|text| text.0.as_str());
                    unmet.push(format!("the application saw {name} {value:?} instead of {wanted:?}"));
                }
            }
        }
        unmet
    }
}

fn product<T: Clone>(all: &[Request], values: &[T], put: impl Fn(&mut Request, T)) -> Vec<Request> {
    let each = all.iter().flat_map(|request| {
        values.iter().map(|value| {
            let mut request = request.clone();
            put(&mut request, value.clone());
            request
        })
    });
    each.collect()
}

impl Default for Request {
    /// What a row asks that says nothing.
    fn default() -> Self {
        Self {
            caller: "plain".to_owned(),
            to: "web".to_owned(),
            port: 8080,
            dial: None,
            tcp: false,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: "web.shop".to_owned(),
            headers: Vec::new(),
            token: String::new(),
            from: None,
            sni: SNI.to_owned(),
            two: false,
        }
    }
}

impl Request {
    /// Whose answer it wants: behind the gateways it is `web`'s.
    fn answers(&self) -> &str {
        match self.to.as_str() {
            "ingress" | "behind" => "web",
            to => to,
        }
    }

    /// How it reaches whom it wants.
    pub(crate) fn line(&self, scene: &Scene) -> Result<Line> {
        let (place, tls) = match self.caller.strip_prefix('@') {
            Some(pod) => (scene.agents.get(pod).context("nobody has this name")?.place(), None),
            None => (scene.fabric.center(), scene.callers.tls(&self.caller, self.two)?),
        };
        let to = match self.dial {
            Some(dial) => dial,
            None => at(Scene::address(&self.to)?, self.port),
        };
        Ok(Line {
            place: place.clone(),
            from: self.from,
            to,
            tls,
            sni: self.sni.clone(),
            two: self.two,
        })
    }

    /// The request, over a stream of its own.
    pub(crate) async fn send(&self, scene: &Scene) -> Result<Reply> {
        let page = format!("row-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let line = self.line(scene)?;
        if self.tcp {
            return call::say_over(line.open().await?, &page).await;
        }
        line.connect().await?.ask(&self.ask(scene, page)?).await
    }

    /// As HTTP.
    pub(crate) fn ask(&self, scene: &Scene, page: String) -> Result<Ask> {
        let mut headers = self.headers.clone();
        if !self.token.is_empty() {
            let token = scene.tokens.get(&self.token)?;
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        for (_, value) in &mut headers {
            *value = scene.tokens.filled(value)?;
        }
        headers.push(("x-row".to_owned(), page));
        Ok(Ask {
            method: self.method.clone(),
            scheme: "http",
            authority: self.host.clone(),
            path: scene.tokens.filled(&self.path)?,
            headers,
        })
    }
}

/// A way to a proxy, with TLS where the caller speaks it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    place: Place,
    from: Option<Ipv4Addr>,
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    sni: String,
    two: bool,
}

impl Line {
    /// A stream.
    pub(crate) async fn open(&self) -> Result<Box<dyn Wire>> {
        let stream = match self.from {
            Some(from) => self.place.connect_from(from, self.to).await?,
            None => self.place.connect(self.to).await?,
        };
        secured(Box::new(stream), self.tls.clone(), &self.sni).await
    }

    /// A connection for HTTP.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        Connection::over(self.open().await?, self.two).await
    }
}

/// Asks all rows of a group; says how many requests were made, and how many only met their verdict when asked again.
pub(crate) async fn group(
    scene: &mut Scene,
    file: &str,
    group: &Group,
    failures: &mut Vec<String>,
) -> Result<(usize, usize)> {
    let (_, acknowledged) = scene.set(&group.mesh, &group.objects).await?;
    scene.warm().await?;
    let findings = scene.lateend.push_status().await?;
    let wrong = |finding: &&serde_json::Value| finding["severity"] == "error";
    let wrong: Vec<_> = findings["files"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(wrong)
        .collect();
    ensure!(wrong.is_empty(), "files: {wrong:?}");
    let (mut requests, mut again) = (0, 0);
    for row in &group.rows {
        for request in row.requests() {
            requests += 1;
            let mut first = true;
            loop {
                let late = acknowledged.elapsed() > LAG;
                let unmet = row.unmet(&request, &request.send(scene).await);
                if unmet.is_empty() {
                    again += usize::from(!first);
                    break;
                }
                first = false;
                if late {
                    let asked = format!(
                        "{} {} {}{} as {} at {}:{}",
                        request.method,
                        request.path,
                        request.host,
                        request.token,
                        request.caller,
                        request.to,
                        request.port
                    );
                    failures.push(format!(
                        "{file}: {}: {}: {asked}\n  {}",
                        group.name,
                        row.name,
                        unmet.join("\n  ")
                    ));
                    break;
                }
            }
        }
    }
    Ok((requests, again))
}
