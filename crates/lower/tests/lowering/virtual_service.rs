//! VirtualService.

use std::time::Duration;

use lateen_model::ExportTo;
use lateen_model::Severity;
use lateen_model::route::*;

use crate::world::{findings, key, world};

fn lower(spec: &str) -> VirtualService {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: shop}}\nspec:\n{indented}"
    );
    let snapshot = world(&text);
    let made = snapshot
        .virtual_services
        .get(&key("shop", "v"))
        .expect("no VirtualService came of it");
    VirtualService::clone(made)
}

fn destination(route: &HttpRoute) -> Vec<(String, u32)> {
    let HttpAction::Forward(to) = &route.action else {
        panic!("{:?}", route.action)
    };
    let name = |to: &WeightedDestination| to.destination.as_ref().map_or("-".to_owned(), |to| to.host.to_string());
    to.iter().map(|to| (name(to), to.weight)).collect()
}

#[test]
fn short_names_are_services_of_the_own_namespace() {
    let made =
        lower("hosts: [reviews, other.com, '*.wild.com', 10.0.0.1]\nhttp: [{route: [{destination: {host: ratings}}]}]");
    let hosts: Vec<_> = made.hosts.iter().map(|host| host.as_str()).collect();
    assert_eq!(
        hosts,
        ["reviews.shop.svc.cluster.local", "other.com", "*.wild.com", "10.0.0.1"]
    );
    assert_eq!(
        destination(&made.http[0]),
        [("ratings.shop.svc.cluster.local".to_owned(), 1)]
    );
    assert_eq!(made.gateways, [GatewayRef::Mesh]);
    assert_eq!(made.export_to, ExportTo::All);
}

#[test]
fn gateways_are_named_in_four_ways() {
    let made = lower(
        "hosts: [a.com]\ngateways: [mesh, own, edge/front, ./dot, old.ns.svc.cluster.local]\nhttp: [{route: [{destination: {host: a}}]}]",
    );
    let gateway = |namespace, name| GatewayRef::Gateway(key(namespace, name));
    assert_eq!(
        made.gateways,
        [
            GatewayRef::Mesh,
            gateway("shop", "own"),
            gateway("edge", "front"),
            gateway("shop", "dot"),
            gateway("ns", "old")
        ]
    );
}

#[test]
fn every_condition_of_a_request() {
    let made = lower(
        "
hosts: [a]
http:
- name: r
  match:
  - name: m
    uri: {prefix: /p}
    scheme: {exact: https}
    method: {regex: G.*}
    authority: {prefix: a}
    headers: {x-b: {exact: '1'}, x-a: {regex: '*'}, x-c: {}}
    withoutHeaders: {x-d: {prefix: d}}
    queryParams: {q: {exact: v}}
    port: 8080
    sourceLabels: {app: web}
    sourceNamespace: front
    gateways: [edge/g]
    ignoreUriCase: true
    statPrefix: s
  route: [{destination: {host: a, subset: v1, port: {number: 80}}}]",
    );
    let route = &made.http[0];
    assert_eq!(route.name.as_deref(), Some("r"));
    let named = |name: &str, value| NamedMatch {
        name: name.into(),
        value,
    };
    let expected = HttpMatch {
        name: Some("m".into()),
        source: SourceMatch {
            labels: [("app".into(), "web".into())].into(),
            namespace: Some("front".into()),
            gateways: vec![GatewayRef::Gateway(key("edge", "g"))],
        },
        path: Some(PathMatch::Prefix("/p".into())),
        ignore_path_case: true,
        scheme: Some(TextMatch::Exact("https".into())),
        method: Some(TextMatch::Regex("G.*".into())),
        authority: Some(TextMatch::Prefix("a".into())),
        headers: vec![
            named("x-a", TextMatch::Present),
            named("x-b", TextMatch::Exact("1".into())),
            named("x-c", TextMatch::Present),
        ],
        without_headers: vec![named("x-d", TextMatch::Prefix("d".into()))],
        query: vec![named("q", TextMatch::Exact("v".into()))],
        port: Some(8080),
        stat_prefix: Some("s".into()),
    };
    assert_eq!(route.matches, [expected]);
    let HttpAction::Forward(to) = &route.action else {
        panic!()
    };
    let to = to[0].destination.as_ref().unwrap();
    assert_eq!((to.subset.as_deref(), to.port), (Some("v1"), Some(80)));
}

#[test]
fn a_match_for_a_gateway_that_cannot_be_does_not_become_one_for_all() {
    let made = lower(
        "hosts: [a]\nhttp:\n- match: [{gateways: ['NOT A/gateway']}]\n  route: [{destination: {host: a}}]\n- route: [{destination: {host: b}}]",
    );
    assert_eq!(made.http.len(), 1);
    assert_eq!(&*made.http[0].field, "spec.http[1]");
}

#[test]
fn the_only_destination_gets_everything() {
    let made = lower(
        "hosts: [a]\nhttp:\n- route: [{destination: {host: a}, weight: 0}]\n- route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 7}]",
    );
    assert_eq!(destination(&made.http[0])[0].1, 1);
    let weights: Vec<_> = destination(&made.http[1])
        .into_iter()
        .map(|(_, weight)| weight)
        .collect();
    assert_eq!(weights, [0, 7]);
}

#[test]
fn hosts_among_the_headers_are_rewrites() {
    let made = lower(
        "
hosts: [a]
http:
- headers: {request: {set: {Host: over.com, x: '1', ':path': /no}, add: {y: '2'}, remove: [z, host]}, response: {set: {r: '3'}}}
  route:
  - destination: {host: a}
    headers: {request: {add: {':authority': mine.com}}}",
    );
    let route = &made.http[0];
    assert_eq!(route.rewrite.authority.as_deref(), Some("over.com"));
    assert_eq!(route.headers.request.set, [("x".into(), "1".into())]);
    assert_eq!(route.headers.request.add, [("y".into(), "2".into())]);
    assert_eq!(route.headers.request.remove, ["z".into()]);
    assert_eq!(route.headers.response.set, [("r".into(), "3".into())]);
    let HttpAction::Forward(to) = &route.action else {
        panic!()
    };
    assert_eq!(to[0].authority.as_deref(), Some("mine.com"));
}

#[test]
fn redirects_and_direct_answers() {
    let made = lower(
        "
hosts: [a]
http:
- redirect: {uri: /new, authority: b.com, derivePort: FROM_REQUEST_PORT, scheme: https, redirectCode: 308}
- redirect: {prefixRewrite: /p, port: 8443}
- redirect: {uri: /x, redirectCode: 305}
- directResponse: {status: 503, body: {string: busy}}
- directResponse: {status: 200, body: {bytes: aGk=}}
- {}",
    );
    let HttpAction::Redirect(redirect) = &made.http[0].action else {
        panic!()
    };
    assert_eq!(redirect.path, Some(PathRewrite::Full("/new".into())));
    assert_eq!((redirect.port, redirect.status), (Some(RedirectPort::RequestPort), 308));
    let HttpAction::Redirect(redirect) = &made.http[1].action else {
        panic!()
    };
    assert_eq!(redirect.path, Some(PathRewrite::Prefix("/p".into())));
    assert_eq!(
        (redirect.port, redirect.status),
        (Some(RedirectPort::Number(8443)), 301)
    );
    assert_eq!(made.http[2].action, HttpAction::Invalid { status: 500 });
    assert_eq!(
        made.http[3].action,
        HttpAction::Direct {
            status: 503,
            body: Some(b"busy".as_slice().into())
        }
    );
    assert_eq!(
        made.http[4].action,
        HttpAction::Direct {
            status: 200,
            body: Some(b"hi".as_slice().into())
        }
    );
    assert_eq!(made.http[5].action, HttpAction::Invalid { status: 500 });
}

#[test]
fn time_outs_retries_faults_and_mirrors() {
    let made = lower(
        "
hosts: [a]
http:
- timeout: 5s
  retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,503', backoff: 10ms, retryRemoteLocalities: true}
  fault:
    delay: {fixedDelay: 7s, percentage: {value: 0.1}}
    abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}
  mirror: {host: m}
  mirrorPercentage: {value: 12.5}
  route: [{destination: {host: a}}]
- fault: {delay: {fixedDelay: 1s, percent: 50}, abort: {httpStatus: 404}}
  mirrors: [{destination: {host: m1}}, {destination: {host: m2}, percentage: {value: 0}}]
  retries: {attempts: -1}
  route: [{destination: {host: a}}]
- mirror: {host: m}
  mirror_percent: 20
  route: [{destination: {host: a}}]",
    );
    let route = &made.http[0];
    assert_eq!(route.timeout, Some(Duration::from_secs(5)));
    let retries = route.retries.as_ref().unwrap();
    assert_eq!(
        (retries.attempts, retries.per_try_timeout),
        (3, Some(Duration::from_secs(2)))
    );
    assert_eq!(retries.retry_on.as_deref(), Some("gateway-error,503"));
    assert_eq!(
        (retries.backoff, retries.remote_localities),
        (Some(Duration::from_millis(10)), Some(true))
    );
    let fault = route.fault.as_ref().unwrap();
    assert_eq!(
        fault.delay,
        Some(Delay {
            fixed: Duration::from_secs(7),
            percent: Percent(1000)
        })
    );
    assert_eq!(
        fault.abort,
        Some(Abort {
            status: AbortStatus::Grpc(14),
            percent: Percent::ALL
        })
    );
    assert_eq!(route.mirrors[0].percent, Percent(125_000));
    let route = &made.http[1];
    let fault = route.fault.as_ref().unwrap();
    assert_eq!(fault.delay.as_ref().unwrap().percent, Percent(500_000));
    assert_eq!(
        fault.abort.as_ref().unwrap().percent,
        Percent(0),
        "without share nothing is aborted"
    );
    let mirrors: Vec<_> = route
        .mirrors
        .iter()
        .map(|mirror| (mirror.destination.host.as_str(), mirror.percent))
        .collect();
    assert_eq!(mirrors, [("m1.shop.svc.cluster.local", Percent::ALL)]);
    assert_eq!(route.retries.as_ref().unwrap().attempts, 0);
    assert_eq!(made.http[2].mirrors[0].percent, Percent(200_000));
}

#[test]
fn cross_origin_rules() {
    let made = lower(
        "
hosts: [a]
http:
- corsPolicy: {allowOrigins: [{exact: 'http://a'}, {regex: '.*b'}], allowOrigin: [ignored], allowMethods: [GET], allowHeaders: [h], exposeHeaders: [e], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}
  route: [{destination: {host: a}}]
- corsPolicy: {allowOrigin: ['http://old']}
  route: [{destination: {host: a}}]",
    );
    let cors = made.http[0].cors.as_ref().unwrap();
    assert_eq!(
        cors.allow_origins,
        [TextMatch::Exact("http://a".into()), TextMatch::Regex(".*b".into())]
    );
    assert_eq!(cors.max_age, Some(Duration::from_secs(86400)));
    assert_eq!(
        (cors.allow_credentials, cors.forward_unmatched_preflights),
        (Some(true), Some(false))
    );
    assert_eq!(
        made.http[1].cors.as_ref().unwrap().allow_origins,
        [TextMatch::Exact("http://old".into())]
    );
}

#[test]
fn routes_of_connections() {
    let made = lower(
        "
hosts: [a.com]
tls:
- match: [{sniHosts: [a.com, '*.a.com'], port: 443, destinationSubnets: [10.0.0.0/8, 1.2.3.4]}]
  route: [{destination: {host: a}, weight: 30}, {destination: {host: b}, weight: 70}]
- match: [{}]
  route: [{destination: {host: a}}]
tcp:
- match: [{port: 3306, sourceLabels: {app: x}}]
  route: [{destination: {host: db, port: {number: 3306}}}]
- route: [{destination: {host: db}}]",
    );
    assert_eq!(made.tls.len(), 1, "a TLS route without server name matches nothing");
    let matched = &made.tls[0].matches[0];
    let subnets: Vec<_> = matched.destination_subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["10.0.0.0/8", "1.2.3.4/32"]);
    assert_eq!(matched.sni.len(), 2);
    let weights: Vec<_> = made.tls[0].destinations.iter().map(|to| to.weight).collect();
    assert_eq!(weights, [30, 70]);
    assert_eq!(made.tcp[0].matches[0].port, Some(3306));
    assert!(made.tcp[1].matches.is_empty());
}

const DELEGATES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: front}
spec:
  hosts: [shop.com]
  gateways: [edge]
  http:
  - name: root
    match: [{uri: {prefix: /shop}, headers: {x: {exact: '1'}}}]
    delegate: {name: leaf, namespace: shop}
    timeout: 9s
    headers: {request: {set: {from: root}}}
  - delegate: {name: missing}
  - delegate: {name: hidden, namespace: shop}
  - route: [{destination: {host: rest}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf, namespace: shop}
spec:
  http:
  - name: a
    match: [{uri: {prefix: /shop/cart}, method: {exact: GET}}]
    route: [{destination: {host: cart}}]
  - match: [{uri: {prefix: /other}}]
    route: [{destination: {host: never}}]
  - route: [{destination: {host: all}}]
    timeout: 1s
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hidden, namespace: shop}
spec:
  exportTo: ['.']
  http: [{route: [{destination: {host: x}}]}]
";

#[test]
fn delegates_fill_in_what_the_root_leaves_open() {
    let snapshot = world(DELEGATES);
    assert_eq!(
        snapshot.virtual_services.len(),
        1,
        "delegates stand for nothing themselves"
    );
    let made = snapshot.virtual_services.get(&key("front", "root")).unwrap();
    let seen: Vec<_> = made
        .http
        .iter()
        .map(|route| (route.name.as_deref(), destination(route)[0].0.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            (Some("root-a"), "cart.shop.svc.cluster.local".to_owned()),
            (Some("root"), "all.shop.svc.cluster.local".to_owned()),
            (None, "rest.front.svc.cluster.local".to_owned()),
        ]
    );
    let first = &made.http[0];
    assert_eq!(first.matches[0].path, Some(PathMatch::Prefix("/shop/cart".into())));
    assert_eq!(first.matches[0].headers.len(), 1, "the root's conditions hold too");
    assert_eq!(first.timeout, Some(Duration::from_secs(9)));
    assert_eq!(made.http[1].timeout, Some(Duration::from_secs(1)));
    assert_eq!(first.headers.request.set.len(), 1);
    let findings = findings(&snapshot, "root");
    for expected in [
        ("spec.http[0].delegate".to_owned(), Severity::Error, "LTN0001"),
        ("spec.http[1].delegate".to_owned(), Severity::Error, "IST0101"),
        ("spec.http[2].delegate".to_owned(), Severity::Error, "LTN0001"),
    ] {
        assert!(findings.contains(&expected), "{expected:?} is not among {findings:?}");
    }
}

#[test]
fn broken_parts_are_values_and_diagnostics() {
    let snapshot = world(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec:
  hosts: [ok, 'not a host']
  http:
  - route: [{destination: {host: 'no host'}, weight: 50}, {destination: {host: fine, port: {number: 70000}}, weight: 50}]
  - route: [{destination: {host: fine}}]",
    );
    let made = snapshot.virtual_services.get(&key("shop", "v")).unwrap();
    assert_eq!(made.hosts.len(), 1);
    assert_eq!(destination(&made.http[0]), [("-".to_owned(), 50), ("-".to_owned(), 50)]);
    assert_eq!(destination(&made.http[1])[0].0, "fine.shop.svc.cluster.local");
    let fields: Vec<_> = findings(&snapshot, "v").into_iter().map(|(field, ..)| field).collect();
    for field in [
        "spec.hosts[1]",
        "spec.http[0].route[0].destination.host",
        "spec.http[0].route[1].destination.port.number",
    ] {
        assert_eq!(
            fields.iter().filter(|known| *known == field).count(),
            1,
            "{field} in {fields:?}"
        );
    }
}
