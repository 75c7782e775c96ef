//! From proxy to proxy.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use lateen_compile::{Classes, mtls};
use lateen_model::Proxy;
use lateen_model::policy::MtlsMode;
use lateen_model::proxy::{Interception, ProxyKind};
use lateen_simulate::{Connection, Entry, Forward, Http, Request, Tls, Trace, Transport, Verdict, Version, simulate};
use serde::Serialize;

use super::held;
use super::names::{self, Resolved};
use super::target::{Scheme, Target};
use crate::render::World;

/// How many callees are told of, at most: one for each cluster that the request may go to.
const CALLEES: usize = 4;
/// How many proxies are behind one another, at most.
const DEPTH: usize = 4;
/// The name of the workload's own certificate.
const OWN: &str = "default";

/// What is to be told.
pub(super) struct Question {
    pub(super) from: String,
    pub(super) target: Target,
    pub(super) method: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) address: Option<IpAddr>,
    pub(super) client: Option<IpAddr>,
}

/// What a proxy is to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Beside the caller.
    Caller,
    /// Between.
    Gateway,
    /// Beside the application that is called.
    Callee,
}

/// One proxy.
#[derive(Debug, Serialize)]
pub(super) struct Hop {
    pub(super) role: Role,
    /// `<pod>.<namespace>`.
    pub(super) proxy: String,
    /// The address that the connection is made to.
    pub(super) address: SocketAddr,
    /// The cluster of the hop before that leads here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    /// What is to be known beside the trace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
    pub(super) trace: Trace,
}

/// The whole way.
#[derive(Debug, Serialize)]
pub(super) struct Journey {
    pub(super) from: String,
    pub(super) to: String,
    /// None where no HTTP is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resolved: Option<Resolved>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
    /// Proxies in order; where the ways part, those of the first way come first.
    pub(super) hops: Vec<Hop>,
}

impl Journey {
    /// Whether somebody gets the request, or a proxy answers it well.
    pub(super) fn arrives(&self) -> bool {
        self.hops.first().is_some_and(|hop| self.arrives_from(hop))
    }

    fn arrives_from(&self, hop: &Hop) -> bool {
        hop.trace.outcomes.iter().any(|outcome| match &outcome.verdict {
            // gRPC says in a header what HTTP says in its status.
            Verdict::Answered(answer) => {
                let failed = |(name, value): &(String, String)| name == "grpc-status" && value != "0";
                answer.status < 400 && !answer.headers.iter().any(failed)
            }
            Verdict::Refused { .. } => false,
            Verdict::Forwarded(forward) if hop.role == Role::Callee => !forward.cluster.is_empty(),
            Verdict::Forwarded(forward) => {
                let mut next = self
                    .hops
                    .iter()
                    .filter(|next| next.by.as_ref() == Some(&forward.cluster) && !std::ptr::eq(*next, hop))
                    .peekable();
                next.peek().is_none() || next.any(|next| self.arrives_from(next))
            }
        })
    }
}

/// Follows a request.
pub(super) fn follow(world: &World, question: &Question) -> Result<Journey> {
    let proxy = world.proxy_of_pod(&question.from)?;
    let mut journey = Journey {
        from: question.from.clone(),
        to: question.target.text.clone(),
        method: question.target.is_http().then(|| http(question).method),
        resolved: None,
        notes: Vec::new(),
        hops: Vec::new(),
    };
    let target = &question.target;
    let (role, entry, source) = match proxy.kind {
        ProxyKind::Sidecar => {
            if !world.has_proxy(&question.from) {
                let note = "nothing says that this pod has a sidecar: this is what happens once it has one";
                journey.notes.push(note.to_owned());
            }
            let mut resolved = names::resolve(world.snapshot(), &proxy, world.domain(), &target.host);
            if let Some(address) = question.address {
                resolved = Resolved {
                    address,
                    how: "as --address says".to_owned(),
                };
            }
            let address = SocketAddr::new(resolved.address, target.port);
            journey.resolved = Some(resolved);
            let entry = if proxy.interception == Interception::None {
                Entry::Direct(address)
            } else {
                Entry::Outbound(address)
            };
            (Role::Caller, entry, proxy.addresses.first().copied())
        }
        ProxyKind::Router => (
            Role::Gateway,
            Entry::Direct(door(world, &proxy, target.port)?),
            question.client,
        ),
        ProxyKind::Waypoint | ProxyKind::Ztunnel => {
            bail!(
                "{} is a proxy of the ambient mesh, which is not simulated",
                question.from
            )
        }
    };
    let tls = target.is_tls().then(|| Tls {
        sni: Some(target.host.clone()).filter(|host| host.parse::<IpAddr>().is_err()),
        alpn: match target.scheme {
            Scheme::Https => vec!["h2".to_owned(), "http/1.1".to_owned()],
            _ => Vec::new(),
        },
        peer: Vec::new(),
    });
    let request = Request {
        connection: Connection { entry, source, tls },
        http: target.is_http().then(|| http(question)),
    };
    let mut walk = Walk {
        world,
        hops: Vec::new(),
    };
    walk.visit(&proxy, role, &request, None, DEPTH)?;
    journey.hops = walk.hops;
    Ok(journey)
}

fn http(question: &Question) -> Http {
    let grpc = question.target.scheme == Scheme::Grpc;
    let mut headers = question.headers.clone();
    let mut authority = question.target.authority.clone();
    headers.retain(|(name, value)| {
        let host = name.eq_ignore_ascii_case("host") || name == ":authority";
        if host {
            authority.clone_from(value);
        }
        !host
    });
    if grpc
        && !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
    }
    Http {
        method: if grpc {
            "POST".to_owned()
        } else {
            question.method.clone()
        },
        authority,
        path: question.target.path.clone(),
        headers,
        version: if grpc { Version::Http2 } else { Version::Http11 },
    }
}

/// Where a gateway is open for a port: its Service may send the port to another one.
fn door(world: &World, proxy: &Proxy, port: u16) -> Result<SocketAddr> {
    let Some(ip) = proxy.addresses.first().copied() else {
        bail!("the gateway {}.{} has no address yet", proxy.name, proxy.namespace);
    };
    let instances = world.snapshot().instances.get(&(proxy.cluster.clone(), ip));
    let target = instances
        .and_then(|all| all.instances.iter().find(|one| one.port == port))
        .map(|one| one.target_port);
    Ok(SocketAddr::new(ip, target.unwrap_or(port)))
}

struct Walk<'a> {
    world: &'a World,
    hops: Vec<Hop>,
}

impl Walk<'_> {
    fn visit(&mut self, proxy: &Proxy, role: Role, request: &Request, by: Option<String>, left: usize) -> Result<()> {
        let held = held::of(self.world.snapshot(), proxy)?;
        let trace = simulate(&held, request);
        let address = request.connection.entry.destination();
        let notes = match role {
            Role::Callee => policies(self.world, proxy, address.port()),
            Role::Caller | Role::Gateway => Vec::new(),
        };
        let forwards = trace.outcomes.iter().filter_map(|outcome| match &outcome.verdict {
            Verdict::Forwarded(forward) => Some(Forward::clone(forward)),
            _ => None,
        });
        let ways: Vec<Forward> = forwards.collect();
        self.hops.push(Hop {
            role,
            proxy: format!("{}.{}", proxy.name, proxy.namespace),
            address,
            by,
            notes,
            trace,
        });
        // Behind the callee's proxy there is the application.
        if role == Role::Callee || left == 0 {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let ways = ways.into_iter().filter(|forward| seen.insert(forward.cluster.clone()));
        for forward in ways.take(CALLEES) {
            self.go_on(proxy, request, &forward, left - 1)?;
        }
        Ok(())
    }

    /// Follows to the endpoint that gets most, if it is a pod with a proxy.
    fn go_on(&mut self, from: &Proxy, request: &Request, forward: &Forward, left: usize) -> Result<()> {
        let Some(upstream) = &forward.upstream else {
            return Ok(());
        };
        let mut best: Option<&lateen_simulate::Endpoint> = None;
        for endpoint in &upstream.endpoints {
            if endpoint.share > best.map_or(0.0, |best| best.share) {
                best = Some(endpoint);
            }
        }
        let Some((endpoint, address)) =
            best.and_then(|endpoint| Some((endpoint, endpoint.address.parse::<SocketAddr>().ok()?)))
        else {
            return Ok(());
        };
        let Some(pod) = self.world.pod_at(address.ip()) else {
            return Ok(());
        };
        if !self.world.has_proxy(&pod) {
            return Ok(());
        }
        let proxy = self.world.proxy_of_pod(&pod)?;
        let (role, entry) = match proxy.kind {
            ProxyKind::Sidecar => (Role::Callee, Entry::Inbound(address)),
            ProxyKind::Router => (Role::Gateway, Entry::Direct(address)),
            ProxyKind::Waypoint | ProxyKind::Ztunnel => return Ok(()),
        };
        let tls = match &endpoint.transport {
            Transport::Tls {
                sni, alpn, certificate, ..
            } => {
                let host = forward.http.as_ref().map(|http| http.authority.clone());
                Some(Tls {
                    sni: if sni == "*" {
                        host
                    } else {
                        Some(sni.clone()).filter(|sni| !sni.is_empty())
                    },
                    alpn: alpn.clone(),
                    peer: certificate
                        .iter()
                        .filter(|name| *name == OWN)
                        .map(|_| identity(self.world, from))
                        .collect(),
                })
            }
            // TLS of the client's own goes through.
            _ if forward.http.is_none() => request.connection.tls.clone(),
            _ => None,
        };
        let asked = match &forward.http {
            Some(http) => Some(Http {
                method: http.method.clone(),
                authority: http.authority.clone(),
                path: http.path.clone(),
                headers: http.headers.clone(),
                version: match upstream.protocol.as_str() {
                    "HTTP/2" => Version::Http2,
                    "as the client" => request.http.as_ref().map_or(Version::Http11, |http| http.version),
                    _ => Version::Http11,
                },
            }),
            None => request.http.clone(),
        };
        let next = Request {
            connection: Connection {
                entry,
                source: from.addresses.first().copied(),
                tls,
            },
            http: asked,
        };
        self.visit(&proxy, role, &next, Some(forward.cluster.clone()), left)
    }
}

fn identity(world: &World, proxy: &Proxy) -> String {
    format!(
        "spiffe://{}/ns/{}/sa/{}",
        world.snapshot().mesh.trust_domain,
        proxy.namespace,
        proxy.service_account
    )
}

/// Which mode of mutual TLS holds, and by what.
fn policies(world: &World, proxy: &Proxy, port: u16) -> Vec<String> {
    let classes = Classes::of(world.snapshot(), proxy);
    let inbound = &classes.inbound;
    let mode = match mtls::mode(world.snapshot(), &inbound.policies.peer, &inbound.namespace, port) {
        MtlsMode::Strict => "is demanded",
        MtlsMode::Disable => "is off",
        MtlsMode::Permissive | MtlsMode::Unset => "may be used",
    };
    let by: Vec<String> = inbound
        .policies
        .peer
        .iter()
        .map(|key| format!("PeerAuthentication {key}"))
        .collect();
    let by = if by.is_empty() {
        "no PeerAuthentication speaks of it".to_owned()
    } else {
        by.join(", ")
    };
    vec![format!("mutual TLS {mode}: {by}")]
}
