//! Interception rules in a network namespace of their own. Needs root and iptables; prints what it skips without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

use std::process::Command;

/// Runs a script in a new network namespace; none when that is not possible here.
fn in_namespace(script: &str) -> Option<String> {
    let agent = env!("CARGO_BIN_EXE_lateen-agent");
    let possible = Command::new("unshare").args(["-n", "iptables-save"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: no right to make network namespaces, or no iptables");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-n", "sh", "-ec", script])
        .env("AGENT", agent)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

const RULES: &str =
    "$AGENT istio-iptables -b '*' -d 15020,15021 -i '*' -o 3306 --redirect-dns --capture-all-dns --dual-stack=false";

#[test]
fn a_second_run_changes_nothing() {
    let script = format!(
        "{RULES}; iptables-save | grep -v '^[#:]' > first; {RULES}; iptables-save | grep -v '^[#:]' > second; \
         cmp first second; cat second; rm first second"
    );
    let folder = tempfile::tempdir().unwrap();
    let Some(rules) = in_namespace(&format!("cd {}; {script}", folder.path().display())) else {
        return;
    };
    for rule in [
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
        "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
    ] {
        assert!(rules.lines().any(|line| line == rule), "{rule} is not in\n{rules}");
    }
}

#[test]
fn cleaning_up_leaves_what_others_made() {
    let script = format!(
        "iptables -t nat -A OUTPUT -p tcp --dport 9 -j RETURN; {RULES}; $AGENT istio-iptables --cleanup-only --dual-stack=false; iptables-save -t nat"
    );
    let Some(rules) = in_namespace(&script) else { return };
    assert!(!rules.contains("ISTIO"), "{rules}");
    assert!(rules.contains("--dport 9 -j RETURN"), "{rules}");
}

#[test]
fn what_is_not_supported_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_lateen-agent"))
        .args(["istio-iptables", "-m", "TPROXY", "--dry-run"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("TPROXY is not supported yet"), "{error}");
}
