//! An external authorizer, over HTTP and over gRPC: it lets pass what carries `x-ext-authz: allow`, and connections of the
//! service account `ann`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use lateen_testkit::fabric::Place;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// gRPC's codes.
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;

/// `envoy.service.auth.v3.CheckRequest`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Source>,
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, Message)]
struct Source {
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<Http>,
}

#[derive(Clone, PartialEq, Message)]
struct Http {
    #[prost(btree_map = "string, string", tag = "3")]
    headers: BTreeMap<String, String>,
}

/// `envoy.service.auth.v3.CheckResponse`, as far as it is said here.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// A running authorizer. It stops when dropped.
pub(crate) struct Authorizer {
    tasks: JoinSet<()>,
}

impl Authorizer {
    pub(crate) fn new() -> Self {
        Self { tasks: JoinSet::new() }
    }

    /// Listens, for either protocol.
    pub(crate) fn serve(&mut self, place: &Place, at: SocketAddr) -> Result<()> {
        let listener = TcpListener::from_std(place.listen(at)?)?;
        self.tasks.spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while running.try_join_next().is_some() {}
                running.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // Envoy sees what is wrong with its connection.
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(decide)).await;
                });
            }
        });
        Ok(())
    }
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn decide(request: Request<Incoming>) -> Result<Response<Body>, hyper::http::Error> {
    let (head, body) = request.into_parts();
    let grpc = |headers: &HeaderMap| {
        headers
            .get("content-type")
            .is_some_and(|value| value == "application/grpc")
    };
    if !grpc(&head.headers) {
        let allowed = head.headers.get("x-ext-authz").is_some_and(|value| value == "allow");
        let frames: Vec<Result<Frame<Bytes>, Infallible>> =
            vec![Ok(Frame::data(Bytes::from_static(b"the authorizer")))];
        let body = StreamBody::new(stream::iter(frames));
        return Response::builder()
            .status(if allowed { 200 } else { 403 })
            .header("x-ext-why", "the header is not there")
            .header("x-ext-ok", "yes")
            .body(body);
    }
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    // Five bytes say how long the message is.
    let asked = CheckRequest::decode(bytes.get(5..).unwrap_or_default()).unwrap_or_default();
    let attributes = asked.attributes.unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http);
    let allowed = match &http {
        Some(http) if !http.headers.is_empty() => http.headers.get("x-ext-authz").is_some_and(|value| value == "allow"),
        _ => attributes
            .source
            .is_some_and(|source| source.principal.ends_with("/sa/ann")),
    };
    let code = if allowed { OK } else { PERMISSION_DENIED };
    let said = CheckResponse {
        status: Some(Status { code }),
    };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(said.encoded_len()).unwrap_or(0));
    message.extend_from_slice(&said.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
    let frames = vec![Ok(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))];
    Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(stream::iter(frames)))
}
