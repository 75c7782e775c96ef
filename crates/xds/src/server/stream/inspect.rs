//! Questions about the control plane itself, on streams of their own.

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Body;
use lateen_proto::envoy::config::core::v3::ControlPlane;
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use prost::Message;
use tonic::Status;

use super::{Driver, Input, Request};
use crate::types::QUESTIONS;
use crate::{Dialect, Discovery, NamedAny, Question};

/// What a request asks of the control plane itself.
pub(super) struct Asked {
    question: Question,
    /// Which answer it acknowledges. `istioctl` puts the time of day here in its first request: only a nonce that was given
    /// on this stream says that nothing is asked.
    nonce: String,
}

/// The question in what happened to a stream, if there is one.
pub(super) fn asked(input: &Input) -> Option<Asked> {
    match input {
        Input::Request(request) => question(request),
        Input::Wanted | Input::Time => None,
    }
}

/// The question in a request, if there is one.
pub(super) fn question(request: &Request) -> Option<Asked> {
    let (type_url, names, nonce) = match request {
        Request::Delta(request) => (
            &request.type_url,
            &request.resource_names_subscribe,
            &request.response_nonce,
        ),
        Request::StateOfTheWorld(request) => (&request.type_url, &request.resource_names, &request.response_nonce),
    };
    type_url.starts_with(QUESTIONS).then(|| Asked {
        question: Question {
            type_url: type_url.clone(),
            names: names.clone(),
        },
        nonce: nonce.clone(),
    })
}

impl<D, B> Driver<D, B>
where
    D: Discovery,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    /// The answer as it is sent; `None` to an acknowledgement.
    pub(super) async fn inspect(&mut self, asked: Asked) -> Result<Option<Bytes>, Status> {
        let given = 1..=self.answers;
        if asked.nonce.parse().is_ok_and(|nonce: u64| given.contains(&nonce)) {
            return Ok(None);
        }
        let type_url = asked.question.type_url.clone();
        let answer = self.shared.discovery.inspect(asked.question, &self.peer).await;
        let answer = answer.map_err(|refusal| {
            tracing::warn!(%type_url, peer = ?self.peer.identity, error = %refusal, "refused a question");
            Status::from(refusal)
        })?;
        self.answers += 1;
        let nonce = self.answers.to_string();
        let control_plane = ControlPlane {
            identifier: self.shared.settings.identifier.clone(),
        };
        let framed = match self.dialect {
            Dialect::StateOfTheWorld => framed(&DiscoveryResponse {
                version_info: "1".to_owned(),
                resources: answer.into_iter().map(|one| one.body).collect(),
                type_url,
                nonce,
                control_plane: Some(control_plane),
                ..DiscoveryResponse::default()
            }),
            Dialect::Delta => framed(&DeltaDiscoveryResponse {
                system_version_info: "1".to_owned(),
                resources: answer.into_iter().map(resource).collect(),
                type_url,
                nonce,
                control_plane: Some(control_plane),
                ..DeltaDiscoveryResponse::default()
            }),
        };
        framed.map(Some)
    }
}

fn resource(one: NamedAny) -> Resource {
    Resource {
        name: one.name,
        version: "1".to_owned(),
        resource: Some(one.body),
        ..Resource::default()
    }
}

/// A message with gRPC's prefix: not compressed, and its length.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::resource_exhausted("an answer of 4 GiB cannot be sent"))?;
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message
        .encode(&mut bytes)
        .map_err(|error| Status::internal(format!("the answer does not encode: {error}")))?;
    Ok(bytes.freeze())
}
