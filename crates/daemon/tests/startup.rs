//! The binary as whoever starts it meets it: what is missing or malformed ends it with one line that names it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// The exit code and what it says on standard error.
fn lateend(data: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lateend"));
    for name in ["LATEEN_CONFIG", "KUBECONFIG", "LATEEN_PLAINTEXT_ADDRESS"] {
        command.env_remove(name);
    }
    command.arg("--data-dir").arg(data.join("data"));
    command.arg("--cacerts").arg(data.join("none"));
    command.args(["--log", "error"]);
    let any = "127.0.0.1:0";
    for flag in [
        "--secure-address",
        "--http-address",
        "--https-address",
        "--monitoring-address",
    ] {
        if !arguments.contains(&flag) {
            command.args([flag, any]);
        }
    }
    let output = command.args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_missing_ends_it_with_one_line_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (code, said) = lateend(path, &["--config", "/does/not/exist"]);
    assert_eq!(
        (code, &*said),
        (1, "lateend: --config /does/not/exist: no such file or directory\n")
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = path.to_str().unwrap();
    let (code, said) = lateend(path, &["--config", config, "--http-address", &address]);
    assert_eq!(code, 1);
    assert!(
        said.starts_with(&format!("lateend: --http-address {address}: cannot listen there"))
            && said.lines().count() == 1,
        "{said}"
    );

    let (code, said) = lateend(path, &["--config", config, "--http-address", "everywhere"]);
    assert_eq!(code, 2);
    assert!(said.contains("everywhere") && said.contains("--http-address"), "{said}");

    // A file where the directory of keys should be.
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("data"), "").unwrap();
    let (code, said) = lateend(other.path(), &["--config", config]);
    assert_eq!(code, 1);
    assert!(said.contains("lateend: ") && said.contains("data"), "{said}");
}
