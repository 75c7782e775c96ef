//! The CNI plugin and its node agent as container runtimes, kubelet and the API server see them: real processes, real
//! network namespaces, a real API server. Prints what it skips without root, iptables, or Kubernetes' programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod cluster;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cluster::Cluster;
use lateen_testkit::http::Answer;
use lateen_testkit::ports;
use lateen_testkit::process::Process;
use serde_json::{Value, json};

/// Anything may take long on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until it is so.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let seen = lateen_testkit::eventually(what, PATIENCE, async || condition().await.then_some(()));
    seen.await.unwrap();
}

/// A network namespace; gone when dropped.
struct Namespace(String);

impl Namespace {
    /// None, with a line that says so, where this machine does not let us.
    fn new() -> Option<Self> {
        let name = format!("lateencni{:x}", rand::random::<u32>());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        let possible = Command::new("iptables").arg("-V").output().is_ok();
        if !possible || !made.is_ok_and(|output| output.status.success()) {
            println!("skipped: no right to make network namespaces, or no ip or iptables");
            return None;
        }
        Some(Self(name))
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn rules(&self) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.0, "iptables-save"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "delete", &self.0]).output());
    }
}

/// A node's folders, with the agent once it is started.
struct Node {
    folder: tempfile::TempDir,
    agent: Option<Process>,
    health: u16,
    metrics: u16,
}

fn network() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "ptp" }, { "type": "portmap" }] })
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin", "proc"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let node = Self {
            folder,
            agent: None,
            health: ports::free().unwrap(),
            metrics: ports::free().unwrap(),
        };
        std::fs::write(node.file("net.d/10-net.conflist"), network().to_string()).unwrap();
        node
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn start(&mut self, cluster: &Cluster, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lateen-agent"));
        command.args(["cni", "install", "--check-interval=50ms", "--plugin-log-level=info"]);
        for (flag, name) in [
            ("--mounted-cni-net-dir", "net.d"),
            ("--mounted-cni-bin-dir", "bin"),
            ("--cni-agent-run-dir", "run"),
            ("--host-proc", "proc"),
        ] {
            command.arg(flag).arg(self.file(name));
        }
        let numbers = [
            format!("--health-port={}", self.health),
            format!("--monitoring-port={}", self.metrics),
        ];
        command
            .args(numbers)
            .args(["--kube-api", &cluster.url()])
            .args(flags)
            .env("LATEEN_SERVICE_ACCOUNT_DIR", cluster.account());
        self.agent = Some(Process::start(command, &self.file("agent.log")).unwrap());
        eventually("the agent's readiness", || async {
            get(self.health, "/readyz")
                .await
                .is_some_and(|answer| answer.status == 200)
        })
        .await;
    }

    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.terminate(PATIENCE);
        let ended = agent.ended();
        assert!(
            ended.is_some_and(|status| status.success()),
            "{ended:?}: {}",
            agent.log(40)
        );
    }

    fn list(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file("net.d/10-net.conflist")).unwrap()).unwrap()
    }

    /// Runs the plugin as a runtime does, with the entry of the node's configuration.
    fn plugin(&self, program: &Path, entry: &Value, command: &str, pod: &str, namespace: &Namespace) -> Output {
        use std::io::Write as _;
        let mut configuration = entry.clone();
        configuration["cniVersion"] = json!("1.0.0");
        configuration["prevResult"] = previous();
        let (kubernetes, name) = pod.split_once('/').unwrap();
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "abc")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.file("bin"))
            .env("CNI_NETNS", namespace.path())
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={kubernetes};K8S_POD_NAME={name}"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(configuration.to_string().as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}

fn previous() -> Value {
    json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.0.7/24" }], "interfaces": [{ "name": "eth0" }] })
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The answer of the agent's port, if there is any.
async fn get(port: u16, path: &str) -> Option<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    lateen_testkit::http::get(address, "node", path).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_set_up_when_their_network_is_made_or_repaired() {
    let (Some(first), Some(second), Some(cluster)) = (Namespace::new(), Namespace::new(), Cluster::start().await)
    else {
        return;
    };
    cluster.pod("web", true).await;
    cluster.pod("plain", false).await;
    let missed = cluster.pod("missed", true).await;
    let mut node = Node::new();
    node.start(&cluster, &["--repair-repair-pods"]).await;
    let entry = node.list()["plugins"][2].clone();
    assert_eq!(entry["type"], "istio-cni");
    let program = node.file("bin/istio-cni");
    let run = |command: &str, pod: &str, namespace: &Namespace| node.plugin(&program, &entry, command, pod, namespace);

    // A pod without a sidecar, one in a namespace that is left alone, and the plugin's smaller commands.
    for pod in ["shop/plain", "kube-system/web"] {
        assert_eq!(said(&run("ADD", pod, &first)), previous(), "{pod}");
        assert!(!first.rules().contains("ISTIO"), "{pod}");
    }
    assert_eq!(
        said(&run("VERSION", "shop/web", &first))["supportedVersions"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
    for command in ["DEL", "GC", "STATUS"] {
        let output = run(command, "shop/web", &first);
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{command}: {output:?}"
        );
    }
    // The pod's rules come with its network.
    let output = run("CHECK", "shop/web", &first);
    assert_eq!(said(&output)["code"], 100, "nothing is set up yet: {output:?}");
    assert_eq!(said(&run("ADD", "shop/web", &first)), previous());
    let rules = first.rules();
    assert!(
        rules.contains("-A ISTIO_OUTPUT -p tcp -m tcp --dport 3306 -j RETURN"),
        "{rules}"
    );
    assert!(run("CHECK", "shop/web", &first).status.success());
    assert_eq!(
        said(&run("ADD", "shop/web", &first)),
        previous(),
        "a runtime may try again"
    );
    let unknown = said(&run("ADD", "shop/nobody", &second));
    assert_eq!(unknown["code"], 11, "{unknown}");
    assert!(unknown["msg"].as_str().unwrap().contains("shop/nobody"), "{unknown}");

    // A pod that was missed is found by its processes.
    let process = node.file("proc/4242");
    std::fs::create_dir_all(process.join("ns")).unwrap();
    std::fs::write(process.join("cgroup"), format!("0::/kubepods/pod{missed}/abc\n")).unwrap();
    std::os::unix::fs::symlink(second.path(), process.join("ns/net")).unwrap();
    assert!(!second.rules().contains("ISTIO"));
    cluster.fail_validation("missed", 1).await;
    eventually("the repair", || async { second.rules().contains("ISTIO_OUTPUT") }).await;
    eventually("the count of repairs", || async {
        let repaired = r#"istio_cni_repair_pods_repaired_total{result="success",type="repair"} 1"#;
        let answer = get(node.metrics, "/metrics").await;
        answer.is_some_and(|answer| answer.body.contains(repaired))
    })
    .await;

    // Somebody overwrites the configuration.
    std::fs::write(node.file("net.d/10-net.conflist"), network().to_string()).unwrap();
    eventually("the plugin's entry", || async {
        node.list()["plugins"].as_array().unwrap().len() == 3
    })
    .await;

    // The end: everything as it was. A plugin that is still called has pods try again, but for the agent's own.
    let copy = node.file("istio-cni");
    std::fs::copy(&program, &copy).unwrap();
    node.stop();
    assert_eq!(node.list(), network());
    assert!(!program.exists());
    let refused = said(&node.plugin(&copy, &entry, "ADD", "shop/web", &second));
    assert_eq!(refused["code"], 11, "{refused}");
    let own = node.plugin(&copy, &entry, "ADD", "istio-system/istio-cni-node-x7", &second);
    assert_eq!(said(&own), previous());
    assert_eq!(
        said(&node.plugin(&copy, &entry, "STATUS", "shop/web", &second))["code"],
        50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_pods_are_deleted_or_labelled_and_a_replaced_agent_leaves_the_plugin() {
    let (Some(_), Some(cluster)) = (Namespace::new(), Cluster::start().await) else {
        return;
    };
    for pod in ["one", "two", "well"] {
        cluster.pod(pod, true).await;
    }
    cluster.fail_validation("one", 3).await;
    let mut node = Node::new();
    node.start(&cluster, &["--repair-label-pods"]).await;
    eventually("the label", || async {
        let pod = cluster.read_pod("one").await.unwrap();
        pod["metadata"]["labels"]["cni.istio.io/uninitialized"] == "true"
    })
    .await;
    node.stop();

    // The agent's own pod belongs to a DaemonSet that stays.
    let template = json!({
        "metadata": { "labels": { "k8s-app": "istio-cni-node" } },
        "spec": { "containers": [{ "name": "install-cni", "image": "none" }] },
    });
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "istio-cni-node", "namespace": "shop" },
        "spec": { "selector": { "matchLabels": { "k8s-app": "istio-cni-node" } }, "template": template },
    });
    let path = "/apis/apps/v1/namespaces/shop/daemonsets/istio-cni-node";
    let made = cluster.write(path, &daemon_set).await;
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "istio-cni-node", "uid": made["metadata"]["uid"],
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "istio-cni-node-x7", "namespace": "shop", "ownerReferences": [owner] },
        "spec": template["spec"],
    });
    cluster
        .write("/api/v1/namespaces/shop/pods/istio-cni-node-x7", &pod)
        .await;
    let own = ["--pod-namespace=shop", "--pod-name=istio-cni-node-x7"];
    node.start(&cluster, &[&["--repair-delete-pods"], &own[..]].concat())
        .await;
    eventually("the deletion", || async { cluster.read_pod("one").await.is_none() }).await;
    // One that fails while the agent watches.
    cluster.fail_validation("two", 0).await;
    eventually("the deletion", || async { cluster.read_pod("two").await.is_none() }).await;
    assert!(cluster.read_pod("well").await.is_some(), "a pod that is well is gone");
    node.stop();
    assert_eq!(node.list()["plugins"].as_array().unwrap().len(), 3);
    assert!(node.file("bin/istio-cni").exists());
}
