//! Two network namespaces joined by a cable: a pod's and a client's, with servers and clients in them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Long enough for a busy machine; whoever is not answered by then is not answered.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The proxy's user and group.
pub(crate) const PROXY: u32 = 1337;
/// An application's.
pub(crate) const APPLICATION: u32 = 1000;

pub(crate) const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
];
pub(crate) const CLIENT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
];

/// Which of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Pod,
    Client,
}

/// Both namespaces; gone when dropped.
pub(crate) struct Network {
    id: String,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether this machine lets us make namespaces; says so when not.
pub(crate) fn is_possible(programs: &[&str]) -> bool {
    let works = |program: &str| {
        let output = Command::new("unshare").args(["-n", program, "-V"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !works(program)).collect();
    if !missing.is_empty() {
        println!("skipped: no right to make network namespaces, or no {missing:?}");
    }
    missing.is_empty()
}

impl Network {
    /// Makes them.
    pub(crate) fn new() -> Self {
        let id = format!("lateen{:x}", rand::random::<u32>());
        let network = Self { id };
        let (pod, client) = (network.name(Side::Pod), network.name(Side::Client));
        ip(&format!("netns add {pod}"));
        ip(&format!("netns add {client}"));
        ip(&format!(
            "link add eth0 netns {pod} type veth peer name eth0 netns {client}"
        ));
        for (name, addresses) in [(&pod, POD), (&client, CLIENT)] {
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} address add {}/24 dev eth0", addresses[0]));
            ip(&format!("-n {name} address add {}/64 dev eth0 nodad", addresses[1]));
        }
        // Addresses elsewhere are behind the client.
        ip(&format!("-n {pod} route add default via {}", CLIENT[0]));
        ip(&format!("-n {pod} -6 route add default via {}", CLIENT[1]));
        ip(&format!("-n {client} address add 10.99.0.1/32 dev lo"));
        network
    }

    fn name(&self, side: Side) -> String {
        match side {
            Side::Pod => format!("{}p", self.id),
            Side::Client => format!("{}c", self.id),
        }
    }

    /// Where a namespace is found.
    pub(crate) fn path(&self, side: Side) -> String {
        format!("/run/netns/{}", self.name(side))
    }

    /// Runs the agent's command in the pod.
    pub(crate) fn agent(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.name(Side::Pod),
                env!("CARGO_BIN_EXE_lateen-agent"),
            ])
            .args(arguments)
            .envs(variables.iter().copied())
            .env("LATEEN_LOG", "warn")
            .output()
            .unwrap()
    }

    /// Runs a program in the pod; what it prints.
    pub(crate) fn pod(&self, command: &str) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name(Side::Pod)])
            .args(command.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something in a namespace, as a user and a group.
    pub(crate) fn within<T: Send>(&self, side: Side, user: u32, group: u32, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path(side);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let file = std::fs::File::open(path).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_gid(Gid::from_raw(group)).unwrap();
                rustix::thread::set_thread_uid(Uid::from_raw(user)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// A server on all addresses that tells each client its name and the addresses that it sees: the client's, and where
    /// the client wanted to.
    pub(crate) fn server(&self, side: Side, name: &'static str, port: u16) {
        let listener = self.within(side, 0, 0, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let wanted = wanted(&stream);
                drop(stream.write_all(format!("{name} {} {wanted}", canonical(peer)).as_bytes()));
            }
        });
    }

    /// Who answers a connection, and the client's address and the wanted one as it sees them.
    pub(crate) fn connect(&self, side: Side, user: u32, group: u32, to: SocketAddr) -> String {
        self.within(side, user, group, || call(to))
    }

    /// A resolver that answers every datagram with its name and the question.
    pub(crate) fn resolver(&self, side: Side, name: &'static str, address: SocketAddr, user: u32) {
        let socket = self.within(side, user, user, || UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
                drop(socket.send_to(&answer, client));
            }
        });
    }

    /// The answer to a datagram.
    pub(crate) fn ask(&self, user: u32, to: SocketAddr, question: &str) -> String {
        self.within(Side::Pod, user, user, || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            // Connected: an answer from another address than the one asked is none.
            socket.connect(to).unwrap();
            socket.send(question.as_bytes()).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for side in [Side::Pod, Side::Client] {
            drop(Command::new("ip").args(["netns", "delete", &self.name(side)]).output());
        }
    }
}

/// What a server says, or that there is none.
pub(crate) fn call(to: SocketAddr) -> String {
    let connected = TcpStream::connect_timeout(&to, TIMEOUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    });
    connected.unwrap_or_else(|error| format!("nobody: {error}"))
}

/// Where the client wanted to, before its connection was redirected.
fn wanted(stream: &TcpStream) -> SocketAddr {
    let local = canonical(stream.local_addr().unwrap());
    let original = if local.is_ipv4() {
        rustix::net::sockopt::ip_original_dst(stream).map(SocketAddr::V4)
    } else {
        rustix::net::sockopt::ipv6_original_dst(stream).map(SocketAddr::V6)
    };
    original.unwrap_or(local)
}

/// IPv4 addresses on an IPv6 socket as what they are.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
