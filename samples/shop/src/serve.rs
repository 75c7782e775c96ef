//! The HTTP services.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::Client;
use crate::hop::{Call, Hop, carried, peer};
use crate::{ServerArgs, asked_to_end, stock};

struct Service {
    name: &'static str,
    me: ServerArgs,
    client: Client,
    role: Role,
}

enum Role {
    Productpage { details: String, reviews: String },
    Details { stock: Option<String> },
    Reviews { ratings: String },
    Ratings,
}

pub(crate) async fn productpage(me: ServerArgs, client: Client, details: String, reviews: String) -> Result<()> {
    run("productpage", me, client, Role::Productpage { details, reviews }).await
}

pub(crate) async fn details(me: ServerArgs, client: Client, stock: Option<String>) -> Result<()> {
    run("details", me, client, Role::Details { stock }).await
}

pub(crate) async fn reviews(me: ServerArgs, client: Client, ratings: String) -> Result<()> {
    run("reviews", me, client, Role::Reviews { ratings }).await
}

pub(crate) async fn ratings(me: ServerArgs, client: Client) -> Result<()> {
    run("ratings", me, client, Role::Ratings).await
}

async fn run(name: &'static str, me: ServerArgs, client: Client, role: Role) -> Result<()> {
    let listener = TcpListener::bind(me.listen)
        .await
        .with_context(|| format!("{name} cannot listen on {}", me.listen))?;
    axum::serve(listener, router(Service { name, me, client, role }))
        .with_graceful_shutdown(asked_to_end())
        .await
        .with_context(|| format!("{name} stopped serving"))
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/health", get(|| async { "well\n" }))
        .route(&format!("/{}", service.name), get(answer))
        .with_state(Arc::new(service))
}

/// Answers 200 when everyone asked answered, else 502; the body says who did not.
async fn answer(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let (body, calls) = service.role.fulfil(&service, &carried(&headers)).await;
    let status = if calls.iter().all(Call::ok) {
        StatusCode::OK
    } else {
        StatusCode::BAD_GATEWAY
    };
    let hop = Hop {
        service: service.name.to_owned(),
        version: service.me.version.clone(),
        pod: service.me.pod.clone(),
        peer: peer(&headers),
        body,
        calls,
    };
    (status, Json(hop)).into_response()
}

impl Role {
    async fn fulfil(&self, service: &Service, headers: &HeaderMap) -> (Value, Vec<Call>) {
        match self {
            Self::Productpage { details, reviews } => {
                let (details_url, reviews_url) = (format!("{details}/details"), format!("{reviews}/reviews"));
                let (details, reviews) = tokio::join!(
                    service.client.call("details", &details_url, headers),
                    service.client.call("reviews", &reviews_url, headers),
                );
                (json!({"title": "The Wind's Handbook"}), vec![details, reviews])
            }
            Self::Details { stock } => {
                let facts = json!({"pages": 212, "binding": "sailcloth", "year": 1911});
                let calls = match stock {
                    Some(address) => vec![stock::ask(address, service.client.names).await],
                    None => Vec::new(),
                };
                (facts, calls)
            }
            Self::Reviews { ratings } => {
                let texts = json!([
                    {"reader": "Ana", "text": "Taught me to read a cloud before it read me."},
                    {"reader": "Bo", "text": "Too few knots, but the harbours are all there."},
                ]);
                // The first version shows no stars.
                let calls = match service.me.version.as_str() {
                    "v1" => Vec::new(),
                    _ => vec![
                        service
                            .client
                            .call("ratings", &format!("{ratings}/ratings"), headers)
                            .await,
                    ],
                };
                (texts, calls)
            }
            Self::Ratings => (json!({"Ana": 5, "Bo": 4}), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Names;

    fn me(version: &str) -> ServerArgs {
        ServerArgs {
            listen: ([127, 0, 0, 1], 0).into(),
            version: version.to_owned(),
            pod: format!("pod-{version}"),
        }
    }

    /// Serves on a free port until the returned set is dropped.
    async fn start(set: &mut tokio::task::JoinSet<()>, name: &'static str, version: &str, role: Role) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(Service {
            name,
            me: me(version),
            client: Client::new(Names::default()),
            role,
        });
        set.spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn the_front_page_tells_the_whole_chain() {
        let mut set = tokio::task::JoinSet::new();
        let ratings = start(&mut set, "ratings", "v1", Role::Ratings).await;
        let reviews = start(&mut set, "reviews", "v3", Role::Reviews { ratings }).await;
        let details = start(&mut set, "details", "v1", Role::Details { stock: None }).await;
        let page = start(&mut set, "productpage", "v1", Role::Productpage { details, reviews }).await;

        let call = Client::new(Names::default())
            .call("productpage", &format!("{page}/productpage"), &HeaderMap::new())
            .await;

        assert!(call.ok(), "{call:?}");
        let hop = call.reply.unwrap();
        let reviews = hop.calls[1].reply.as_ref().unwrap();
        assert_eq!(
            (reviews.service.as_str(), reviews.version.as_str(), reviews.pod.as_str()),
            ("reviews", "v3", "pod-v3")
        );
        assert_eq!(reviews.calls[0].reply.as_ref().unwrap().service, "ratings");
    }

    #[tokio::test]
    async fn every_name_can_lead_to_one_address() {
        let mut set = tokio::task::JoinSet::new();
        let ratings = start(&mut set, "ratings", "v1", Role::Ratings).await;
        let port = ratings.rsplit_once(':').unwrap().1;

        let client = Client::new(Names::new(Some([127, 0, 0, 1].into())));
        let call = client
            .call(
                "ratings",
                &format!("http://no.such.name:{port}/ratings"),
                &HeaderMap::new(),
            )
            .await;

        assert!(call.ok(), "{call:?}");
    }

    #[tokio::test]
    async fn a_dead_neighbour_makes_the_page_fail_and_is_named() {
        let mut set = tokio::task::JoinSet::new();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let reviews = start(
            &mut set,
            "reviews",
            "v2",
            Role::Reviews {
                ratings: format!("http://{gone}"),
            },
        )
        .await;

        let call = Client::new(Names::default())
            .call("reviews", &format!("{reviews}/reviews"), &HeaderMap::new())
            .await;

        assert_eq!(call.status, 502);
        assert!(!call.ok());
        let failed = &call.reply.unwrap().calls[0];
        assert_eq!((failed.to.as_str(), failed.status), ("ratings", 0));
        assert!(failed.error.as_ref().unwrap().contains(&gone.to_string()));
    }
}
