//! The simulator is held to the rows: what it says of a request is what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use lateen_cli::render::{Inputs, World};
use lateen_compile::Family;
use lateen_simulate::{
    Answer, Connection, Entry, Forward, Http, Outcome, Proxy, Request, Tls, Trace, Transport, Verdict, Version,
    simulate,
};
use lateen_testkit::call::Reply;
use lateen_testkit::table::{Observed, Row};

use crate::base;
use crate::run::Target;

/// Headers toward a server that depend on more than configuration and request.
const OF_ENVOY: &[&str] = &[
    "x-envoy-",
    "x-request-id",
    "x-b3-",
    "traceparent",
    "x-forwarded-for",
    "content-length",
];
/// Of how many requests the shares are looked at.
const ENOUGH: usize = 100;

/// What the proxies of a table hold.
pub(crate) struct Foretold {
    world: World,
    held: BTreeMap<String, Proxy>,
}

impl Foretold {
    /// Reads the files that the control plane reads.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let world = World::load(&Inputs {
            files: vec![directory.join("base.yaml"), directory.join("table.yaml")],
            mesh_config: None,
            mesh_networks: None,
            remote_clusters: Vec::new(),
            environment: None,
            keep_rejected: false,
        })?;
        Ok(Self {
            world,
            held: BTreeMap::new(),
        })
    }

    /// What of a row came otherwise than foretold; `None` where no proxy is at the beginning of its way.
    pub(crate) fn wrong(&mut self, row: &Row, target: &Target, observed: &Observed) -> Result<Option<Vec<String>>> {
        let Some((pod, request)) = request(row, target) else {
            return Ok(None);
        };
        let outcomes = whole(&simulate(self.held(pod)?, &request));
        let behind = outcomes.iter().map(|outcome| match &outcome.verdict {
            Verdict::Forwarded(forward) => self.behind(pod, forward, &request),
            _ => Ok(Vec::new()),
        });
        let behind: Vec<Vec<Outcome>> = behind.collect::<Result<_>>()?;
        let mut wrong = Vec::new();
        let mut fitting: Vec<Vec<usize>> = Vec::new();
        for reply in &observed.replies {
            let mut reasons = Vec::new();
            let mut fits = Vec::new();
            for (at, outcome) in outcomes.iter().enumerate() {
                match misfit(outcome, &behind[at], reply.as_ref(), row) {
                    None => fits.push(at),
                    Some(reason) => reasons.push(reason),
                }
            }
            if fits.is_empty() {
                wrong.push(format!("foretold otherwise: {}", reasons.join("; or ")));
            }
            fitting.push(fits);
        }
        if fitting.len() >= ENOUGH && fitting.iter().all(|fits| fits.len() == 1) {
            for (at, outcome) in outcomes.iter().enumerate() {
                let count = fitting.iter().filter(|fits| fits[0] == at).count();
                let (seen, share, number) = (count as f64 / fitting.len() as f64, outcome.share, fitting.len() as f64);
                // Five standard deviations, and no less than a hundredth.
                let allowed = 5.0 * (share * (1.0 - share) / number).sqrt() + 0.01;
                if (seen - share).abs() > allowed {
                    wrong.push(format!(
                        "a share of {share} was foretold, {seen} seen, of {}",
                        shown(&outcome.verdict)
                    ));
                }
            }
        }
        wrong.dedup();
        Ok(Some(wrong))
    }

    /// What the proxies of the endpoints do with a request that is passed on to them; nothing where they have none.
    fn behind(&mut self, from: &base::Pod, forward: &Forward, request: &Request) -> Result<Vec<Outcome>> {
        let (Some(http), Some(upstream)) = (&forward.http, &forward.upstream) else {
            return Ok(Vec::new());
        };
        let version = match (upstream.protocol.as_str(), &request.http) {
            ("HTTP/2", _) => Version::Http2,
            ("as the client", Some(http)) => http.version,
            _ => Version::Http11,
        };
        let mut all = Vec::new();
        for endpoint in upstream.endpoints.iter().filter(|endpoint| endpoint.share > 0.0) {
            let Ok(address) = endpoint.address.parse::<SocketAddr>() else {
                continue;
            };
            let sidecar = |pod: &&base::Pod| IpAddr::V4(pod.2) == address.ip() && pod.4.is_empty();
            let Some(pod) = base::PODS.iter().find(sidecar) else {
                continue;
            };
            let own = format!("spiffe://cluster.local/ns/{}/sa/{}", from.1, from.0);
            let tls = match &endpoint.transport {
                Transport::Tls {
                    sni, alpn, certificate, ..
                } => Some(Tls {
                    sni: Some(sni.clone()).filter(|sni| !sni.is_empty()),
                    alpn: alpn.clone(),
                    peer: certificate.iter().map(|_| own.clone()).collect(),
                }),
                _ => None,
            };
            let request = Request {
                connection: Connection {
                    entry: Entry::Inbound(address),
                    source: Some(IpAddr::V4(from.2)),
                    tls,
                },
                http: Some(Http {
                    method: http.method.clone(),
                    authority: http.authority.clone(),
                    path: http.path.clone(),
                    headers: http.headers.clone(),
                    version,
                }),
            };
            all.extend(whole(&simulate(self.held(pod)?, &request)));
        }
        Ok(all)
    }

    fn held(&mut self, pod: &base::Pod) -> Result<&Proxy> {
        let name = format!("{}.{}", pod.0, pod.1);
        if !self.held.contains_key(&name) {
            let proxy = self.world.proxy_of_pod(&name)?;
            let built = lateen_compile::compile_alone(self.world.snapshot(), &proxy);
            let resources = built
                .iter()
                .filter(|(family, _)| !matches!(family, Family::Secrets | Family::NameTable));
            let resources = resources.filter_map(|(family, built)| Some((family.type_url(), built.resource.as_ref()?)));
            let held = Proxy::decode(resources.map(|(url, resource)| (url, &resource.bytes[..])))?;
            self.held.insert(name.clone(), held);
        }
        self.held.get(&name).context("just put there")
    }
}

/// The proxy that a row's request meets first, and how it meets it.
fn request(row: &Row, target: &Target) -> Option<(&'static base::Pod, Request)> {
    let to = target.line.to;
    let (pod, entry, source) = match base::PODS.iter().find(|pod| pod.0 == row.from) {
        Some(gateway) if !gateway.4.is_empty() => (gateway, Entry::Direct(to), None),
        Some(pod) => (pod, Entry::Outbound(to), Some(IpAddr::V4(pod.2))),
        None => {
            let pod = base::PODS.iter().find(|pod| IpAddr::V4(pod.2) == to.ip())?;
            (pod, Entry::Inbound(to), None)
        }
    };
    let grpc = target.scheme == "grpc";
    let alpn = if target.line.two { "h2" } else { "http/1.1" };
    let tls = target.line.tls.as_ref().map(|tls| Tls {
        sni: Some(tls.name.clone()),
        alpn: vec![alpn.to_owned()],
        peer: tls.credential.iter().map(|_| "client.test".to_owned()).collect(),
    });
    let mut headers: Vec<(String, String)> = row.headers.clone().into_iter().collect();
    if grpc {
        headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
        headers.push(("te".to_owned(), "trailers".to_owned()));
    }
    let http = !matches!(target.scheme.as_str(), "tcp" | "tls");
    let http = http.then(|| Http {
        method: if grpc { "POST".to_owned() } else { row.method.clone() },
        authority: target.authority.clone(),
        path: target.path.clone(),
        headers,
        version: if target.line.two {
            Version::Http2
        } else {
            Version::Http11
        },
    });
    let connection = Connection { entry, source, tls };
    Some((pod, Request { connection, http }))
}

/// Why a reply is not what an outcome says.
fn misfit(outcome: &Outcome, behind: &[Outcome], reply: Result<&Reply, &String>, row: &Row) -> Option<String> {
    match (reply, &outcome.verdict) {
        (Ok(reply), Verdict::Forwarded(forward)) => match reply.by() {
            Some(server) => {
                let arrives = |outcome: &Outcome| matches!(outcome.verdict, Verdict::Forwarded(_));
                match behind.is_empty() || behind.iter().any(arrives) {
                    true => forwarded(forward, reply, &server),
                    false => Some(format!(
                        "{} goes on to proxies that do not pass it on, but {server} answered",
                        forward.cluster
                    )),
                }
            }
            // A filter that is not simulated may answer.
            None if std::iter::once(outcome).chain(behind).any(unsure) => None,
            // The callee's own proxy may refuse what the caller's passes on.
            None if behind.iter().any(|outcome| says(outcome, reply)) => None,
            // The proxy speaks for a server that cannot be reached, fails, or takes too long.
            None if reply.status >= 500 || reply.status == 0 => None,
            // gRPC's errors come with 200.
            None if row.url.starts_with("grpc:") && row.expect.grpc.is_some() => None,
            None => Some(format!(
                "{} goes on, but the proxy answered {}",
                forward.cluster, reply.status
            )),
        },
        (Ok(reply), Verdict::Answered(answer)) => answered(answer, reply),
        (Ok(reply), Verdict::Refused { reason }) => Some(format!("refused, for {reason}, but {}", reply.status)),
        (Err(_), Verdict::Refused { .. }) => None,
        // What is passed on as bytes breaks off where the server is not there.
        (Err(error), Verdict::Forwarded(forward)) => {
            (forward.http.is_some() && !row.expect.broken).then(|| format!("{} goes on, but {error}", forward.cluster))
        }
        (Err(error), Verdict::Answered(answer)) => Some(format!("{} by the proxy, but {error}", answer.status)),
    }
}

/// The outcomes of a trace, each with all of its decisions.
fn whole(trace: &Trace) -> Vec<Outcome> {
    let all = trace.outcomes.iter();
    all.map(|outcome| Outcome {
        steps: trace.steps_of(outcome).cloned().collect(),
        ..outcome.clone()
    })
    .collect()
}

/// Whether a filter is on the way of which the simulator knows nothing.
fn unsure(outcome: &Outcome) -> bool {
    outcome.steps.iter().any(|step| step.why.contains("not simulated"))
}

/// Whether a proxy answers by itself, and so.
fn says(outcome: &Outcome, reply: &Reply) -> bool {
    matches!(&outcome.verdict, Verdict::Answered(answer) if answered(answer, reply).is_none())
}

fn forwarded(forward: &Forward, reply: &Reply, server: &str) -> Option<String> {
    if let Some(delay) = forward.delay.as_ref().filter(|delay| delay.share >= 1.0)
        && reply.took.as_millis() < u128::from(delay.milliseconds)
    {
        return Some(format!(
            "{} ms of delay, but it took {:?}",
            delay.milliseconds, reply.took
        ));
    }
    let endpoints: Vec<IpAddr> = forward
        .upstream
        .iter()
        .flat_map(|upstream| &upstream.endpoints)
        .filter_map(|endpoint| endpoint.address.rsplit_once(':')?.0.parse().ok())
        .collect();
    let proxied = |ip: &IpAddr| base::PODS.iter().any(|pod| IpAddr::V4(pod.2) == *ip);
    if endpoints.iter().any(proxied) {
        return None;
    }
    let address = base::SERVERS
        .iter()
        .find(|known| known.name == server)
        .map(|known| IpAddr::V4(known.address));
    if let Some(address) = address.filter(|address| !endpoints.is_empty() && !endpoints.contains(address)) {
        return Some(format!(
            "{} has {endpoints:?}, but {server} at {address} answered",
            forward.cluster
        ));
    }
    let (Some(http), Some(seen)) = (&forward.http, reply.arrival()) else {
        return None;
    };
    if seen.protocol == "TCP" {
        return None;
    }
    if (&seen.authority, &seen.path, &seen.method) != (&http.authority, &http.path, &http.method) {
        return Some(format!(
            "{} {} {}, but the server saw {} {} {}",
            http.method, http.authority, http.path, seen.method, seen.authority, seen.path
        ));
    }
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &http.headers {
        if !name.starts_with(':') && !OF_ENVOY.iter().any(|prefix| name.starts_with(prefix)) {
            wanted.entry(name).or_default().push(value);
        }
    }
    for (name, values) in wanted {
        // Values of one name are joined with and without a space, by who joins them.
        let plain = |text: &str| text.replace(", ", ",");
        let value = plain(&values.join(","));
        if seen.headers.get(name).map(|seen| plain(seen)) != Some(value.clone()) {
            return Some(format!(
                "{name}: {value}, but the server saw {:?}",
                seen.headers.get(name)
            ));
        }
    }
    None
}

fn answered(answer: &Answer, reply: &Reply) -> Option<String> {
    if let Some(server) = reply.by() {
        return Some(format!(
            "{} by the proxy ({}), but {server} answered",
            answer.status, answer.by
        ));
    }
    if answer.status != reply.status {
        return Some(format!(
            "{} by the proxy ({}), but {}",
            answer.status, answer.by, reply.status
        ));
    }
    for (name, value) in &answer.headers {
        let seen: Vec<_> = reply
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        if !seen.contains(&value.as_str()) {
            return Some(format!("{name}: {value} by the proxy, but {seen:?}"));
        }
    }
    let body = answer.body.as_ref().filter(|body| **body != reply.body);
    body.map(|body| format!("the body {body:?} by the proxy, but {:?}", reply.body))
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Answered(answer) => format!("{} by {}", answer.status, answer.by),
        Verdict::Forwarded(forward) => forward.cluster.clone(),
        Verdict::Refused { reason } => format!("a refusal for {reason}"),
    }
}
