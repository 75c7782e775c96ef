//! Configurations of filters on one stream: rewritten in the order in which they came, and given to Envoy once more
//! when a module can be had that could not before. The control plane, which sends nothing twice, is not asked for that.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture, pending};
use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use prost::Message as _;

use super::wire::Protocol;
use crate::wasm::{Converted, Failed, Modules, TYPE};

/// Before a module is tried again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// What nonces of the agent's own responses begin with.
const OWN: &str = "lateen-agent/";

/// See the module.
pub(super) struct Extensions {
    modules: Arc<Modules>,
    protocol: Protocol,
    /// Responses that wait for those before them.
    waiting: VecDeque<Bytes>,
    converting: Option<BoxFuture<'static, Converted>>,
    failed: Vec<Failed>,
    retrying: Option<BoxFuture<'static, (Vec<Resource>, Vec<Failed>)>>,
    pause: Duration,
    /// Nonces of the agent's own responses that Envoy has not answered.
    own: BTreeSet<String>,
    sent: u64,
}

impl Extensions {
    pub(super) fn new(modules: Arc<Modules>, protocol: Protocol) -> Self {
        Self {
            modules,
            protocol,
            waiting: VecDeque::new(),
            converting: None,
            failed: Vec::new(),
            retrying: None,
            pause: FIRST_PAUSE,
            own: BTreeSet::new(),
            sent: 0,
        }
    }

    /// Takes a response of the control plane's.
    pub(super) fn push(&mut self, response: Bytes) {
        self.waiting.push_back(response);
    }

    /// The next response for Envoy; never, while there is nothing to say. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Bytes {
        loop {
            self.start();
            let (converting, retrying) = (self.converting.as_mut(), self.retrying.as_mut());
            if converting.is_none() && retrying.is_none() {
                return pending().await;
            }
            tokio::select! {
                biased;
                Some(converted) = OptionFuture::from(converting) => return self.converted(converted),
                Some((ready, _)) = OptionFuture::from(retrying) => {
                    if let Some(response) = self.retried(ready) {
                        return response;
                    }
                }
            }
        }
    }

    fn start(&mut self) {
        if self.converting.is_none()
            && let Some(response) = self.waiting.pop_front()
        {
            let (modules, protocol) = (Arc::clone(&self.modules), self.protocol);
            self.converting = Some(async move { modules.convert(protocol, response).await }.boxed());
        }
        if self.retrying.is_none() && !self.failed.is_empty() {
            let (modules, failed, pause) = (Arc::clone(&self.modules), self.failed.clone(), self.pause);
            let retry = async move {
                tokio::time::sleep(pause).await;
                modules.retry(failed).await
            };
            self.retrying = Some(retry.boxed());
        }
    }

    fn converted(&mut self, converted: Converted) -> Bytes {
        self.converting = None;
        let before = self.failed.len();
        self.failed
            .retain(|Failed(resource)| !converted.about.contains(&resource.name));
        if before != self.failed.len() || !converted.failed.is_empty() {
            // What is tried just now may be out of date.
            self.retrying = None;
            self.pause = FIRST_PAUSE;
        }
        self.failed.extend(converted.failed);
        converted.message
    }

    fn retried(&mut self, ready: Vec<Resource>) -> Option<Bytes> {
        self.retrying = None;
        self.pause = LAST_PAUSE.min(self.pause * 2);
        self.failed
            .retain(|Failed(resource)| !ready.iter().any(|other| other.name == resource.name));
        if ready.is_empty() {
            return None;
        }
        self.sent += 1;
        let nonce = format!("{OWN}{}", self.sent);
        self.own.insert(nonce.clone());
        let response = DeltaDiscoveryResponse {
            resources: ready,
            nonce,
            type_url: TYPE.to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        Some(response.encode_to_vec().into())
    }

    /// What of a request of Envoy's is for the control plane: nothing of an answer to the agent itself, unless it asks
    /// for something besides.
    pub(super) fn forward(&mut self, request: Bytes) -> Option<Bytes> {
        if self.own.is_empty() {
            return Some(request);
        }
        let Ok(mut read) = DeltaDiscoveryRequest::decode(request.clone()) else {
            return Some(request);
        };
        if !self.own.remove(&read.response_nonce) {
            return Some(request);
        }
        if let Some(error) = read.error_detail.take() {
            tracing::error!(reason = error.message, "Envoy rejects a WebAssembly module");
        }
        read.response_nonce.clear();
        let asks = !read.resource_names_subscribe.is_empty() || !read.resource_names_unsubscribe.is_empty();
        asks.then(|| read.encode_to_vec().into())
    }
}
