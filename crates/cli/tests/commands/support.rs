//! Runs the binary, and answers it.

use std::net::SocketAddr;
use std::process::{Command, Output};

use axum::Router;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) fn lateen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lateen"))
        .args(arguments)
        .env_remove("LATEEN_ADDRESS")
        .env_remove("LATEEN_TOKEN_FILE")
        .env_remove("LATEEN_DATA_DIR")
        .output()
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", stderr(output));
    text
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// What the binary answers while a control plane answers it.
pub(crate) async fn against(router: Router, arguments: &[&str]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await });
    let mut arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    arguments.extend(["--address".to_owned(), format!("http://{address}")]);
    let run = move || lateen(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}
