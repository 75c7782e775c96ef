//! Pod Security of every pod that a chart makes.

use serde_json::{Value, json};

use lateen_tests::helm::{Helm, identity, text};

/// Volumes that `restricted` allows.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// System controls that even `restricted` allows.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
];

/// Why `restricted` would not admit a pod.
pub(crate) fn breaches(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[field] == true {
            found.push(format!("{field} is set"));
        }
    }
    let of_pod = &pod["securityContext"];
    for sysctl in of_pod["sysctls"].as_array().into_iter().flatten() {
        if !SYSCTLS.contains(&text(sysctl, "/name")) {
            found.push(format!("sysctl {}", text(sysctl, "/name")));
        }
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        for kind in volume.as_object().unwrap().keys().filter(|key| *key != "name") {
            if !VOLUMES.contains(&kind.as_str()) {
                found.push(format!("volume {} is {kind}", text(volume, "/name")));
            }
        }
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod[kind].as_array().into_iter().flatten() {
            let name = text(container, "/name");
            found.extend(container_breaches(container, of_pod).map(|breach| format!("{name}: {breach}")));
        }
    }
    found
}

fn container_breaches<'a>(container: &'a Value, of_pod: &'a Value) -> impl Iterator<Item = String> + 'a {
    let own = &container["securityContext"];
    let effective = |field: &str| {
        if own[field].is_null() {
            &of_pod[field]
        } else {
            &own[field]
        }
    };
    let seccomp = effective("seccompProfile");
    let added = own["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    let profile = text(effective("appArmorProfile"), "/type").to_owned();
    [
        (own["privileged"] == true, "privileged"),
        (own["allowPrivilegeEscalation"] != false, "may gain privileges"),
        (effective("runAsNonRoot") != true, "may run as root"),
        (*effective("runAsUser") == 0, "runs as root"),
        (own["capabilities"]["drop"] != json!(["ALL"]), "keeps capabilities"),
        (
            !matches!(text(seccomp, "/type"), "RuntimeDefault" | "Localhost"),
            "has no seccomp profile",
        ),
        (profile == "Unconfined", "has no AppArmor profile"),
        (
            container["ports"]
                .as_array()
                .is_some_and(|ports| ports.iter().any(|port| port["hostPort"].is_number())),
            "takes a port of the host",
        ),
    ]
    .into_iter()
    .filter(|(breach, _)| *breach)
    .map(|(_, what)| what.to_owned())
    .chain(
        added
            .into_iter()
            .filter(|name| name != "NET_BIND_SERVICE")
            .map(|name| format!("adds {}", name.as_str().unwrap())),
    )
}

fn pods(objects: &[Value]) -> impl Iterator<Item = (String, &Value)> {
    objects.iter().filter_map(|object| {
        let pod = object.pointer("/spec/template/spec")?;
        matches!(text(object, "/kind"), "Deployment" | "DaemonSet").then(|| (identity(object), pod))
    })
}

#[test]
fn pods_satisfy_pod_security_restricted() {
    let Some(helm) = Helm::find("Pod Security") else { return };
    let installs: &[(&str, &[&str])] = &[
        ("lateen", &[]),
        ("lateen", &["--set=revision=canary", "--set=plaintext.enabled=true"]),
        ("gateway", &[]),
        ("gateway", &["--set=kind=DaemonSet", "--set=networkGateway=west"]),
    ];
    for (chart, arguments) in installs {
        let objects = helm.objects(chart, "istio-system", arguments);
        assert_eq!(pods(&objects).count(), 1, "{chart}");
        for (name, pod) in pods(&objects) {
            assert_eq!(breaches(pod), [""; 0], "{name}");
            // Beyond what is asked for: nothing can be written into an image that runs.
            for container in pod["containers"].as_array().unwrap() {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
            }
        }
    }
}

#[test]
fn the_node_agent_takes_only_the_privileges_that_are_known() {
    let Some(helm) = Helm::find("the node agent's privileges") else {
        return;
    };
    let objects = helm.objects("cni", "istio-system", &[]);
    let (name, pod) = pods(&objects).next().unwrap();
    let expected = [
        "volume cni-bin-dir is hostPath",
        "volume cni-net-dir is hostPath",
        "volume cni-host-procfs is hostPath",
        "volume cni-socket-dir is hostPath",
        "install-cni: may run as root",
        "install-cni: runs as root",
        "install-cni: has no AppArmor profile",
        "install-cni: adds DAC_OVERRIDE",
        "install-cni: adds NET_ADMIN",
        "install-cni: adds NET_RAW",
        "install-cni: adds SYS_ADMIN",
        "install-cni: adds SYS_PTRACE",
    ];
    assert_eq!(breaches(pod), expected, "{name}");
}

#[test]
fn a_pod_that_restricted_refuses_is_found_out() {
    let pod = json!({
        "hostNetwork": true,
        "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
        "containers": [{"name": "app", "securityContext": {"privileged": true}}],
    });
    assert_eq!(
        breaches(&pod),
        [
            "hostNetwork is set",
            "volume root is hostPath",
            "app: privileged",
            "app: may gain privileges",
            "app: may run as root",
            "app: keeps capabilities",
            "app: has no seccomp profile",
        ]
    );
}
