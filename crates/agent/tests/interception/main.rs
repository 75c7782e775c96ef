//! Interception in network namespaces of their own: rules, and what they do to real connections. Needs root, iptables,
//! nft and ip; prints what it skips without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod network;
mod transparent;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use network::{APPLICATION, CLIENT, Network, POD, PROXY, Side, is_possible};

/// Everything in and out, but for some ports and a range, and DNS, of both IP versions.
const ALL: &str = "-b * -d 15020,9999 -i * -x 10.99.0.0/16 -o 3306 --redirect-dns --capture-all-dns --dual-stack";
const BACKENDS: [&str; 2] = ["--native-nftables=false", "--native-nftables"];
const PROGRAMS: [&str; 3] = ["iptables", "nft", "ip"];

fn apply(network: &Network, arguments: &str, variables: &[(&str, &str)]) {
    let arguments: Vec<&str> = ["init"].into_iter().chain(arguments.split_whitespace()).collect();
    let output = network.agent(&arguments, variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn to(ip: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A pod with an application and a proxy, and a client with servers of its own.
fn world() -> Network {
    let network = Network::new();
    network.server(Side::Pod, "outbound", 15001);
    network.server(Side::Pod, "inbound", 15006);
    for port in [8080, 9999, 15008] {
        network.server(Side::Pod, "application", port);
    }
    for port in [9080, 3306, 443] {
        network.server(Side::Client, "outside", port);
    }
    network
}

/// Each answer: who calls from where as whom, whom, and who answers.
fn check(network: &Network, name: &str, cases: &[(Side, u32, SocketAddr, &str)]) {
    for (side, user, address, expected) in cases {
        let said = network.connect(*side, *user, *user, *address);
        let answered = said.split(' ').next().unwrap();
        assert_eq!(answered, *expected, "{name}: {side:?} {user} to {address}: {said}");
        if *expected != "nobody:" {
            assert!(
                said.ends_with(&format!(" {address}")),
                "{name}: wanted {address}: {said}"
            );
        }
    }
}

#[test]
fn traffic_goes_through_the_proxy_but_not_its_own() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = world();
        apply(&network, &format!("{ALL} {backend}"), &[]);
        // A second run must leave everything as it is.
        apply(&network, &format!("{ALL} {backend}"), &[]);
        for family in [0, 1] {
            let (pod, client) = (POD[family], CLIENT[family]);
            check(
                &network,
                backend,
                &[
                    (Side::Client, APPLICATION, to(pod, 8080), "inbound"),
                    (Side::Client, APPLICATION, to(pod, 7), "inbound"),
                    (Side::Client, APPLICATION, to(pod, 9999), "application"),
                    (Side::Client, APPLICATION, to(pod, 15008), "application"),
                    (Side::Pod, APPLICATION, to(client, 9080), "outbound"),
                    (Side::Pod, APPLICATION, to(client, 3306), "outside"),
                    (Side::Pod, PROXY, to(client, 9080), "outside"),
                    // To its own pod the proxy goes through inbound, the application does not.
                    (Side::Pod, PROXY, to(pod, 8080), "inbound"),
                    (Side::Pod, APPLICATION, to(pod, 8080), "application"),
                ],
            );
        }
        let local = "127.0.0.1:8080".parse().unwrap();
        check(
            &network,
            backend,
            &[
                (Side::Pod, APPLICATION, local, "application"),
                (Side::Pod, PROXY, local, "application"),
                (Side::Pod, APPLICATION, "10.99.0.1:9080".parse().unwrap(), "outside"),
                // Nobody has this address, but the proxy takes the connection.
                (Side::Pod, APPLICATION, "192.0.2.1:80".parse().unwrap(), "outbound"),
            ],
        );
    }
}

#[test]
fn only_what_is_named_is_redirected() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = world();
        let arguments = format!("-b 8080 -i 10.77.0.0/24,2001:db8::/32 -q 443 --dual-stack {backend}");
        // The groups of some applications are left alone.
        apply(
            &network,
            &arguments,
            &[("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "2000,2001")],
        );
        check(
            &network,
            backend,
            &[
                (Side::Client, APPLICATION, to(POD[0], 8080), "inbound"),
                (Side::Client, APPLICATION, to(POD[0], 9999), "application"),
                (Side::Pod, APPLICATION, to(CLIENT[0], 9080), "outbound"),
                (Side::Pod, APPLICATION, "10.99.0.1:9080".parse().unwrap(), "outside"),
                (Side::Pod, APPLICATION, "10.99.0.1:443".parse().unwrap(), "outbound"),
                (Side::Pod, APPLICATION, to(CLIENT[1], 9080), "outside"),
                (Side::Pod, APPLICATION, to(CLIENT[1], 443), "outbound"),
                (Side::Pod, 2001, to(CLIENT[0], 9080), "outside"),
            ],
        );
        // Now only one group is redirected, and an interface is left alone.
        apply(&network, &arguments, &[("ISTIO_OUTBOUND_OWNER_GROUPS", "2000,2001")]);
        check(
            &network,
            backend,
            &[
                (Side::Pod, APPLICATION, to(CLIENT[0], 9080), "outside"),
                (Side::Pod, 2001, to(CLIENT[0], 9080), "outbound"),
            ],
        );
        apply(&network, &format!("{arguments} -c eth+"), &[]);
        check(
            &network,
            backend,
            &[
                (Side::Client, APPLICATION, to(POD[0], 8080), "application"),
                (Side::Pod, APPLICATION, to(CLIENT[0], 9080), "outside"),
            ],
        );
    }
}

#[test]
fn queries_go_to_the_agent_and_its_own_to_the_resolver() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = world();
        for (family, local) in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .into_iter()
            .enumerate()
        {
            network.resolver(Side::Pod, "agent", to(local, 15053), PROXY);
            network.resolver(Side::Client, "resolver", to(CLIENT[family], 53), 0);
        }
        network.server(Side::Pod, "agent", 15053);
        apply(&network, &format!("{ALL} {backend}"), &[]);
        for family in [0, 1] {
            let server = to(CLIENT[family], 53);
            for question in ["one", "two"] {
                assert_eq!(
                    network.ask(APPLICATION, server, question),
                    format!("agent {question}"),
                    "{backend}"
                );
                assert_eq!(
                    network.ask(PROXY, server, question),
                    format!("resolver {question}"),
                    "{backend}"
                );
            }
            check(&network, backend, &[(Side::Pod, APPLICATION, server, "agent")]);
        }
    }
}

#[test]
fn virtual_machines_behind_an_interface_go_out_through_the_proxy() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let network = world();
        apply(&network, &format!("-b * -i * -k eth0 --dual-stack {backend}"), &[]);
        check(
            &network,
            backend,
            &[
                (Side::Client, APPLICATION, to(POD[0], 8080), "outbound"),
                (Side::Client, APPLICATION, to(POD[1], 8080), "outbound"),
            ],
        );
    }
}

#[test]
fn a_second_run_changes_nothing_and_cleaning_up_leaves_what_others_made() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    for backend in BACKENDS {
        let nftables = backend == "--native-nftables";
        let (show, foreign) = if nftables {
            ("nft list ruleset", "nft add table inet others")
        } else {
            ("iptables-save", "iptables -t nat -A OUTPUT -p tcp --dport 9 -j RETURN")
        };
        let rules = |network: &Network| {
            let text = network.pod(show);
            let counted = text.lines().filter(|line| !line.starts_with(['#', ':', '*', 'C']));
            counted.map(str::to_owned).collect::<Vec<_>>()
        };
        let network = world();
        let routes = network.pod("ip rule list");
        network.pod(foreign);
        let before = rules(&network);
        for mode in ["REDIRECT", "TPROXY"] {
            let arguments = format!("{ALL} --drop-invalid -c cable0 -k tap0 -m {mode} {backend}");
            apply(&network, &arguments, &[]);
            let (first, first_routes) = (rules(&network), network.pod("ip rule list"));
            assert!(first.len() > before.len() + 20, "{first:#?}");
            apply(&network, &arguments, &[]);
            assert_eq!(rules(&network), first, "{mode}");
            assert_eq!(network.pod("ip rule list"), first_routes, "{mode}");
            apply(&network, &format!("{arguments} --cleanup-only"), &[]);
            let left: Vec<_> = rules(&network)
                .into_iter()
                .filter(|line| before.contains(line))
                .collect();
            assert_eq!(left, before, "{mode}");
            assert!(!rules(&network).concat().to_lowercase().contains("istio"), "{mode}");
            assert_eq!(network.pod("ip rule list"), routes, "{mode}");
        }
        check(
            &network,
            backend,
            &[(Side::Client, APPLICATION, to(POD[0], 8080), "application")],
        );
    }
}

#[test]
fn validation_tells_whether_connections_are_redirected() {
    if !is_possible(&PROGRAMS) {
        return;
    }
    let network = Network::new();
    let validate = || {
        // As its container runs it: the proxy's user.
        let command = format!(
            "setpriv --reuid 1337 --regid 1337 --clear-groups {} init --skip-rule-apply --run-validation --probe-timeout 1s",
            env!("CARGO_BIN_EXE_lateen-agent")
        );
        std::process::Command::new("ip")
            .args(["netns", "exec", network.path(Side::Pod).rsplit('/').next().unwrap()])
            .args(command.split_whitespace())
            .env("INSTANCE_IP", POD[0].to_string())
            .output()
            .unwrap()
    };
    let output = validate();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("not redirected to Envoy"), "{error}");
    // From outside, as a node agent does it.
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
        .args([
            "istio-iptables",
            "--network-namespace",
            &network.path(Side::Pod),
            "-b",
            "*",
            "-i",
            "*",
        ])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let output = validate();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn mistakes_are_named_and_nothing_is_changed() {
    for (arguments, expected) in [
        (&["-m", "BRIDGE"][..], "--istio-inbound-interception-mode `BRIDGE`"),
        (&["-b", "http"], "--istio-inbound-ports: port `http`"),
        (&["-i", "10.0.0.0"], "range `10.0.0.0`"),
        (&["--network-namespace", "/nowhere"], "--network-namespace /nowhere"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
            .args(["istio-iptables", "--dry-run"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{error}");
    }
}
