//! Plans as rules.

use serde_json::Value;

use super::*;

fn plain() -> Settings {
    let none = Vec::new;
    Settings {
        outbound_port: 15001,
        inbound_port: 15006,
        tunnel_port: 15008,
        dns_port: 15053,
        uids: vec!["1337".into()],
        gids: vec!["1337".into()],
        inbound_ports: none(),
        inbound_ports_exclude: none(),
        exclude_interfaces: none(),
        outbound_ranges: none(),
        outbound_ranges_exclude: none(),
        outbound_ports: none(),
        outbound_ports_exclude: none(),
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
        inbound_ports: vec!["*".into()],
        inbound_ports_exclude: vec!["15020".into(), "15021".into()],
        outbound_ranges: vec!["*".into()],
        ..plain()
    };
    let text = Plan::new(&settings).unwrap().v4();
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
            inbound_ports: vec!["http".into()],
            ..plain()
        })
        .contains("port `http`")
    );
    assert!(
        error(Settings {
            outbound_ranges_exclude: vec!["*".into()],
            ..plain()
        })
        .contains("exclude everything")
    );
}

/// The same settings give the same rules as Istio's own program.
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
        if case["InboundInterceptionMode"] == "TPROXY" {
            println!("skipped: {name}: TPROXY");
            continue;
        }
        let golden = std::fs::read_to_string(folder.join(format!("{name}.golden"))).unwrap();
        let expected: Vec<&str> = golden.lines().filter(|line| !line.ends_with("-save")).collect();
        let settings = settings(case);
        let plan = Plan::new(&settings).unwrap();
        let mut text = plan.v4();
        if settings.ipv6 {
            text.push_str(&plan.v6());
        }
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{name}");
        compared += 1;
    }
    println!("{compared} cases compared");
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
        inbound_ports: list("InboundPortsInclude"),
        inbound_ports_exclude: list("InboundPortsExclude"),
        exclude_interfaces: list("ExcludeInterfaces"),
        outbound_ranges: list("OutboundIPRangesInclude"),
        outbound_ranges_exclude: list("OutboundIPRangesExclude"),
        outbound_ports: list("OutboundPortsInclude"),
        outbound_ports_exclude: list("OutboundPortsExclude"),
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
