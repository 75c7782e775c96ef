//! What one change costs a stream: to encode a resource, to find it in the sets of 1,000 and 5,000 services, and to make
//! the response for a proxy that holds all the others.

#![expect(clippy::expect_used, reason = "a benchmark has nothing to go on with")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_main};
use lateen_proto::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use lateen_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_xds::types::ENDPOINTS;
use lateen_xds::{Dialect, Push, Resource, ResourceSet, Session, Wanted};

const SIZES: [usize; 2] = [1_000, 5_000];
const ENDPOINTS_EACH: usize = 10;

fn name(i: usize) -> String {
    format!("outbound|80||s{i}.shop.svc.cluster.local")
}

fn assignment(i: usize, port: u32) -> ClusterLoadAssignment {
    let endpoint = |low: usize| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: format!("10.64.{}.{low}", i % 250),
                    port_specifier: Some(PortSpecifier::PortValue(port)),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: name(i),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: (0..ENDPOINTS_EACH).map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

fn resource(i: usize, port: u32) -> Arc<Resource> {
    Arc::new(Resource::encode(name(i), &assignment(i, port)))
}

fn wanted(snapshot: u64, set: ResourceSet) -> Arc<Wanted> {
    Arc::new(Wanted {
        snapshot,
        version: snapshot.to_string().into(),
        changed_at: None,
        sets: [(ENDPOINTS.into(), set)].into_iter().collect(),
        ..Wanted::default()
    })
}

fn accepts(push: &Push) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ENDPOINTS.to_owned(),
        response_nonce: push.nonce.to_string(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A proxy's stream that has got and accepted everything.
fn settled(set: &ResourceSet, now: Instant) -> Session {
    let mut session = Session::new(Dialect::Delta, wanted(1, set.clone()));
    let subscription = DeltaDiscoveryRequest {
        type_url: ENDPOINTS.to_owned(),
        resource_names_subscribe: set.iter().map(|resource| resource.name.to_string()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    session.on_delta_request(&subscription).expect("a subscription");
    while let Some(push) = session.poll(now) {
        session.on_delta_request(&accepts(&push)).expect("an answer");
    }
    session
}

fn benches(criterion: &mut Criterion) {
    let message = assignment(7, 80);
    criterion.bench_function("encode and hash the endpoints of a service", |bench| {
        bench.iter(|| Resource::encode("name", black_box(&message)));
    });
    for services in SIZES {
        let set: ResourceSet = (0..services).map(|i| resource(i, 80)).collect();
        let mut later = set.clone();
        later.insert(resource(7, 81));
        criterion.bench_function(
            &format!("{services} services: diff of two sets, one changed"),
            |bench| {
                bench.iter(|| assert_eq!(black_box(&set).diff(black_box(&later)).count(), 1));
            },
        );
        let now = Instant::now();
        let change = wanted(2, later);
        criterion.bench_function(
            &format!("{services} services: the response to a proxy, one changed"),
            |bench| {
                bench.iter_batched(
                    || settled(&set, now),
                    |mut session| {
                        session.on_wanted(change.clone());
                        let push = session.poll(now).expect("a response");
                        assert_eq!(push.resources.len(), 1);
                        // The session is dropped outside of what is timed.
                        (session, push)
                    },
                    BatchSize::PerIteration,
                );
            },
        );
    }
}

#[allow(missing_docs, reason = "made by the macro")]
mod group {
    use criterion::{Criterion, criterion_group};

    use super::benches;

    criterion_group! {
        name = push;
        config = Criterion::default().sample_size(20);
        targets = benches
    }
}
criterion_main!(group::push);
