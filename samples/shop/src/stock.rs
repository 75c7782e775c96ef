//! A TCP service: the client sends the line `copies`, the server answers with one line of JSON.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Names;
use crate::hop::{Call, Hop};
use crate::{ServerArgs, asked_to_end};

/// Longest line taken from a client.
const LINE: u64 = 1024;

pub(crate) async fn run(me: ServerArgs) -> Result<()> {
    let listener = TcpListener::bind(me.listen)
        .await
        .with_context(|| format!("stock cannot listen on {}", me.listen))?;
    tokio::select! {
        () = serve(listener, &me) => Ok(()),
        () = asked_to_end() => Ok(()),
    }
}

async fn serve(listener: TcpListener, me: &ServerArgs) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let me = me.clone();
                    clients.spawn(async move {
                        if let Err(error) = answer(stream, &me).await {
                            eprintln!("stock: {error:#}");
                        }
                    });
                }
                Err(error) => eprintln!("stock: cannot accept: {error}"),
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn answer(stream: TcpStream, me: &ServerArgs) -> Result<()> {
    use tokio::io::AsyncReadExt;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(LINE)).lines();
    while let Some(line) = lines.next_line().await.context("cannot read")? {
        if line != "copies" {
            bail!("asked for something other than copies");
        }
        let hop = Hop {
            service: "stock".to_owned(),
            version: me.version.clone(),
            pod: me.pod.clone(),
            peer: None,
            body: json!({"copies": 7}),
            calls: Vec::new(),
        };
        let mut line = serde_json::to_vec(&hop).context("cannot encode")?;
        line.push(b'\n');
        write.write_all(&line).await.context("cannot write")?;
    }
    Ok(())
}

/// Asks the stock at `address` (`host:port`) over a connection of its own.
pub(crate) async fn ask(address: &str, names: Names) -> Call {
    let started = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(10), exchange(address, names)).await;
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (status, reply, error) = match answer {
        Ok(Ok(hop)) => (200, Some(Box::new(hop)), None),
        Ok(Err(error)) => (0, None, Some(format!("{error:#}"))),
        Err(_) => (0, None, Some("no answer within 10 s".to_owned())),
    };
    Call {
        to: "stock".to_owned(),
        status,
        micros,
        reply,
        error,
    }
}

async fn exchange(address: &str, names: Names) -> Result<Hop> {
    let (host, port) = address
        .rsplit_once(':')
        .with_context(|| format!("{address} is not host:port"))?;
    let port = port.parse().with_context(|| format!("{address} has no valid port"))?;
    let addresses = names
        .resolve(host, port)
        .await
        .with_context(|| format!("cannot resolve {host}"))?;
    let mut stream = TcpStream::connect(addresses.as_slice())
        .await
        .with_context(|| format!("cannot reach {address}"))?;
    stream
        .write_all(b"copies\n")
        .await
        .with_context(|| format!("cannot write to {address}"))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .await
        .with_context(|| format!("{address} broke off"))?;
    serde_json::from_str(&line).with_context(|| format!("{address} answered {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_in_is_a_line_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let me = ServerArgs {
            listen: ([127, 0, 0, 1], 0).into(),
            version: "v1".to_owned(),
            pod: "stock-1".to_owned(),
        };
        let mut set = JoinSet::new();
        set.spawn(async move { serve(listener, &me).await });

        let call = ask(&address, Names::default()).await;

        assert!(call.ok(), "{call:?}");
        assert_eq!(call.reply.unwrap().pod, "stock-1");
    }
}
