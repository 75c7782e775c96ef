//! Queries that the mesh does not answer, passed on to the machine's resolvers as they came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// How a query came, and so how it is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The machine's resolvers.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    pub(super) servers: Vec<SocketAddr>,
    /// Ask all at once and take the first answer, else one after the other in random order.
    pub(super) parallel: bool,
    /// For one resolver.
    pub(super) timeout: Duration,
}

impl Upstream {
    /// The first answer that any resolver gives, with the ID of the query.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut servers = self.servers.clone();
        servers.shuffle(&mut rand::rng());
        let one = |server: SocketAddr| async move {
            let exchange = async {
                match transport {
                    Transport::Udp => over_udp(server, query).await,
                    Transport::Tcp => over_tcp(server, query).await,
                }
            };
            match tokio::time::timeout(self.timeout, exchange).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%error, %server, "resolver failed");
                    None
                }
                Err(_) => {
                    tracing::debug!(%server, "resolver did not answer in time");
                    None
                }
            }
        };
        if self.parallel {
            let mut all: FuturesUnordered<_> = servers.into_iter().map(one).collect();
            while let Some(answer) = all.next().await {
                if answer.is_some() {
                    return answer;
                }
            }
            return None;
        }
        for server in servers {
            if let Some(answer) = one(server).await {
                return Some(answer);
            }
        }
        None
    }
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let local = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A datagram with another ID is no answer to this query.
        if length >= 2 && buffer[..2] == query[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
