//! The DNS server: UDP and TCP on one port, a bounded number of queries at a time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::resolv::ResolvConf;
use super::table::{Family, Found, LookupTable, View};
use super::upstream::{Transport, Upstream};
use crate::ads::NameTable;
use crate::config::DnsConfig;
use crate::metrics::Metrics;

/// Seconds that a client may keep an answer: short, because addresses change with the mesh.
const TTL: u32 = 30;
/// Queries answered at a time; further datagrams wait in the socket's buffer.
const MAXIMUM_QUERIES: usize = 512;
const MAXIMUM_CONNECTIONS: usize = 128;
const IDLE_CONNECTION: Duration = Duration::from_secs(10);
/// What a client without EDNS takes in a datagram (RFC 1035, §4.2.1).
const SMALLEST_DATAGRAM: u16 = 512;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The former resolv.conf, where the machine's own was pointed at this agent.
const SAVED_RESOLV_CONF: &str = "/var/lib/istio/resolv.conf";

/// Everything that an answer depends on.
struct Resolver {
    table: watch::Receiver<Option<Arc<LookupTable>>>,
    upstream: Upstream,
    /// The machine's resolver is this server: it must answer before it knows the mesh.
    answer_before_sync: bool,
    metrics: Arc<Metrics>,
}

/// Answers until told to stop.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) async fn serve(
    config: DnsConfig,
    names: watch::Receiver<Option<Arc<NameTable>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let own_resolver = config.listen.iter().any(|address| address.port() == 53);
    let path = if own_resolver && Path::new(SAVED_RESOLV_CONF).is_file() {
        SAVED_RESOLV_CONF
    } else {
        RESOLV_CONF
    };
    let conf = ResolvConf::parse(&std::fs::read_to_string(path).with_context(|| path.to_owned())?);
    let view = View::new(&config.namespace, &config.domain, conf.search.first().cloned());
    // Asking itself would never end.
    let servers = conf
        .servers
        .into_iter()
        .filter(|server| !config.listen.contains(server))
        .collect();
    let (tables, table) = watch::channel(None);
    let resolver = Arc::new(Resolver {
        table,
        upstream: Upstream {
            servers,
            parallel: config.parallel,
            timeout: config.timeout,
        },
        answer_before_sync: own_resolver,
        metrics,
    });
    let mut servers = Vec::new();
    for address in &config.listen {
        let udp = UdpSocket::bind(address)
            .await
            .with_context(|| format!("DNS, UDP {address}"))?;
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("DNS, TCP {address}"))?;
        servers.push(serve_udp(udp, Arc::clone(&resolver)).boxed());
        servers.push(serve_tcp(tcp, Arc::clone(&resolver)).boxed());
    }
    tokio::select! {
        () = follow(names, tables, view) => Ok(()),
        result = futures::future::try_join_all(servers) => result.map(drop),
        () = stop.cancelled() => Ok(()),
    }
}

/// Prepares each name table as it comes.
async fn follow(
    mut names: watch::Receiver<Option<Arc<NameTable>>>,
    tables: watch::Sender<Option<Arc<LookupTable>>>,
    view: View,
) {
    loop {
        let table = names.borrow_and_update().clone();
        if let Some(table) = table {
            let table = LookupTable::new(&table, &view);
            tracing::debug!(names = table.len(), "name table");
            tables.send_replace(Some(Arc::new(table)));
        }
        if names.changed().await.is_err() {
            // The sender lives as long as the process.
            return std::future::pending().await;
        }
    }
}

async fn serve_udp(socket: UdpSocket, resolver: Arc<Resolver>) -> anyhow::Result<()> {
    let socket = Arc::new(socket);
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        while answers.try_join_next().is_some() {}
        if answers.len() >= MAXIMUM_QUERIES {
            answers.join_next().await;
            continue;
        }
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer is no reason to stop.
            Err(error) => {
                tracing::debug!(%error, "DNS datagram");
                continue;
            }
        };
        let (query, socket, resolver) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&resolver));
        answers.spawn(async move {
            if let Some(answer) = resolver.answer(&query, Transport::Udp).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!(%error, "DNS answer");
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MAXIMUM_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = Arc::clone(&room).acquire_owned().await?;
        let (stream, _): (TcpStream, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "DNS connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let resolver = Arc::clone(&resolver);
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, &resolver).await {
                tracing::debug!(%error, "DNS connection");
            }
        });
    }
}

async fn converse(mut stream: TcpStream, resolver: &Resolver) -> std::io::Result<()> {
    loop {
        let Ok(length) = tokio::time::timeout(IDLE_CONNECTION, stream.read_u16()).await else {
            return Ok(());
        };
        let mut query = vec![0; usize::from(length?)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = resolver.answer(&query, Transport::Tcp).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}

// === impl Resolver ===

impl Resolver {
    /// The answer to a query; none when it is no query at all.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.metrics.dns_requests.increment();
        let message = Message::from_vec(query).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let Some(question) = message.queries.first() else {
            return failure(&message);
        };
        let table = self.table.borrow().clone();
        let Some(table) = table else {
            return if self.answer_before_sync {
                self.pass_on(query, &message, transport).await
            } else {
                failure(&message)
            };
        };
        let name = question.name().to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let family = match question.query_type() {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        };
        match family.and_then(|family| table.find(name, family)) {
            Some(found) => respond(&message, question.name(), &found, transport),
            None => self.pass_on(query, &message, transport).await,
        }
    }

    async fn pass_on(&self, query: &[u8], message: &Message, transport: Transport) -> Option<Vec<u8>> {
        self.metrics.dns_upstream_requests.increment();
        let answer = self.upstream.ask(query, transport).await;
        if answer.is_none() {
            self.metrics.dns_upstream_failures.increment();
            return failure(message);
        }
        answer
    }
}

/// An answer from the table: authoritative, addresses in random order, cut where the client takes no more.
fn respond(query: &Message, asked: &Name, found: &Found, transport: Transport) -> Option<Vec<u8>> {
    let mut response = reply(query);
    response.metadata.authoritative = true;
    let mut owner = asked.clone();
    // Without addresses the answer is empty: an alias alone would make clients ask on.
    if let Some(target) = found.alias_of.as_ref().filter(|_| !found.addresses.is_empty()) {
        let target = Name::from_ascii(format!("{target}.")).ok()?;
        response.add_answer(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
        owner = target;
    }
    let mut addresses = found.addresses.clone();
    addresses.shuffle(&mut rand::rng());
    for address in addresses {
        let data = match address {
            std::net::IpAddr::V4(ip) => RData::A(A(ip)),
            std::net::IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        response.add_answer(Record::from_rdata(owner.clone(), TTL, data));
    }
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(
            query
                .edns
                .as_ref()
                .map_or(SMALLEST_DATAGRAM, |edns| edns.max_payload().max(SMALLEST_DATAGRAM)),
        ),
    };
    let bytes = response.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    response.truncate().to_vec().ok()
}

fn failure(query: &Message) -> Option<Vec<u8>> {
    let mut response = reply(query);
    response.metadata.response_code = ResponseCode::ServFail;
    response.to_vec().ok()
}

/// An answer without records to a query.
fn reply(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().take(1).cloned());
    if let Some(edns) = &query.edns {
        let mut own = hickory_proto::op::Edns::new();
        own.set_max_payload(edns.max_payload().max(SMALLEST_DATAGRAM));
        response.set_edns(own);
    }
    response
}

#[cfg(test)]
mod tests;
