//! The sample on loopback: the same services and rules, with every pod at an address of 127.0.0.0/8 and a Sidecar for each
//! that opens ports in place of interception.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};

use super::ground::{Ground, asks_at};
use super::plan::{Part, Workload, cast};

/// The label that tells one replica from another, for Sidecars to select.
const REPLICA: &str = "demo.lateen.dev/replica";

/// A network `127.<n>.0.0` that no other demo uses.
///
/// # Errors
/// When all are taken.
pub(super) fn free_network() -> Result<Ground> {
    let free = (1..=250)
        .map(Ground::Loopback)
        .find(|ground| TcpListener::bind((ground.control_plane(), 15012)).is_ok());
    free.context("no network 127.n.0.0 is free")
}

/// Rewrites the copy of the sample in `config` for `network`.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn lay_out(config: &Path, network: u8) -> Result<()> {
    let cast = cast(&config.join("pods.yaml"))?;
    let homes: Vec<(&Workload, Ipv4Addr)> = (10..)
        .zip(&cast)
        .map(|(host, workload)| (workload, Ipv4Addr::new(127, network, 0, host)))
        .collect();
    for entry in std::fs::read_dir(config).with_context(|| format!("cannot list {}", config.display()))? {
        let path = entry.context("cannot list the configuration")?.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = move_home(&text, &homes);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let sidecars: Vec<String> = homes
        .iter()
        .filter_map(|(workload, home)| sidecar(workload, *home))
        .collect();
    std::fs::write(config.join("sidecars.yaml"), sidecars.join("---\n")).context("cannot write sidecars.yaml")
}

/// Moves pods to their new addresses, labels each, and binds the gateway to its own address.
fn move_home(text: &str, homes: &[(&Workload, Ipv4Addr)]) -> String {
    let mut moved = String::with_capacity(text.len());
    let mut replica = None;
    for line in text.lines() {
        let mut line = line.to_owned();
        for (workload, home) in homes {
            line = replace_address(&line, &workload.ip.to_string(), &home.to_string());
            if line == format!("  name: {}", workload.pod) {
                replica = Some(*home);
            }
        }
        moved.push_str(&line);
        moved.push('\n');
        if line == "  labels:"
            && let Some(home) = replica.take()
        {
            let _ = writeln!(moved, "    {REPLICA}: \"{}\"", home.octets()[3]);
        }
        let gateway = homes.iter().find(|(workload, _)| workload.part == Part::Gateway);
        if line == "  servers:"
            && let Some((_, home)) = gateway
        {
            let _ = writeln!(moved, "    - bind: {home}");
        }
    }
    // The bind took the place of the list item's dash.
    moved
        .lines()
        .fold((String::new(), false), |(mut whole, after_bind), line| {
            let line = if after_bind {
                line.replacen("    - ", "      ", 1)
            } else {
                line.to_owned()
            };
            whole.push_str(&line);
            whole.push('\n');
            (whole, line.starts_with("    - bind: "))
        })
        .0
}

/// Replaces an address, but not where it is the beginning of a longer one.
fn replace_address(line: &str, from: &str, to: &str) -> String {
    match line.split_once(from) {
        Some((before, after)) if !after.starts_with(|c: char| c.is_ascii_digit()) => format!("{before}{to}{after}"),
        _ => line.to_owned(),
    }
}

/// The ports that stand in for interception.
fn sidecar(workload: &Workload, home: Ipv4Addr) -> Option<String> {
    if workload.part == Part::Gateway {
        return None;
    }
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  \
         workloadSelector:\n    labels:\n      {REPLICA}: \"{}\"\n",
        workload.pod,
        workload.namespace,
        home.octets()[3]
    );
    if let Part::Service { port, .. } = workload.part {
        let (protocol, name) = if port == 9000 { ("TCP", "tcp") } else { ("HTTP", "http") };
        let _ = write!(
            text,
            "  ingress:\n    - port: {{number: {port}, protocol: {protocol}, name: {name}}}\n      bind: {home}\n      \
             captureMode: NONE\n      defaultEndpoint: 0.0.0.0:{}\n",
            Ground::Loopback(0).service_port(port)
        );
    }
    let _ = write!(
        text,
        "  egress:\n    - port: {{number: 9080, protocol: HTTP, name: http}}\n      bind: {asks}\n      captureMode: NONE\n      \
         hosts: [\"./*\"]\n    - port: {{number: 9000, protocol: TCP, name: tcp}}\n      bind: {asks}\n      \
         captureMode: NONE\n      hosts: [\"./stock.shop.svc.cluster.local\"]\n",
        asks = asks_at(home)
    );
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::workspace::root;

    fn documents(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        serde_yaml::Deserializer::from_str(&text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect()
    }

    #[test]
    fn the_sample_moves_to_loopback_whole() {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(root().join("samples/bookinfo")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        lay_out(dir.path(), 7).unwrap();

        let pods = documents(&dir.path().join("pods.yaml"));
        assert_eq!(pods[1]["status"]["podIP"], "127.7.0.11");
        assert_eq!(pods[1]["metadata"]["labels"][REPLICA], "11");
        let endpoints = documents(&dir.path().join("ratings-endpoints.yaml"));
        assert_eq!(endpoints[0]["endpoints"][1]["addresses"][0], "127.7.0.18");
        let gateway = documents(&dir.path().join("gateway.yaml"));
        assert_eq!(gateway[0]["spec"]["servers"][0]["bind"], "127.7.0.19");
        assert_eq!(gateway[0]["spec"]["servers"][0]["port"]["number"], 80);
        let sidecars = documents(&dir.path().join("sidecars.yaml"));
        assert_eq!(sidecars.len(), 9, "all but the gateway");
        assert_eq!(sidecars[1]["spec"]["ingress"][0]["defaultEndpoint"], "0.0.0.0:9081");
        assert_eq!(sidecars[1]["spec"]["egress"][0]["bind"], "127.7.1.11");
        assert!(sidecars[0]["spec"]["ingress"].is_null(), "the driver serves nothing");
        let nowhere = std::fs::read_to_string(dir.path().join("endpoints.yaml")).unwrap();
        assert!(!nowhere.contains("10.244."), "{nowhere}");
    }

    #[test]
    fn an_address_is_replaced_only_whole() {
        assert_eq!(replace_address("ip: 10.244.1.1", "10.244.1.1", "x"), "ip: x");
        assert_eq!(replace_address("ip: 10.244.1.13", "10.244.1.1", "x"), "ip: 10.244.1.13");
    }
}
