//! The ports of the real `lateend`, attacked: whoever can reach them costs little, and nobody else notices.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod http2;
mod server;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use http2::{CONTINUATION, Connection, Frame, GOAWAY, HEADERS, PING, RST_STREAM, path};
use server::Server;

/// Longer than anything takes that does take place on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(90);

/// After how long whoever has proved nothing is cut off anyhow.
const STRANGER: Duration = Duration::from_secs(30);

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

/// What a connection is told before it ends; nothing where it just ends.
async fn last_words(connection: &mut Connection) -> Option<u32> {
    let mut said = None;
    let ending = async {
        while let Some(frame) = connection.next().await {
            if frame.kind == GOAWAY {
                said = frame.error(4);
            }
        }
    };
    timeout(PATIENCE, ending)
        .await
        .expect("the connection was to be cut off");
    said
}

#[tokio::test]
async fn streams_that_are_taken_back_at_once_end_the_connection() {
    let server = Server::start().await;
    let mut connection = server.strange().await;
    let begun = Instant::now();
    let mut flood = Vec::new();
    for stream in 0..2000 {
        let id = 2 * stream + 1;
        flood.extend(Frame::new(HEADERS, 0x4, id, path("/x")).bytes());
        flood.extend(Frame::new(RST_STREAM, 0, id, 8_u32.to_be_bytes().to_vec()).bytes());
    }
    // Written as far as the server listens.
    let _ = connection.write(&flood).await;
    let said = last_words(&mut connection).await;
    assert!(said.is_none() || said == Some(ENHANCE_YOUR_CALM), "{said:?}");
    assert!(begun.elapsed() < STRANGER / 2, "only the time of strangers ended it");
    server.is_well().await;
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let server = Server::start().await;
    let mut connection = server.strange().await;
    connection
        .write(&Frame::new(HEADERS, 0x1, 1, path("/x")).bytes())
        .await
        .unwrap();
    // A literal header that is not indexed, again and again: 16 KiB a frame.
    let field = [&[0, 1, b'x', 0x7f, 0x21][..], &[b'a'; 160]].concat();
    let fields: Vec<u8> = field.iter().copied().cycle().take(field.len() * 98).collect();
    let frame = Frame::new(CONTINUATION, 0, 1, fields).bytes();
    let (mut written, begun) = (0_usize, Instant::now());
    let flooding = async {
        while connection.write(&frame).await.is_ok() {
            written += frame.len();
        }
    };
    timeout(PATIENCE, flooding).await.expect("the flood was to be cut off");
    // What sockets hold, and not what the server does.
    assert!(written < 32 << 20, "{written} bytes were taken");
    assert!(begun.elapsed() < STRANGER / 2, "only the time of strangers ended it");
    server.is_well().await;
}

#[tokio::test]
async fn a_connection_has_few_streams() {
    let server = Server::start().await;
    let mut connection = server.strange().await;
    let open = (0..129).flat_map(|stream| Frame::new(HEADERS, 0x4, 2 * stream + 1, path(CREATE)).bytes());
    connection.write(&open.collect::<Vec<u8>>()).await.unwrap();
    let refused = async {
        loop {
            let frame = connection.next().await.expect("the connection stays");
            if frame.kind == RST_STREAM && frame.error(0) == Some(REFUSED_STREAM) {
                return frame.stream;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, refused).await.unwrap(), 257);
    server.is_well().await;
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = Server::start().await;
    let mut connection = server.strange().await;
    let field = [&[0, 1, b'x', 0x7f, 0x21][..], &[b'a'; 160]].concat();
    let fields: Vec<u8> = field.iter().copied().cycle().take(field.len() * 98).collect();
    let mut request = Frame::new(HEADERS, 0x1, 1, path("/x")).bytes();
    for _ in 0..5 {
        request.extend(Frame::new(CONTINUATION, 0, 1, fields.clone()).bytes());
    }
    request.extend(Frame::new(CONTINUATION, 0x4, 1, Vec::new()).bytes());
    let _ = connection.write(&request).await;
    let refused = async {
        while let Some(frame) = connection.next().await {
            // 431, or the end of the stream.
            if frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM) {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    server.is_well().await;
}

#[tokio::test]
async fn handshakes_and_heads_that_never_end_are_given_up() {
    let server = Server::start().await;
    let begun = Instant::now();
    let mut silent = server.tcp(server.secure).await;
    let mut halfway = server.tcp(server.secure).await;
    // The beginning of a ClientHello.
    halfway.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    let mut webhook = server.tcp(server.https).await;
    let mut head = server.tcp(server.http).await;
    head.write_all(b"GET /ready HTTP/1.1\r\nx: ").await.unwrap();
    for stream in [&mut silent, &mut halfway, &mut webhook, &mut head] {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "nobody gave up within {:?}", begun.elapsed());
    }
    server.is_well().await;
}

#[tokio::test]
async fn strangers_have_little_time_and_who_has_gone_is_noticed() {
    let server = Server::start().await;
    let mut stranger = server.strange().await;
    // Two proxies that have proved who they are; one answers no pings.
    let mut proxies = Vec::new();
    for _ in 0..2 {
        let mut proxy = server.strange().await;
        let headers = [
            path(ADS),
            http2::literal("content-type", "application/grpc"),
            server.authorization(),
        ]
        .concat();
        proxy
            .write(&Frame::new(HEADERS, 0x4, 1, headers).bytes())
            .await
            .unwrap();
        proxies.push(proxy);
    }
    let begun = Instant::now();
    last_words(&mut stranger).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let (mut well, mut gone) = (proxies.pop().unwrap(), proxies.pop().unwrap());
    let both = async {
        let answering = async {
            while let Some(frame) = well.next().await {
                if frame.kind == PING && frame.flags & 1 == 0 {
                    well.write(&Frame::new(PING, 1, 0, frame.payload).bytes())
                        .await
                        .unwrap();
                }
            }
        };
        tokio::select! {
            () = answering => panic!("a connection was cut off that answered"),
            _ = last_words(&mut gone) => {}
        }
    };
    timeout(PATIENCE, both).await.unwrap();
    server.is_well().await;
}

#[tokio::test]
async fn one_address_does_not_take_all_places() {
    let server = Server::start_with(&["--max-strangers", "20"]).await;
    let from_there = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.5:0".parse().unwrap()).unwrap();
        socket.connect(server.secure).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(from_there().await);
    }
    let ends_at_once = async |stream: &mut TcpStream| {
        let mut byte = [0];
        // Sooner than a handshake is given up.
        let ended = timeout(Duration::from_secs(5), stream.read(&mut byte)).await;
        matches!(ended, Ok(Ok(0) | Err(_)))
    };
    let mut refused = from_there().await;
    assert!(ends_at_once(&mut refused).await, "one more was let in");
    assert!(!ends_at_once(&mut held[0]).await, "a stranger was cut off early");
    // Everybody else still is let in.
    server.is_well().await;
}

#[tokio::test]
async fn connections_are_counted() {
    let server = Server::start_with(&["--max-connections", "3"]).await;
    let held = [
        server.tcp(server.secure).await,
        server.tcp(server.secure).await,
        server.tcp(server.secure).await,
    ];
    let mut next = server.tcp(server.secure).await;
    let mut byte = [0];
    assert!(matches!(
        timeout(PATIENCE, next.read(&mut byte)).await.unwrap(),
        Ok(0) | Err(_)
    ));
    drop(held);
    server.is_well().await;
}

#[tokio::test]
async fn nothing_is_served_in_plain_text_unless_asked_for() {
    let server = Server::start().await;
    assert_eq!(server.addresses["plaintext"], serde_json::Value::Null);
    assert_eq!(server.addresses["control"], serde_json::Value::Null);
}

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
