//! Reads gRPC messages from a request's body, none of them larger than a limit.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::Status;

/// Messages of a request's body.
pub(crate) struct Requests<B> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    limit: usize,
}

/// Length of a message's prefix: one byte that says whether it is compressed, four of its length.
const PREFIX: usize = 5;

/// A buffer that grew beyond this is given back.
const KEPT: usize = 4 * 1024;

impl<B> Requests<B>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self {
            body: Box::pin(body),
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// The next message and its size, or `None` when the peer has said everything. Cancel safe.
    ///
    /// # Errors
    /// A status to end the stream with.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<(M, usize)>, Status> {
        loop {
            if let Some(length) = self.length()?
                && self.buffer.len() >= PREFIX + length
            {
                self.buffer.advance(PREFIX);
                let message = M::decode(&self.buffer[..length])
                    .map_err(|error| Status::invalid_argument(format!("request does not decode: {error}")))?;
                self.buffer.advance(length);
                if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
                    self.buffer = BytesMut::new();
                }
                return Ok(Some((message, length)));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("request ends in the middle of a message")),
                Some(Err(error)) => return Err(Status::cancelled(format!("connection lost: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The length of the message that the buffer begins with, once its prefix is there.
    fn length(&self) -> Result<Option<usize>, Status> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "request of {length} bytes, at most {} are taken: is the Node's metadata too large?",
                self.limit
            )));
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use lateen_proto::envoy::service::discovery::v3::DiscoveryRequest;
    use tonic::Code;

    use super::*;

    fn requests(chunks: Vec<Vec<u8>>) -> Requests<impl Body<Data = Bytes, Error = Infallible>> {
        let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
        Requests::new(StreamBody::new(stream::iter(frames)), 1000)
    }

    fn framed(request: &DiscoveryRequest) -> Vec<u8> {
        let body = request.encode_to_vec();
        [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat()
    }

    #[tokio::test]
    async fn messages_come_out_however_they_are_cut() {
        let request = |name: &str| DiscoveryRequest {
            type_url: name.to_owned(),
            ..Default::default()
        };
        let bytes = [
            framed(&request("one")),
            framed(&request("two")),
            framed(&DiscoveryRequest::default()),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut requests = requests(bytes.chunks(size).map(<[u8]>::to_vec).collect());
            for expected in ["one", "two", ""] {
                let (read, _) = requests.next::<DiscoveryRequest>().await.unwrap().unwrap();
                assert_eq!(read.type_url, expected);
            }
            assert!(requests.next::<DiscoveryRequest>().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let big = DiscoveryRequest {
            version_info: "x".repeat(2000),
            ..Default::default()
        };
        let cases = [
            (framed(&big), Code::ResourceExhausted, "metadata"),
            (vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff], Code::InvalidArgument, "decode"),
            (vec![1, 0, 0, 0, 0], Code::Unimplemented, "compressed"),
            (vec![0, 0, 0, 0, 9, 1], Code::InvalidArgument, "middle"),
        ];
        for (bytes, code, text) in cases {
            let status = requests(vec![bytes]).next::<DiscoveryRequest>().await.unwrap_err();
            assert_eq!(status.code(), code);
            assert!(status.message().contains(text), "{status}");
        }
    }
}
