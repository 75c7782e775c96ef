//! The binary as its users meet it: output, exit codes, errors.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod dumps;
mod explain;
mod proxy_config;
mod proxy_status;
mod render;
mod support;
mod tokens;

use support::{json_of, lateen, stdout};

#[test]
fn version_and_completion() {
    assert!(stdout(&lateen(&["version"])).starts_with("lateen 0."));
    assert_eq!(
        json_of(&lateen(&["version", "-o", "json"]))["version"],
        env!("CARGO_PKG_VERSION")
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&lateen(&["completion", shell])).contains("proxy-status"));
    }
}
