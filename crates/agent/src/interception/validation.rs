//! Trying out whether connections are redirected: one to the pod's own address, at a port where nobody listens, made by
//! the proxy's user, must arrive at the inbound port.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::config::Environment;

const ATTEMPTS: Duration = Duration::from_millis(100);
const GREETING: &[u8] = b"redirected";

/// Connections do not come to Envoy. What repairs pods looks for the exit code of this failure.
#[derive(Debug)]
pub(crate) struct NotRedirected(String);

impl NotRedirected {
    /// What the process exits with.
    pub(crate) const EXIT_CODE: u8 = 126;
}

impl fmt::Display for NotRedirected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "connections are not redirected to Envoy: {}; is the CNI plugin installed on this node?",
            self.0
        )
    }
}

impl std::error::Error for NotRedirected {}

/// Tries until it works or `timeout` is over.
///
/// # Errors
/// [`NotRedirected`], or when the inbound port cannot be bound.
pub(super) fn run(inbound: u16, probe: u16, timeout: Duration, environment: &Environment) -> anyhow::Result<()> {
    let own = environment
        .get("INSTANCE_IP")
        .and_then(|ip| ip.split(',').next()?.trim().parse().ok());
    let own: IpAddr = own
        .or_else(|| crate::config::interface_ips().first().copied())
        .context("this network namespace has no address to try")?;
    let any = match own {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let listener = TcpListener::bind((any, inbound)).with_context(|| format!("port {inbound}"))?;
    let address = SocketAddr::new(own, probe);
    let deadline = Instant::now() + timeout;
    std::thread::scope(|scope| {
        // Ends with its listener, which is woken once more below.
        scope.spawn(|| greet(&listener, probe));
        let mut result = attempt(address);
        while result.is_err() && Instant::now() < deadline {
            #[expect(
                clippy::disallowed_methods,
                reason = "a command that has nothing else to do between attempts"
            )]
            std::thread::sleep(ATTEMPTS);
            result = attempt(address);
        }
        let local = match own {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        drop(TcpStream::connect((local, inbound)));
        match result {
            Ok(()) => {
                tracing::info!(%address, inbound, "connections are redirected");
                Ok(())
            }
            Err(error) => Err(NotRedirected(format!("{address}: {error}")).into()),
        }
    })
}

/// Greets whoever was redirected from the probed port; ends with the first who was not.
fn greet(listener: &TcpListener, probe: u16) {
    while let Ok((mut stream, _)) = listener.accept() {
        let original = match stream.local_addr() {
            Ok(SocketAddr::V4(_)) => rustix::net::sockopt::ip_original_dst(&stream).map(SocketAddr::V4),
            _ => rustix::net::sockopt::ipv6_original_dst(&stream).map(SocketAddr::V6),
        };
        if original.is_ok_and(|original| original.port() == probe) {
            // Who has gone already does not matter.
            let _ = stream.write_all(GREETING);
        } else {
            return;
        }
    }
}

fn attempt(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut read = Vec::new();
    stream.read_to_end(&mut read)?;
    if read == GREETING {
        return Ok(());
    }
    Err(std::io::Error::other("somebody else answers there"))
}
