//! TPROXY: the application sees who called, though the proxy is in between.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::network::{APPLICATION, CLIENT, Network, POD, PROXY, Side, canonical, is_possible};
use crate::{ALL, BACKENDS, PROGRAMS, apply, check, to, world};

const MARK: u32 = 1337;

fn transparent(domain: Domain) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    socket
}

/// A proxy as Envoy is with an original-source listener: it calls the application from the client's address, at the
/// address that the client wanted, and passes on the answer.
fn proxy(network: &Network) {
    let listener = network.within(Side::Pod, 0, 0, || {
        let socket = transparent(Domain::IPV6);
        let any: SocketAddr = "[::]:15006".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(16).unwrap();
        std::net::TcpListener::from(socket)
    });
    let path = network.path(Side::Pod);
    std::thread::spawn(move || {
        use std::os::fd::AsFd as _;
        // The sockets below belong to the pod.
        let file = std::fs::File::open(path).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        while let Ok((mut stream, peer)) = listener.accept() {
            let wanted = canonical(stream.local_addr().unwrap());
            let peer = canonical(peer);
            let domain = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let upstream = transparent(domain);
            upstream.set_mark(MARK).unwrap();
            upstream.bind(&SocketAddr::new(peer.ip(), 0).into()).unwrap();
            let mut said = String::new();
            if upstream.connect(&wanted.into()).is_ok() {
                drop(TcpStream::from(upstream).read_to_string(&mut said));
            }
            drop(stream.write_all(format!("proxied-{said}").as_bytes()));
        }
    });
}

#[test]
fn the_application_sees_the_clients_address() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = Network::new();
        network.server(Side::Pod, "application", 8080);
        network.server(Side::Pod, "application", 9999);
        network.server(Side::Pod, "outbound", 15001);
        network.server(Side::Client, "outside", 9080);
        proxy(&network);
        apply(&network, &format!("{ALL} -m TPROXY {backend}"), &[]);
        for family in [0, 1] {
            let said = network.connect(Side::Client, APPLICATION, APPLICATION, to(POD[family], 8080));
            let mut words = said.split(' ');
            assert_eq!(words.next(), Some("proxied-application"), "{backend}: {said}");
            let seen: SocketAddr = words.next().unwrap().parse().unwrap();
            assert_eq!(seen.ip(), CLIENT[family], "{backend}: {said}");
            assert_eq!(
                words.next().unwrap(),
                to(POD[family], 8080).to_string(),
                "{backend}: {said}"
            );
            check(
                &network,
                backend,
                &[
                    (Side::Client, APPLICATION, to(POD[family], 9999), "application"),
                    (Side::Pod, APPLICATION, to(CLIENT[family], 9080), "outbound"),
                    (Side::Pod, PROXY, to(CLIENT[family], 9080), "outside"),
                    (Side::Pod, APPLICATION, to(POD[family], 8080), "application"),
                ],
            );
        }
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        check(&network, backend, &[(Side::Pod, APPLICATION, local, "application")]);
    }
}

#[test]
fn going_back_to_redirection_takes_the_routes_away() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = world();
        apply(&network, &format!("{ALL} -m TPROXY {backend}"), &[]);
        assert!(network.pod("ip rule list").contains("lookup 133"));
        assert!(network.pod("ip -6 rule list").contains("lookup 133"));
        apply(&network, &format!("{ALL} {backend}"), &[]);
        assert!(!network.pod("ip rule list").contains("lookup 133"));
        check(
            &network,
            backend,
            &[(Side::Client, APPLICATION, to(POD[0], 8080), "inbound")],
        );
    }
}
