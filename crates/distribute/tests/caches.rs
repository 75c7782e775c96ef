//! Compiling through classes and caches gives the same bytes as compiling every proxy alone, whatever happened before.

#![expect(clippy::unwrap_used, reason = "a test whose data is not as expected fails")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use lateen_compile::{Classes, Family, compile_alone};
use lateen_distribute::Families;
use lateen_lower::{Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::proxy::{Capabilities, Interception, Options, ProxyKind};
use lateen_model::{Proxy, Shared, Snapshot};
use lateen_names::{ClusterId, Locality, Namespace, Network};
use proptest::prelude::*;

/// Objects that depend on one another in every way there is, in several versions each.
const OBJECTS: &str = include_str!("../../lower/tests/world.yaml");

fn objects() -> Vec<Arc<Object>> {
    yaml::documents(OBJECTS)
        .map(|document| {
            let value = document.unwrap();
            let group = value["apiVersion"]
                .as_str()
                .unwrap()
                .split_once('/')
                .map_or("", |(group, _)| group);
            let kind = Kind::find(group, value["kind"].as_str().unwrap()).unwrap();
            let mut object = Object::decode(kind, &value).unwrap().value;
            if let Some(labels) = object.metadata_mut().labels.as_mut() {
                labels.remove("cluster");
            }
            Arc::new(object)
        })
        .collect()
}

fn proxy(kind: ProxyKind, namespace: &str, address: &str, zone: &str, labels: &[(&str, &str)]) -> Proxy {
    Proxy {
        kind,
        id: format!("test~{address}").into(),
        name: "test".into(),
        namespace: Namespace::new(namespace).unwrap(),
        service_account: "default".into(),
        dns_domain: format!("{namespace}.svc.cluster.local").into(),
        addresses: vec![address.parse().unwrap()],
        cluster: ClusterId::new("Kubernetes").unwrap(),
        network: Network::new("").unwrap(),
        locality: Locality::parse(zone),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        node: Some("node-a".into()),
        workload: "test".into(),
        canonical: ("test".into(), "latest".into()),
        mesh_id: "cluster.local".into(),
        version: "1.32.0".into(),
        interception: Interception::Redirect,
        config: Shared::default(),
        options: Options::default(),
        capabilities: Capabilities::default(),
        pod_ports: Vec::new(),
    }
}

/// Proxies that share much and differ a little, in each of the ways that count.
fn proxies() -> Vec<Proxy> {
    let mut all = Vec::new();
    for namespace in ["default", "shop", "istio-system"] {
        for (number, zone) in ["region/zone-a", "region/zone-b"].iter().enumerate() {
            for labels in [
                &[("app", "a")][..],
                &[("app", "b"), ("version", "v1")],
                &[("istio", "ingressgateway")],
            ] {
                let address = format!("10.0.{number}.{}", all.len() + 1);
                let mut sidecar = proxy(ProxyKind::Sidecar, namespace, &address, zone, labels);
                sidecar.capabilities.virtual_hosts = number == 0;
                all.push(sidecar);
                all.push(proxy(ProxyKind::Router, namespace, &address, zone, labels));
            }
        }
    }
    all
}

type Content = BTreeMap<(String, String), Vec<u8>>;

fn alone(snapshot: &Snapshot, proxy: &Proxy) -> Content {
    let mut content = Content::new();
    for (family, built) in compile_alone(snapshot, proxy) {
        if let Some(resource) = &built.resource {
            let name = (family.type_url().to_owned(), resource.name.to_string());
            content.entry(name).or_insert_with(|| resource.bytes.to_vec());
        }
    }
    content
}

fn through_caches(families: &mut Families, snapshot: &Snapshot, proxy: &Proxy) -> Content {
    let wanted = families.wanted(&Arc::new(Classes::of(snapshot, proxy)));
    let resources = wanted
        .sets
        .iter()
        .chain(wanted.by_name.iter())
        .flat_map(|(url, set)| set.iter().map(move |resource| (url, resource)));
    resources
        .map(|(url, resource)| ((url.to_string(), resource.name.to_string()), resource.body.to_vec()))
        .collect()
}

fn event(object: &Arc<Object>, delete: bool) -> Event {
    let change = if delete {
        Change::Delete {
            kind: object.kind(),
            key: object.key().unwrap(),
        }
    } else {
        Change::Apply(Arc::clone(object))
    };
    Event {
        cluster: ClusterId::new("Kubernetes").unwrap(),
        change,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn caches_change_no_byte(history in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.25)), 1..12), 1..5)) {
        let objects = objects();
        let proxies = proxies();
        let mut index = Index::new(Settings::new("").unwrap());
        let mut families = Families::default();
        for batch in history {
            index.apply(batch.iter().map(|(which, delete)| event(which.get(&objects), *delete)).collect());
            let snapshot = index.publish();
            families.turn(&snapshot);
            for proxy in &proxies {
                prop_assert!(through_caches(&mut families, &snapshot, proxy) == alone(&snapshot, proxy), "{}", proxy.id);
            }
        }
    }
}

/// A mesh in which hosts have nothing to do with one another: services, routes and rules for them, each in some versions.
fn plain_objects() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for (number, namespace) in ["shop", "shop", "default", "default"].into_iter().enumerate() {
        let host = format!("s{number}.{namespace}.svc.cluster.local");
        let meta = format!("{{name: s{number}, namespace: {namespace}}}");
        for port in ["http", "any"] {
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {meta}\nspec:\n  clusterIP: 10.1.0.{number}\n  selector: {{app: s{number}}}\n  \
                 ports: [{{name: http, port: 80}}, {{name: {port}-more, port: 9000}}]\n"
            ));
        }
        for last in [1, 2] {
            text.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: s{number}-x, namespace: {namespace}, \
                 labels: {{kubernetes.io/service-name: s{number}}}}}\nports: [{{name: http, port: 80}}, {{name: any-more, port: 9000}}, {{name: http-more, port: 9000}}]\n\
                 endpoints: [{{addresses: [10.2.{number}.{last}], conditions: {{ready: true}}}}]\n"
            ));
        }
        for (subset, other) in [("v1", 0), ("v2", 3)] {
            text.push_str(&format!(
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {meta}\nspec:\n  hosts: [{host}]\n  http:\n  - match: [{{uri: {{prefix: /{subset}}}}}]\n    \
                 route: [{{destination: {{host: {host}, subset: {subset}}}}}]\n  - route: [{{destination: {{host: s{other}.default.svc.cluster.local}}}}]\n"
            ));
        }
        for key in ["{httpHeaderName: x-one}", "{useSourceIp: true}"] {
            text.push_str(&format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {meta}\nspec:\n  host: {host}\n  trafficPolicy: {{loadBalancer: {{consistentHash: {key}}}}}\n  \
                 subsets: [{{name: v1, labels: {{version: v1}}}}]\n"
            ));
        }
    }
    decoded(&text)
}

/// What makes clusters of a namespace come on demand or not, and one of them come anyway.
fn demands() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for labels in ["{lateen.dev/discovery: on-demand}", "{}"] {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n"
        ));
    }
    for mirror in ["s0.shop", "s2.default"] {
        text.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s1, namespace: shop}}\nspec:\n  \
             hosts: [s1.shop.svc.cluster.local]\n  http:\n  - mirror: {{host: {mirror}.svc.cluster.local}}\n    \
             route: [{{destination: {{host: s1.shop.svc.cluster.local}}}}]\n"
        ));
    }
    decoded(&text)
}

/// What lets a namespace's sidecars call its own services and those that routes lead to.
fn fences() -> Vec<Arc<Object>> {
    let fence = |namespace: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: {namespace}}}\nspec: {{egress: [{{hosts: [./*]}}]}}\n"
        )
    };
    decoded(&["shop", "default"].map(fence).concat())
}

/// What shares names, addresses and listeners with the plain mesh's hosts.
fn neighbours() -> Vec<Arc<Object>> {
    let entry = |name: &str, host: &str, more: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  hosts: [{host}]\n  {more}\n"
        )
    };
    let service = |name: &str, spec: &str| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
    };
    let http = "ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC";
    let any = "ports: [{number: 9000, name: any}]\n  resolution: STATIC";
    let texts = [
        entry("short", "s0", http),
        entry("shorter", "s1.shop", http),
        entry("same", "s1.shop.svc.cluster.local", http),
        entry("other", "other.example", &format!("addresses: [10.1.0.1]\n  {http}")),
        entry("alike", "alike.example", &format!("addresses: [10.1.0.2]\n  {any}")),
        entry("bytes", "bytes.example", "addresses: [10.1.0.2]\n  ports: [{number: 9000, name: tcp, protocol: TCP}]\n  resolution: STATIC"),
        entry("every", "\"*.s3.default.svc.cluster.local\"", http),
        entry("lonely", "lonely.example", "ports: [{number: 8080, name: http, protocol: HTTP}]\n  resolution: STATIC"),
        service("s3", "{type: ExternalName, externalName: s3.default.svc.cluster.local}"),
        service("pods", "{clusterIP: None, selector: {app: pods}, ports: [{name: http, port: 80}, {name: tcp, port: 9100}]}"),
        service("pods", "{clusterIP: None, selector: {app: pods}, ports: [{name: tcp, port: 9000}]}"),
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: pods-x, namespace: shop, \
         labels: {kubernetes.io/service-name: pods}}\nports: [{name: http, port: 80}, {name: tcp, port: 9100}]\n\
         endpoints: [{addresses: [10.2.9.1], conditions: {ready: true}}, {addresses: [10.9.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: caller, namespace: shop}}]\n"
            .to_owned(),
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: caller, namespace: shop, labels: {app: pods}}\nspec: {containers: []}\nstatus: {phase: Running, podIP: 10.9.0.1, \
         podIPs: [{ip: 10.9.0.1}], conditions: [{type: Ready, status: \"True\"}]}\n"
            .to_owned(),
        entry("itself", "itself.example", "addresses: [10.9.0.1]\n  ports: [{number: 9100, name: tcp, protocol: TCP}]\n  resolution: STATIC"),
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: unserved, namespace: shop}\nspec:\n  hosts: [lonely.example, s2]\n  http:\n  \
         - route: [{destination: {host: s2.default.svc.cluster.local}}]\n"
            .to_owned(),
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bytes, namespace: default}\nspec:\n  hosts: [bytes.example, s2.default.svc.cluster.local]\n  \
         tcp:\n  - route: [{destination: {host: s3.default.svc.cluster.local, port: {number: 9000}}}]\n"
            .to_owned(),
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: elsewhere, namespace: default}\nspec:\n  hosts: [s3.default.svc.cluster.local]\n  \
         http:\n  - match: [{port: 80, sourceLabels: {app: nobody}}]\n    route: [{destination: {host: s3.default.svc.cluster.local}}]\n"
            .to_owned(),
    ];
    decoded(&texts.concat())
}

fn decoded(text: &str) -> Vec<Arc<Object>> {
    yaml::documents(text)
        .map(|document| {
            let value = document.unwrap();
            let group = value["apiVersion"].as_str().unwrap();
            let group = group.split_once('/').map_or("", |(group, _)| group);
            let kind = Kind::find(group, value["kind"].as_str().unwrap()).unwrap();
            Arc::new(Object::decode(kind, &value).unwrap().value)
        })
        .collect()
}

/// Two sidecars that have virtual hosts one by one.
fn split_sidecars() -> [Proxy; 2] {
    [("shop", "10.9.0.1"), ("default", "10.9.0.2")].map(|(namespace, address)| {
        let mut sidecar = proxy(ProxyKind::Sidecar, namespace, address, "r/z", &[("app", "s1")]);
        sidecar.capabilities.virtual_hosts = true;
        sidecar
    })
}

type Picks = Vec<Vec<(prop::sample::Index, bool)>>;

/// Batches of changes, each of some objects or their deletion.
fn histories(deletes: f64) -> impl Strategy<Value = Picks> {
    let pick = (any::<prop::sample::Index>(), prop::bool::weighted(deletes));
    prop::collection::vec(prop::collection::vec(pick, 1..4), 1..12)
}

/// Goes through a history, step by step, from a mesh that has the first of these objects. What proxies hold is asked for with
/// each step, or, as of proxies that are connected and take turns, with every third.
fn follow(first: &[Arc<Object>], objects: &[Arc<Object>], history: &Picks, seldom: bool) -> Result<(), TestCaseError> {
    let proxies = split_sidecars();
    let mut connected = Vec::new();
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(first.iter().map(|object| event(object, false)).collect());
    let mut families = Families::default();
    for (step, batch) in std::iter::once(&Vec::new()).chain(history).enumerate() {
        index.apply(
            batch
                .iter()
                .map(|(which, delete)| event(which.get(objects), *delete))
                .collect(),
        );
        let snapshot = index.publish();
        families.turn(&snapshot);
        if seldom {
            connected = proxies.iter().map(|proxy| families.classes_of(proxy)).collect();
            families.keep_up();
        }
        let asked = |(number, _): &(usize, _)| !seldom || step == 0 || (step + number) % 3 == 0;
        for (_, proxy) in proxies.iter().enumerate().filter(asked) {
            prop_assert!(
                through_caches(&mut families, &snapshot, proxy) == alone(&snapshot, proxy),
                "{}",
                proxy.id
            );
        }
        families.forget_before();
    }
    drop(connected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hosts_by_themselves_change_no_byte(history in histories(0.2)) {
        let objects = [plain_objects(), demands(), demands()].concat();
        follow(&objects, &objects, &history, false)?;
        follow(&objects, &objects, &history, true)?;
    }

    #[test]
    fn hosts_behind_a_sidecar_change_no_byte(history in histories(0.2)) {
        let objects = [plain_objects(), demands()].concat();
        let first = [fences(), objects.clone()].concat();
        follow(&first, &objects, &history, false)?;
        follow(&first, &objects, &history, true)?;
    }

    #[test]
    fn hosts_with_something_in_common_change_no_byte(history in histories(0.5)) {
        let plain = plain_objects();
        let neighbours = neighbours();
        let objects = [plain.clone(), neighbours.clone(), neighbours].concat();
        follow(&plain, &objects, &history, false)?;
        follow(&plain, &objects, &history, true)?;
    }
}

#[test]
fn what_concerns_a_host_selects_that_host_alone() {
    let objects = plain_objects();
    let mut sidecar = proxy(ProxyKind::Sidecar, "shop", "10.9.0.1", "r/z", &[]);
    sidecar.capabilities.virtual_hosts = true;
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(objects.iter().map(|object| event(object, false)).collect());
    let mut families = Families::default();
    let mut turn = |index: &mut Index| {
        let before = families.work();
        families.turn(&index.publish());
        if let Some(classes) = families.classes_of(&sidecar) {
            families.wanted(&classes);
        }
        let after = families.work();
        (after.by_hosts - before.by_hosts, after.whole - before.whole)
    };
    assert_eq!(turn(&mut index), (0, Family::ALL.len() as u64));
    let older = |kind: Kind| objects.iter().find(|object| object.kind() == kind).unwrap();
    index.apply(vec![event(older(Kind::EndpointSlice), false)]);
    // Clusters show what endpoints are, where these are names.
    assert_eq!(turn(&mut index), (2, 0), "endpoints");
    index.apply(vec![event(older(Kind::VirtualService), false)]);
    assert_eq!(turn(&mut index), (2, 0), "tables and virtual hosts");
    index.apply(vec![event(older(Kind::DestinationRule), false)]);
    // Secrets show rules, too.
    assert_eq!(turn(&mut index), (5, 1), "a rule");
    let older = |kind: Kind| objects.iter().rfind(|object| object.kind() == kind).unwrap();
    index.apply(vec![event(older(Kind::Service), true)]);
    // Routes still name it.
    assert_eq!(turn(&mut index), (3, 2), "a service went that has routes");
    index.apply(vec![event(older(Kind::VirtualService), true)]);
    turn(&mut index);
    index.apply(vec![event(older(Kind::Service), false)]);
    assert_eq!(turn(&mut index), (5, 0), "a service came");
    index.apply(vec![event(older(Kind::Service), true)]);
    assert_eq!(turn(&mut index), (5, 0), "a service went");
}

#[test]
fn listeners_toward_a_proxy_itself_stay_left_out() {
    let [sidecar, _] = split_sidecars();
    let named = |name: &str| -> Vec<Arc<Object>> {
        let all = neighbours().into_iter();
        all.filter(|object| object.key().is_ok_and(|key| key.name == name))
            .collect()
    };
    let (pods, entry) = (named("pods"), named("itself"));
    let caller = [named("pods-x"), named("caller")].concat();
    let mut index = Index::new(Settings::new("").unwrap());
    let first = [plain_objects(), pods[..1].to_vec(), caller].concat();
    index.apply(first.iter().map(|object| event(object, false)).collect());
    let mut families = Families::default();
    let mut turn = |index: &mut Index| {
        let snapshot = index.publish();
        let before = families.work().whole;
        families.turn(&snapshot);
        let content = through_caches(&mut families, &snapshot, &sidecar);
        assert!(content == alone(&snapshot, &sidecar));
        let names = content.into_keys().map(|(_, name)| name);
        let listeners: Vec<String> = names
            .filter(|name| name.starts_with("10.2.9.1_9") || name.starts_with("10.9.0.1_9"))
            .collect();
        (listeners, families.work().whole - before)
    };
    assert_eq!(turn(&mut index).0, ["10.2.9.1_9100"]);
    index.apply(vec![event(&pods[1], false)]);
    let own_service = 2; // what it serves itself
    assert_eq!(turn(&mut index), (vec!["10.2.9.1_9000".to_owned()], own_service));
    index.apply(vec![event(&pods[0], false), event(&entry[0], false)]);
    assert_eq!(turn(&mut index).0, ["10.2.9.1_9100", "10.9.0.1_9100"]);
    index.apply(vec![event(&entry[0], true)]);
    assert_eq!(turn(&mut index).0, ["10.2.9.1_9100"]);
}

#[test]
fn classes_of_proxies_that_take_turns_are_kept_up_meanwhile() {
    let objects = plain_objects();
    let sidecar = &split_sidecars()[0];
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(objects.iter().map(|object| event(object, false)).collect());
    let mut families = Families::default();
    families.turn(&index.publish());
    let classes = families.classes_of(sidecar).unwrap();
    families.wanted(&classes);
    let first = families.work().whole;
    for object in objects.iter().filter(|object| object.kind() == Kind::EndpointSlice) {
        index.apply(vec![event(object, false)]);
        families.turn(&index.publish());
        families.keep_up();
        families.forget_before();
    }
    let wanted = families.wanted(&classes);
    assert_eq!(wanted.snapshot, families.generation());
    assert_eq!(families.work().whole, first);
    // With the last proxy of a class goes what it holds.
    drop(classes);
    for object in &objects[..2] {
        index.apply(vec![event(object, false)]);
        families.turn(&index.publish());
        families.keep_up();
    }
    assert_eq!(families.sizes().0, 0);
}

#[test]
fn those_of_a_class_sit_together_but_not_all_in_one_seat() {
    let mut families = Families::default();
    families.turn(&Index::new(Settings::new("").unwrap()).publish());
    let classes = families.classes_of(&split_sidecars()[0]).unwrap();
    let mut seats: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..1000 {
        *seats.entry(families.seat(&classes)).or_default() += 1;
    }
    let taken: Vec<usize> = seats.into_values().collect();
    assert_eq!(taken, [vec![16; 62], vec![8]].concat());
}

/// A digest of everything that every proxy holds of the whole world, applied in some order.
fn digest(backwards: bool) -> String {
    let mut events: Vec<Event> = objects().iter().map(|object| event(object, false)).collect();
    if backwards {
        // Versions of one object keep their order: the last is the one that counts.
        events.sort_by_key(|event| match &event.change {
            Change::Apply(object) => std::cmp::Reverse((object.kind(), object.key().unwrap())),
            Change::Delete { kind, key } => std::cmp::Reverse((*kind, key.clone())),
        });
    }
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(events);
    let snapshot = index.publish();
    let everything: Vec<Content> = proxies().iter().map(|proxy| alone(&snapshot, proxy)).collect();
    format!("{:032x}", Shared::new(everything).content_hash())
}

#[test]
fn order_of_input_changes_no_byte() {
    assert_eq!(digest(false), digest(true));
}

#[test]
fn another_process_makes_the_same_bytes() {
    if std::env::var_os("LATEEN_PRINT_DIGEST").is_some() {
        println!("digest={}", digest(true));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_makes_the_same_bytes", "--nocapture"])
        .env("LATEEN_PRINT_DIGEST", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("digest={}", digest(false))), "{text}");
}

#[test]
fn proxies_of_a_class_share_what_they_hold() {
    let mut index = Index::new(Settings::new("").unwrap());
    index.apply(objects().iter().map(|object| event(object, false)).collect());
    let snapshot = index.publish();
    let mut families = Families::default();
    families.turn(&snapshot);
    let one = proxy(
        ProxyKind::Sidecar,
        "shop",
        "10.9.9.1",
        "r/z",
        &[("pod-template-hash", "1")],
    );
    let other = proxy(
        ProxyKind::Sidecar,
        "shop",
        "10.9.9.2",
        "r/z",
        &[("pod-template-hash", "2")],
    );
    let (one, other) = (Classes::of(&snapshot, &one), Classes::of(&snapshot, &other));
    assert_eq!(one, other);
    assert!(Arc::ptr_eq(
        &families.wanted(&Arc::new(one)),
        &families.wanted(&Arc::new(other))
    ));
    assert_eq!(families.sizes().0, Family::ALL.len());
}
