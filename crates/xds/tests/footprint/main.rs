//! What a proxy costs that holds what its class holds: little, however many resources there are.

#![expect(clippy::unwrap_used, reason = "a test that fails panics, in its helpers too")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lateen_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_xds::types::{CLUSTER, ENDPOINTS};
use lateen_xds::{Dialect, Resource, ResourceSet, Session, Wanted};

const RESOURCES: usize = 5_000;
const PROXIES: usize = 50;

/// Held by the test that measures: the process's memory is that of all its tests.
static ALONE: Mutex<()> = Mutex::new(());

fn set(round: u32) -> ResourceSet {
    (0..RESOURCES)
        .map(|i| {
            Resource::new(
                format!("outbound|80||service-{i}.shop.svc.cluster.local"),
                vec![1; 100].into(),
            )
        })
        .chain([Resource::new("changes", round.to_be_bytes().to_vec().into())])
        .collect()
}

fn wanted(snapshot: u64, clusters: &ResourceSet, endpoints: &ResourceSet) -> Arc<Wanted> {
    Arc::new(Wanted {
        snapshot,
        version: Arc::from("v"),
        changed_at: None,
        sets: [
            (Arc::from(CLUSTER), clusters.clone()),
            (Arc::from(ENDPOINTS), endpoints.clone()),
        ]
        .into_iter()
        .collect(),
        ..Wanted::default()
    })
}

/// Sends and acknowledges until there is nothing more to send. Returns how many resources were sent.
fn settle(session: &mut Session) -> usize {
    let mut sent = 0;
    while let Some(push) = session.poll(Instant::now()) {
        sent += push.resources.len();
        let (type_url, response_nonce) = (push.type_url.to_string(), push.nonce.to_string());
        session
            .on_delta_request(&DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                ..Default::default()
            })
            .unwrap();
    }
    session.events();
    sent
}

fn ask(type_url: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names,
        ..Default::default()
    }
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_proxy_in_step_costs_little() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (clusters, mut endpoints) = (set(0), set(0));
    let world = wanted(1, &clusters, &endpoints);
    let connect = || {
        let mut session = Session::new(Dialect::Delta, Arc::clone(&world));
        session.on_delta_request(&ask(CLUSTER, Vec::new())).unwrap();
        assert_eq!(settle(&mut session), RESOURCES + 1);
        let names = endpoints.iter().map(|resource| resource.name.to_string()).collect();
        session.on_delta_request(&ask(ENDPOINTS, names)).unwrap();
        assert_eq!(settle(&mut session), RESOURCES + 1);
        session
    };
    // The first ones bring the allocator to its size.
    let mut sessions: Vec<Session> = (0..10).map(|_| connect()).collect();
    let (before, since) = (resident_bytes(), Instant::now());
    sessions.extend((0..PROXIES).map(|_| connect()));
    let each = resident_bytes().saturating_sub(before) / PROXIES;
    println!(
        "{each} bytes a proxy, {:?} to connect one",
        since.elapsed() / u32::try_from(PROXIES).unwrap()
    );
    assert!(
        each < 16 * 1024,
        "{each} bytes a proxy that holds {} names",
        2 * RESOURCES
    );

    let since = Instant::now();
    for round in 1..=20 {
        endpoints.insert(Arc::new(Resource::new(
            "changes",
            round.to_string().into_bytes().into(),
        )));
        let world = wanted(1 + round, &clusters, &endpoints);
        for session in &mut sessions {
            session.on_wanted(Arc::clone(&world));
            assert_eq!(settle(session), 1);
            assert_eq!(session.own_names(), 0);
        }
    }
    println!(
        "{:?} a proxy and change",
        since.elapsed() / (20 * u32::try_from(sessions.len()).unwrap())
    );
    let each = resident_bytes().saturating_sub(before) / PROXIES;
    assert!(each < 16 * 1024, "{each} bytes a proxy after 20 changes");
}

#[test]
fn a_proxy_that_names_some_costs_those() {
    const NAMED: usize = 20;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (all, mut endpoints) = (set(0), set(0));
    let unasked: ResourceSet = all.iter().take(100).cloned().collect();
    let make = |snapshot: u64, endpoints: &ResourceSet| {
        let mut wanted = Wanted::clone(&wanted(snapshot, &unasked, endpoints));
        wanted.by_name.insert(CLUSTER, all.clone());
        Arc::new(wanted)
    };
    let world = make(1, &endpoints);
    let rest: Vec<String> = all.iter().skip(100).map(|resource| resource.name.to_string()).collect();
    let connect = |number: usize| {
        let mut session = Session::new(Dialect::Delta, Arc::clone(&world));
        session.on_delta_request(&ask(CLUSTER, Vec::new())).unwrap();
        assert_eq!(settle(&mut session), 100);
        for used in 0..NAMED {
            let name = &rest[(number * 37 + used * 211) % rest.len()];
            session.on_delta_request(&ask(CLUSTER, vec![name.clone()])).unwrap();
            session.on_delta_request(&ask(ENDPOINTS, vec![name.clone()])).unwrap();
            assert_eq!(settle(&mut session), 2);
        }
        session
    };
    let mut sessions: Vec<Session> = (0..10).map(connect).collect();
    let before = resident_bytes();
    sessions.extend((10..10 + PROXIES).map(connect));
    endpoints.insert(Arc::new(Resource::new("changes", vec![2].into())));
    let world = make(2, &endpoints);
    for session in &mut sessions {
        session.on_wanted(Arc::clone(&world));
        assert_eq!(settle(session), 0);
        assert_eq!(session.own_names(), 2 * NAMED);
    }
    let each = resident_bytes().saturating_sub(before) / PROXIES;
    println!("{each} bytes a proxy that names {NAMED} of {RESOURCES}");
    assert!(each < 32 * 1024, "{each} bytes a proxy that names {NAMED}");
}
