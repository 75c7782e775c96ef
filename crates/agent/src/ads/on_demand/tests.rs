//! What is said to the control plane, what becomes of requests, and when something is forgotten.

use lateen_proto::any;
use lateen_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use lateen_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use lateen_proto::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster, route,
};
use lateen_proto::envoy::service::discovery::v3::Resource;

use super::*;

const IDLE: Duration = Duration::from_secs(60);
const WEB: &str = "outbound|80||web.shop.svc.cluster.local";
const DB: &str = "outbound|80||db.shop.svc.cluster.local";
const HOST: &str = "web.shop.svc.cluster.local:80";

/// Of a virtual host with a route to one cluster, named `web`, and one to two, without a name.
fn told() -> OnDemand {
    let on_demand = OnDemand::new(IDLE);
    on_demand.on_response(
        LISTENER,
        &Bytes::from(format!("anything, {MISSING_CLUSTER_FILTER}, anything")),
    );
    on_demand.on_response(
        b"type.googleapis.com/envoy.config.route.v3.VirtualHost",
        &virtual_host(),
    );
    on_demand
}

fn virtual_host() -> Bytes {
    let weight = |name: &str| ClusterWeight {
        name: name.to_owned(),
        ..Default::default()
    };
    let both = ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: vec![weight(DB), weight(WEB)],
        ..Default::default()
    });
    let host = VirtualHost {
        name: HOST.to_owned(),
        routes: vec![to("web", ClusterSpecifier::Cluster(WEB.to_owned())), to("", both)],
        ..Default::default()
    };
    response(
        "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        vec![Resource {
            name: "80/web.shop".to_owned(),
            resource: Some(any(&host)),
            ..Default::default()
        }],
        &[],
    )
}

fn to(name: &str, clusters: ClusterSpecifier) -> Route {
    Route {
        name: name.to_owned(),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(clusters),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn response(kind: &str, resources: Vec<Resource>, gone: &[&str]) -> Bytes {
    let response = DeltaDiscoveryResponse {
        type_url: kind.to_owned(),
        resources,
        removed_resources: gone.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    response.encode_to_vec().into()
}

/// The control plane sends these clusters, and takes these away.
fn clusters(on_demand: &OnDemand, there: &[&str], gone: &[&str]) {
    let resource = |name: &&str| Resource {
        name: (*name).to_owned(),
        ..Default::default()
    };
    let message = response(CLUSTER, there.iter().map(resource).collect(), gone);
    on_demand.on_response(CLUSTER.as_bytes(), &message);
}

/// What the control plane is told to send from now on, and what no longer.
fn said(on_demand: &OnDemand) -> Option<(Vec<String>, Vec<String>)> {
    let request = DeltaDiscoveryRequest::decode(on_demand.say()?).unwrap();
    assert_eq!((&*request.type_url, &*request.response_nonce), (CLUSTER, ""));
    Some((request.resource_names_subscribe, request.resource_names_unsubscribe))
}

fn wanted(name: &str) -> Option<(Vec<String>, Vec<String>)> {
    Some((vec![name.into()], vec![]))
}

fn unwanted(name: &str) -> Option<(Vec<String>, Vec<String>)> {
    Some((vec![], vec![name.into()]))
}

fn counted(name: &str, requests: u64, active: bool) -> BTreeMap<String, Counted> {
    BTreeMap::from([(name.to_owned(), Counted { requests, active })])
}

/// What Envoy's first request on a stream subscribes to, if it names these and has these.
fn joined(on_demand: &OnDemand, names: &[&str], has: &[&str]) -> Vec<String> {
    let version = |name: &&str| ((*name).to_owned(), "1".to_owned());
    let request = DeltaDiscoveryRequest {
        type_url: CLUSTER.to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        initial_resource_versions: has.iter().map(version).collect(),
        ..Default::default()
    };
    let joined = on_demand.join(request.encode_to_vec().into());
    DeltaDiscoveryRequest::decode(joined).unwrap().resource_names_subscribe
}

/// A cluster that was missed, came, and was looked at.
fn used(start: Instant) -> OnDemand {
    let on_demand = told();
    on_demand.miss(HOST, "web", start);
    assert_eq!(said(&on_demand), wanted(WEB));
    clusters(&on_demand, &[WEB], &[]);
    assert_eq!(on_demand.look(&counted(WEB, 1, false), start), 0);
    on_demand
}

/// As [`used`], and no longer: it is about to go.
fn leaving(start: Instant) -> OnDemand {
    let on_demand = used(start);
    assert_eq!(on_demand.look(&counted(WEB, 1, false), start + IDLE), 1);
    assert_eq!(said(&on_demand), unwanted(WEB));
    on_demand
}

#[test]
fn a_request_waits_until_its_cluster_is_on_its_way() {
    let on_demand = told();
    let now = Instant::now();
    let names = on_demand.miss(HOST, "web", now);
    assert_eq!(names, BTreeSet::from([WEB.to_owned()]));
    assert_eq!(on_demand.miss(HOST, "web", now), names);
    assert_eq!((said(&on_demand), said(&on_demand)), (wanted(WEB), None));
    clusters(&on_demand, &[DB], &[]);
    assert_eq!(on_demand.verdict(&names), None);
    clusters(&on_demand, &[DB, WEB], &[]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
    // Envoy is not done with it yet: nothing more need be asked.
    assert_eq!(on_demand.miss(HOST, "web", now), names);
    assert_eq!(said(&on_demand), None);
}

#[test]
fn all_that_a_route_may_send_to_is_named() {
    let on_demand = told();
    let names = on_demand.miss(HOST, "", Instant::now());
    assert_eq!(said(&on_demand), Some((vec![DB.into(), WEB.into()], vec![])));
    clusters(&on_demand, &[DB], &[]);
    assert_eq!(on_demand.verdict(&names), None);
    clusters(&on_demand, &[], &[WEB]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
}

#[test]
fn what_routes_were_is_of_no_matter() {
    let on_demand = told();
    let table = RouteConfiguration {
        name: "80".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "other".to_owned(),
            routes: vec![to("one", ClusterSpecifier::Cluster(DB.to_owned()))],
            ..Default::default()
        }],
        ..Default::default()
    };
    let kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    let resource = |resource: Option<&RouteConfiguration>| Resource {
        name: "80".to_owned(),
        resource: resource.map(any),
        ..Default::default()
    };
    let send = |table: Option<&RouteConfiguration>| {
        on_demand.on_response(kind.as_bytes(), &response(kind, vec![resource(table)], &[]));
    };
    let miss = |host: &str, route: &str| on_demand.miss(host, route, Instant::now()).len();
    send(Some(&table));
    assert_eq!((miss("other", "one"), miss("other", ""), miss(HOST, "one")), (1, 0, 0));
    send(None);
    assert_eq!(miss("other", "one"), 0);
    let kind = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    on_demand.on_response(kind.as_bytes(), &response(kind, vec![], &["80/web.shop"]));
    assert_eq!(miss(HOST, "web"), 0);
}

#[test]
fn a_request_of_which_nothing_is_known_goes_on() {
    let on_demand = OnDemand::new(IDLE);
    // No listener tells of anything, so what routes there are is not kept.
    on_demand.on_response(LISTENER, &Bytes::from_static(b"envoy.filters.http.router"));
    on_demand.on_response(
        b"type.googleapis.com/envoy.config.route.v3.VirtualHost",
        &virtual_host(),
    );
    let names = on_demand.miss(HOST, "web", Instant::now());
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
    assert_eq!(said(&on_demand), None);
}

#[test]
fn what_there_is_not_is_refused_until_it_is_there() {
    let on_demand = told();
    let start = Instant::now();
    let names = on_demand.miss(HOST, "web", start);
    assert_eq!(said(&on_demand), wanted(WEB));
    clusters(&on_demand, &[], &[WEB, DB]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Refuse));
    // It stays named.
    on_demand.miss(HOST, "web", start);
    assert_eq!(said(&on_demand), None);
    clusters(&on_demand, &[WEB], &[]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
    clusters(&on_demand, &[], &[WEB]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Refuse));
    assert_eq!(on_demand.look(&BTreeMap::new(), start + IDLE), 1);
    assert_eq!(said(&on_demand), unwanted(WEB));
    assert!(on_demand.is_empty());
    on_demand.miss(HOST, "web", start);
    assert_eq!(on_demand.verdict(&names), None);
    assert_eq!(said(&on_demand), wanted(WEB));
}

#[test]
fn only_what_is_not_used_for_long_is_forgotten() {
    let start = Instant::now();
    let on_demand = used(start);
    // Requests that come, and ones that last.
    let mut now = start;
    for (requests, active) in [(2, false), (3, false), (3, true), (3, true)] {
        now += IDLE;
        assert_eq!(on_demand.look(&counted(WEB, requests, active), now), 0);
    }
    assert_eq!(on_demand.look(&counted(WEB, 3, false), now + IDLE / 2), 0);
    assert_eq!(said(&on_demand), None);
    assert_eq!(on_demand.look(&counted(WEB, 3, false), now + IDLE), 1);
    assert_eq!(said(&on_demand), unwanted(WEB));
    // It is said once, and over when Envoy is told.
    assert_eq!(on_demand.look(&counted(WEB, 3, false), now + IDLE * 2), 0);
    assert_eq!(said(&on_demand), None);
    assert!(!on_demand.is_empty());
    clusters(&on_demand, &[], &[WEB]);
    assert!(on_demand.is_empty());
    on_demand.miss(HOST, "web", now);
    assert_eq!(said(&on_demand), wanted(WEB));
}

#[test]
fn what_is_missed_before_it_is_gone_is_named_again_afterwards() {
    let start = Instant::now();
    let on_demand = leaving(start);
    // What the control plane sent before it heard.
    clusters(&on_demand, &[WEB], &[]);
    let names = on_demand.miss(HOST, "web", start + IDLE);
    assert_eq!((on_demand.verdict(&names), said(&on_demand)), (None, None));
    clusters(&on_demand, &[], &[WEB]);
    assert_eq!((on_demand.verdict(&names), said(&on_demand)), (None, wanted(WEB)));
    clusters(&on_demand, &[WEB], &[]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
}

#[test]
fn what_is_missed_is_not_forgotten_however_long_the_answer_takes() {
    let on_demand = told();
    let start = Instant::now();
    let names = on_demand.miss(HOST, "web", start);
    assert_eq!(said(&on_demand), wanted(WEB));
    assert_eq!(on_demand.look(&BTreeMap::new(), start + IDLE * 2), 0);
    clusters(&on_demand, &[WEB], &[]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
}

#[test]
fn a_new_stream_names_all_that_is_wanted() {
    let start = Instant::now();
    let on_demand = told();
    assert_eq!(joined(&on_demand, &[], &[]), [""; 0]);
    let names = on_demand.miss(HOST, "", start);
    // Not said before, and not said twice. What Envoy asked for by itself stays.
    assert_eq!(joined(&on_demand, &["*", WEB, "own"], &["own"]), ["*", "own", DB, WEB]);
    assert_eq!(said(&on_demand), None);
    assert_eq!(joined(&on_demand, &[], &[WEB]), ["*", DB, WEB]);
    assert_eq!(on_demand.verdict(&names), None);
    clusters(&on_demand, &[DB], &[]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));
    // It was on its way and has not arrived.
    assert_eq!(joined(&on_demand, &[], &[WEB]), ["*", DB, WEB]);
    assert_eq!(on_demand.verdict(&names), None);
}

#[test]
fn a_new_stream_names_nothing_that_is_forgotten_unless_envoy_has_it() {
    let start = Instant::now();
    let on_demand = leaving(start);
    let names = on_demand.miss(HOST, "web", start);
    // The control plane will not mention it, since Envoy has it.
    assert_eq!(joined(&on_demand, &["*", WEB], &[WEB]), ["*", WEB]);
    assert_eq!(on_demand.verdict(&names), Some(Verdict::Pass));

    let on_demand = leaving(start);
    assert_eq!(joined(&on_demand, &["*", WEB], &[]), ["*"]);
    assert!(on_demand.is_empty());

    let on_demand = leaving(start);
    on_demand.miss(HOST, "web", start);
    assert_eq!(joined(&on_demand, &["*", WEB], &[]), ["*", WEB]);
    assert_eq!(on_demand.verdict(&names), None);

    let on_demand = leaving(start);
    clusters(&on_demand, &[], &[WEB]);
    assert_eq!(joined(&on_demand, &["*", WEB], &[]), ["*"]);
    // The removal did not arrive.
    assert_eq!(joined(&on_demand, &["*"], &[WEB]), ["*", WEB]);
    assert_eq!(on_demand.look(&counted(WEB, 1, false), start), 0);
    assert_eq!(on_demand.look(&counted(WEB, 1, false), start + IDLE * 2), 1);
    assert_eq!(said(&on_demand), unwanted(WEB));
}
