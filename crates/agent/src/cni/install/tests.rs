//! The node's folders before and after.

use clap::Parser as _;

use super::super::CniCommand;
use super::*;
use crate::cli::{Cli, Command};

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn installer(&self, flags: &str) -> Installer {
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        let (net, bin) = (place("net.d"), place("bin"));
        let fixed = [
            "lateen-agent",
            "cni",
            "install",
            "--mounted-cni-net-dir",
            &net,
            "--mounted-cni-bin-dir",
            &bin,
        ];
        let cli = Cli::parse_from(fixed.into_iter().chain(flags.split_whitespace()));
        match cli.command {
            Command::Cni(CniCommand::Install(args)) => Installer::new(&args).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn write(&self, name: &str, value: &Value) {
        std::fs::write(self.folder.path().join("net.d").join(name), value.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        read(&self.folder.path().join("net.d").join(name)).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = ["net.d", "bin"]
            .iter()
            .flat_map(|folder| std::fs::read_dir(self.folder.path().join(folder)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn network() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "kindnet", "plugins": [
        { "type": "ptp", "ipam": { "type": "host-local" } }, { "type": "portmap" },
    ]})
}

fn types(list: &Value) -> Vec<&str> {
    let plugins = list["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap()).collect()
}

#[test]
fn the_plugin_goes_last_in_the_chain_and_leaves_it_as_it_was() {
    let node = Node::new();
    node.write("10-kindnet.conflist", &network());
    node.write("20-other.conflist", &network());
    let mut installer = node.installer("--exclude-namespaces=kube-system,monitoring");
    assert!(installer.ensure().unwrap());
    let list = node.read("10-kindnet.conflist");
    assert_eq!(types(&list), ["ptp", "portmap", "istio-cni"]);
    assert_eq!(
        list["plugins"][2]["exclude_namespaces"],
        json!(["kube-system", "monitoring"])
    );
    assert_eq!(
        node.read("20-other.conflist"),
        network(),
        "only the first is read by runtimes"
    );
    assert!(!installer.ensure().unwrap(), "nothing was to be done");
    // The network's own agent starts anew and writes its configuration; somebody deletes the plugin.
    node.write("10-kindnet.conflist", &network());
    assert!(installer.ensure().unwrap());
    assert_eq!(
        types(&node.read("10-kindnet.conflist")),
        ["ptp", "portmap", "istio-cni"]
    );
    std::fs::remove_file(node.folder.path().join("bin/istio-cni")).unwrap();
    assert!(installer.ensure().unwrap());
    assert_eq!(node.files(), ["10-kindnet.conflist", "20-other.conflist", "istio-cni"]);
    installer.remove().unwrap();
    assert_eq!(node.read("10-kindnet.conflist"), network());
    assert_eq!(node.files(), ["10-kindnet.conflist", "20-other.conflist"]);
}

#[test]
fn a_single_plugin_becomes_a_list() {
    let node = Node::new();
    node.write(
        "10-flat.conf",
        &json!({ "cniVersion": "0.4.0", "name": "flat", "type": "bridge" }),
    );
    let mut installer = node.installer("--cni-conf-name=10-flat.conf");
    assert!(installer.ensure().unwrap());
    let list = node.read("10-flat.conflist");
    assert_eq!(
        (types(&list), &list["name"], &list["cniVersion"]),
        (vec!["bridge", "istio-cni"], &json!("flat"), &json!("0.4.0"))
    );
    assert_eq!(node.files(), ["10-flat.conflist", "istio-cni"]);
    assert!(!installer.ensure().unwrap());
}

#[test]
fn an_own_configuration_leaves_the_networks_alone() {
    let node = Node::new();
    node.write("10-kindnet.conflist", &network());
    let mut installer = node.installer("--istio-owned-cni-config");
    assert!(installer.ensure().unwrap());
    assert_eq!(node.read("10-kindnet.conflist"), network());
    assert_eq!(
        types(&node.read("02-istio-cni.conflist")),
        ["ptp", "portmap", "istio-cni"]
    );
    assert!(!installer.ensure().unwrap());
    installer.remove().unwrap();
    assert_eq!(node.files(), ["10-kindnet.conflist"]);
}

#[test]
fn unchained_it_stands_alone_and_without_a_network_it_waits() {
    let node = Node::new();
    let error = node.installer("").ensure().unwrap_err();
    assert!(format!("{error:#}").contains("no network configuration"), "{error:#}");
    node.write("10-broken.conflist", &json!([]));
    assert!(node.installer("").ensure().is_err());
    let mut installer = node.installer("--chained-cni-plugin=false");
    assert!(installer.ensure().unwrap());
    assert_eq!(node.read(STANDALONE)["type"], "istio-cni");
    installer.remove().unwrap();
    assert_eq!(node.files(), ["10-broken.conflist"]);
}
