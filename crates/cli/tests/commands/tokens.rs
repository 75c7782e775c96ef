//! `lateen token`.

use std::fs;

use base64::Engine as _;
use serde_json::Value;

use crate::support::{json_of, lateen, stderr, stdout};

#[test]
fn tokens_are_signed_with_one_key_and_name_the_account() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let create = [
        "token",
        "create",
        "--namespace",
        "shop",
        "--service-account",
        "ratings",
        "--data-dir",
        data,
    ];
    let first = lateen(&create);
    assert!(stderr(&first).contains("new signing key"), "{}", stderr(&first));
    let second = lateen(&[&create[..], &["--ttl", "10m", "-o", "json"]].concat());
    assert!(stderr(&second).is_empty(), "{}", stderr(&second));
    let second = json_of(&second);
    assert_eq!(second["subject"], "system:serviceaccount:shop:ratings");

    let first = stdout(&first);
    let part = |token: &str, index: usize| -> Value {
        let part = token.trim().split('.').nth(index).unwrap();
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let second = second["token"].as_str().unwrap();
    assert_eq!(part(&first, 0)["kid"], part(second, 0)["kid"]);
    assert_eq!(part(&first, 1)["sub"], "system:serviceaccount:shop:ratings");
    let seconds = |token: &str, key: &str| part(token, 1)[key].as_u64().unwrap();
    assert_eq!(seconds(&first, "exp") - seconds(&first, "iat"), 3600);
    assert_eq!(seconds(second, "exp") - seconds(second, "iat"), 600);
}

#[test]
fn a_directory_that_holds_no_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let output = lateen(&[
        "token",
        "create",
        "-n",
        "a",
        "-s",
        "b",
        "--data-dir",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--data-dir"), "{}", stderr(&output));
    assert_eq!(
        lateen(&["token", "create", "-n", "NOT A NAME", "-s", "b"])
            .status
            .code(),
        Some(2)
    );
}
