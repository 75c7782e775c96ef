//! A request whose cluster is not there: Envoy tells of it in a call of its external processing, and waits for the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use lateen_proto::envoy::service::ext_proc::v3::processing_response::Response;
use lateen_proto::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse, ProcessingRequest, ProcessingResponse,
};
use lateen_proto::envoy::r#type::v3::HttpStatus;
use lateen_proto::value::Kind;
use tonic::{Status, Streaming};

use super::{OnDemand, Verdict};

/// The method's path.
pub(in crate::ads) const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// How long a request waits for an answer of the control plane.
const PATIENCE: Duration = Duration::from_secs(5);
const UNAVAILABLE: i32 = 503;

/// What Envoy is answered: once, then the call has ended.
pub(in crate::ads) fn answer(
    on_demand: Arc<OnDemand>,
    mut requests: Streaming<ProcessingRequest>,
) -> BoxStream<'static, Result<ProcessingResponse, Status>> {
    let answer = async move {
        let request = requests.message().await.transpose()?;
        Some(match request {
            Ok(request) => Ok(response(on_demand.decide(&request).await)),
            Err(status) => Err(status),
        })
    };
    futures::stream::once(answer).filter_map(futures::future::ready).boxed()
}

impl OnDemand {
    async fn decide(&self, request: &ProcessingRequest) -> Verdict {
        let virtual_host = attribute(request, "xds.virtual_host_name");
        let route = attribute(request, "xds.route_name");
        let names = self.miss(virtual_host, route, Instant::now());
        let known = async {
            loop {
                let mut answered = std::pin::pin!(self.answered.notified());
                answered.as_mut().enable();
                if let Some(verdict) = self.verdict(&names) {
                    return verdict;
                }
                answered.await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.unwrap_or_else(|_| {
            tracing::warn!(
                virtual_host,
                route,
                ?names,
                "clusters that a request needs have not come in time"
            );
            Verdict::Refuse
        })
    }
}

/// An attribute of the request; empty if it has none.
fn attribute<'a>(request: &'a ProcessingRequest, name: &str) -> &'a str {
    let value = request.attributes.values().find_map(|all| all.fields.get(name));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

/// The request goes on unchanged, but with its route found anew, and so the cluster, should it have come. Else Envoy's own filter
/// would ask for it all the same, and of several requests that ask at once for what is there only the first is answered.
/// Routes are found anew only where headers may have changed, so one is taken away that there is not.
fn passed() -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            remove_headers: vec!["x-lateen-missing-cluster".to_owned()],
            ..Default::default()
        }),
        clear_route_cache: true,
        ..Default::default()
    }
}

fn response(verdict: Verdict) -> ProcessingResponse {
    let response = match verdict {
        Verdict::Pass => Response::RequestHeaders(HeadersResponse {
            response: Some(passed()),
        }),
        Verdict::Refuse => Response::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code: UNAVAILABLE }),
            // As Envoy calls it.
            details: "cluster_not_found".to_owned(),
            ..Default::default()
        }),
    };
    ProcessingResponse {
        response: Some(response),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    //! What Envoy is told.

    use super::*;

    #[test]
    fn a_request_that_goes_on_has_its_route_found_anew() {
        let Some(Response::RequestHeaders(headers)) = response(Verdict::Pass).response else {
            panic!("it does not go on");
        };
        let common = headers.response.unwrap();
        assert!(common.clear_route_cache);
        // Without a change of headers Envoy ignores that.
        assert!(!common.header_mutation.unwrap().remove_headers.is_empty());
    }
}
