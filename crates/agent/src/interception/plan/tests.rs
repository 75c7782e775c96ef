//! Plans as rules.

use serde_json::Value;

use super::super::iptables;
use super::*;

fn plain() -> Settings {
    let none = Vec::new;
    Settings {
        mode: Mode::Redirect,
        outbound_port: 15001,
        inbound_port: 15006,
        tunnel_port: 15008,
        dns_port: 15053,
        uids: vec!["1337".into()],
        gids: vec!["1337".into()],
        inbound_ports: Ports::These(Vec::new()),
        inbound_ports_exclude: Vec::new(),
        exclude_interfaces: none(),
        outbound_ranges: none(),
        outbound_ranges_exclude: none(),
        outbound_ports: Vec::new(),
        outbound_ports_exclude: Vec::new(),
        virtual_interfaces: none(),
        owner_groups: vec!["*".into()],
        owner_groups_exclude: none(),
        loopback_v4: "127.0.0.1/32".into(),
        redirect_dns: false,
        capture_all_dns: false,
        dns_servers_v4: none(),
        dns_servers_v6: none(),
        drop_invalid: false,
        ipv6: false,
    }
}

#[test]
fn everything_in_and_out_is_redirected_but_the_proxy() {
    let settings = Settings {
        inbound_ports: Ports::All,
        inbound_ports_exclude: vec![15020, 15021],
        outbound_ranges: vec!["*".into()],
        ..plain()
    };
    let text = iptables::render(Plan::new(&settings).unwrap().rules(), Family::V4);
    let position = |rule: &str| text.find(rule).unwrap_or_else(|| panic!("{rule} is not in\n{text}"));
    assert!(
        position("-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN")
            < position("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT")
    );
    assert!(
        position("-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN") < position("-A ISTIO_OUTPUT -j ISTIO_REDIRECT")
    );
    assert!(position("-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN") < position("-A ISTIO_OUTPUT -j ISTIO_REDIRECT"));
}

#[test]
fn mistakes_are_named() {
    let error = |settings: Settings| format!("{:#}", Plan::new(&settings).unwrap_err());
    assert!(
        error(Settings {
            outbound_ranges: vec!["10.0.0.0".into()],
            ..plain()
        })
        .contains("range `10.0.0.0`")
    );
    assert!(
        error(Settings {
            outbound_ranges: vec!["10.0.0.0/33".into()],
            ..plain()
        })
        .contains("range `10.0.0.0/33`")
    );
    assert!(
        error(Settings {
            outbound_ranges_exclude: vec!["*".into()],
            ..plain()
        })
        .contains("exclude everything")
    );
}

/// The same settings give the same rules as Istio's own program: each chain has the same rules in the same order. The
/// order of chains, and whether a rule came to its place by appending or inserting, means nothing.
#[test]
fn the_rules_are_those_of_the_reference() {
    let Some(reference) = std::env::var_os("LATEEN_REFERENCE") else {
        println!("skipped: LATEEN_REFERENCE is not set");
        return;
    };
    let folder = std::path::Path::new(&reference).join("goldens/iptables");
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let golden = std::fs::read_to_string(folder.join(format!("{name}.golden"))).unwrap();
        let settings = settings(case);
        let plan = Plan::new(&settings).unwrap();
        let mut expected = effective(&golden).into_iter();
        for family in [Family::V4, Family::V6]
            .into_iter()
            .take(if settings.ipv6 { 2 } else { 1 })
        {
            let ours = effective(&iptables::render(plan.rules(), family));
            assert_eq!(ours.len(), 1);
            assert_eq!(ours.into_iter().next(), expected.next(), "{name}: {family:?}");
        }
        assert_eq!(expected.next(), None, "{name}");
        compared += 1;
    }
    println!("{compared} cases compared");
    assert!(compared >= 27, "cases are missing");
}

type Chains = std::collections::BTreeMap<(String, String), Vec<String>>;

/// Chains with their rules, as they are after the commands of each transaction; one for each IP version.
fn effective(commands: &str) -> Vec<Chains> {
    let mut versions: Vec<Chains> = Vec::new();
    let (mut table, mut tables) = (String::new(), Vec::new());
    for line in commands.lines().filter(|line| !line.ends_with("-save")) {
        if let Some(name) = line.strip_prefix("* ") {
            // A table that comes once more is the other version's.
            if versions.is_empty() || tables.iter().any(|seen| seen == name) {
                tables.clear();
                versions.push(Chains::new());
            }
            // As is one that comes before a table that was there: tables come in order.
            if tables.last().is_some_and(|last: &String| last.as_str() > name) {
                tables.clear();
                versions.push(Chains::new());
            }
            tables.push(name.to_owned());
            name.clone_into(&mut table);
            continue;
        }
        let Some(chains) = versions.last_mut() else { continue };
        let mut words = line.splitn(3, ' ');
        let (command, chain, rest) = (words.next().unwrap(), words.next(), words.next().unwrap_or_default());
        let Some(chain) = chain else { continue };
        let rules = chains.entry((table.clone(), chain.to_owned())).or_default();
        // Two spellings of one option; and our mark, by which a later run finds a rule, decides nothing.
        let comment = format!("{} ", iptables::COMMENT);
        let rule = |text: &str| text.replace("--to-port ", "--to-ports ").replace(&comment, "");
        match command {
            "-A" => rules.push(rule(rest)),
            "-I" => {
                let (position, text) = rest.split_once(' ').unwrap();
                let position: usize = position.parse().unwrap();
                rules.insert(position - 1, rule(text));
            }
            "-N" => {}
            other => panic!("{other} is no command of a reference"),
        }
    }
    versions
}

fn settings(case: &Value) -> Settings {
    let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| {
        text(key)
            .split(',')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let ports = |key: &str| list(key).iter().map(|port| port.parse().unwrap()).collect::<Vec<u16>>();
    let or = |list: Vec<String>, default: &str| {
        if list.is_empty() {
            vec![default.to_owned()]
        } else {
            list
        }
    };
    let array = |key: &str| {
        let values = case[key].as_array().cloned().unwrap_or_default();
        values
            .iter()
            .map(|value| value.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    Settings {
        uids: or(list("ProxyUID"), "1337"),
        gids: or(list("ProxyGID"), "1337"),
        mode: if case["InboundInterceptionMode"] == "TPROXY" {
            Mode::Transparent { mark: 1337 }
        } else {
            Mode::Redirect
        },
        inbound_ports: if text("InboundPortsInclude") == "*" {
            Ports::All
        } else {
            Ports::These(ports("InboundPortsInclude"))
        },
        inbound_ports_exclude: ports("InboundPortsExclude"),
        exclude_interfaces: list("ExcludeInterfaces"),
        outbound_ranges: list("OutboundIPRangesInclude"),
        outbound_ranges_exclude: list("OutboundIPRangesExclude"),
        outbound_ports: ports("OutboundPortsInclude"),
        outbound_ports_exclude: ports("OutboundPortsExclude"),
        virtual_interfaces: list("RerouteVirtualInterfaces"),
        owner_groups: or(list("OwnerGroupsInclude"), "*"),
        owner_groups_exclude: list("OwnerGroupsExclude"),
        loopback_v4: or(list("HostIPv4LoopbackCidr"), "127.0.0.1/32").remove(0),
        redirect_dns: flag("RedirectDNS"),
        dns_servers_v4: array("DNSServersV4"),
        dns_servers_v6: array("DNSServersV6"),
        drop_invalid: flag("DropInvalid"),
        ipv6: flag("EnableIPv6"),
        ..plain()
    }
}
