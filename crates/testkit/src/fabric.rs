//! A network of its own: a namespace with a switch and the addresses of servers, and a namespace for each pod with a proxy.
//!
//! Nothing of it is to be seen from outside but the namespaces' names. What pods and servers need from this process (the
//! control plane) comes in through [`Fabric::relay`].

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::task::JoinSet;

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// Where the switch itself is, and with it everything outside of the pods.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace. Cheap to copy; it is gone with its [`Fabric`].
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
}

/// The network. It is removed when dropped.
#[derive(Debug)]
pub struct Fabric {
    center: Place,
    pods: Vec<Place>,
    relays: JoinSet<()>,
}

/// Whether this machine lets us make networks; says so when not.
pub fn is_possible() -> bool {
    let works = |program: &str| {
        let output = Command::new("unshare").args(["-n", program, "-V"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let root = rustix::process::getuid().is_root();
    let possible = root && ["ip", "iptables"].into_iter().all(works);
    if !possible {
        println!("skipped: not root, no right to make network namespaces, or no ip and iptables");
    }
    possible
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said}");
    Ok(())
}

impl Fabric {
    /// An empty one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let center = Place {
            name: format!("lateen-{:x}-{number}", std::process::id()),
        };
        ip(&format!("netns add {}", center.name))?;
        let fabric = Self {
            center,
            pods: Vec::new(),
            relays: JoinSet::new(),
        };
        let name = &fabric.center.name;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link add br0 type bridge"))?;
        ip(&format!("-n {name} link set br0 up"))?;
        ip(&format!("-n {name} address add {SWITCH}/16 dev br0"))?;
        Ok(fabric)
    }

    /// Where servers and clients outside of the mesh are.
    pub fn center(&self) -> &Place {
        &self.center
    }

    /// Gives the middle another address.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn address(&self, address: Ipv4Addr) -> Result<()> {
        ip(&format!("-n {} address add {address}/32 dev br0", self.center.name))
    }

    /// A namespace with an address of `10.77.0.0/16`, from which everything else goes to the middle.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pod(&mut self, address: Ipv4Addr) -> Result<Place> {
        let (center, number) = (self.center.name.clone(), self.pods.len());
        let name = format!("{center}-{number}");
        ip(&format!("netns add {name}"))?;
        let place = Place { name: name.clone() };
        self.pods.push(place.clone());
        ip(&format!(
            "link add eth0 netns {name} type veth peer name pod{number} netns {center}"
        ))?;
        ip(&format!("-n {center} link set pod{number} master br0"))?;
        ip(&format!("-n {center} link set pod{number} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} address add {address}/16 dev eth0"))?;
        ip(&format!("-n {name} route add default via {SWITCH}"))?;
        Ok(place)
    }

    /// Opens a port of the middle that leads to an address of this process's own network.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn relay(&mut self, port: u16, to: SocketAddr) -> Result<SocketAddr> {
        let at = SocketAddr::from((SWITCH, port));
        let listener = tokio::net::TcpListener::from_std(self.center.listen(at)?)?;
        self.relays.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inner, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut outer) = tokio::net::TcpStream::connect(to).await {
                        // A broken connection is the two ends' to notice.
                        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                    }
                });
            }
        });
        Ok(at)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for place in self.pods.iter().chain([&self.center]) {
            drop(Command::new("ip").args(["netns", "delete", &place.name]).output());
        }
    }
}

impl Place {
    /// Where the namespace is found.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A program that runs in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A socket that listens in it.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        self.within(move || {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .with_context(|| format!("cannot listen on {at}"))
    }

    /// A connection from it.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(&self, to: SocketAddr) -> Result<tokio::net::TcpStream> {
        let place = self.clone();
        let connecting = tokio::task::spawn_blocking(move || {
            place.within(move || {
                let stream = TcpStream::connect_timeout(&to, CONNECTING)?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            })
        });
        let stream = connecting.await?.with_context(|| format!("cannot connect to {to}"))?;
        Ok(tokio::net::TcpStream::from_std(stream)?)
    }

    /// A connection from it that comes from one of its addresses.
    ///
    /// # Errors
    /// When the address is not one of its own, or nobody answers.
    pub async fn connect_from(&self, source: Ipv4Addr, to: SocketAddr) -> Result<tokio::net::TcpStream> {
        let socket = self.within(move || {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((source, 0)))?;
            Ok(socket)
        })?;
        let stream = tokio::time::timeout(CONNECTING, socket.connect(to)).await;
        let stream = stream.context("nobody answers")?;
        let stream = stream.with_context(|| format!("cannot connect to {to} from {source}"))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Does something on a thread of its own in the namespace: sockets stay where they are made.
    fn within<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                let file = File::open(&path)?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work()?)
            });
            thread.join().map_err(|_| anyhow!("the thread panicked"))?
        })
    }
}

/// An address of the network.
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}
