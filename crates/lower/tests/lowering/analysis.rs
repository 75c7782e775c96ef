//! What is wrong between objects.

use lateen_lower::istio::analysis;

use crate::world::world;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec: {hosts: ['*.wild.com'], ports: [{number: 80, name: http, protocol: HTTP}]}
---
";

fn virtual_service(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn found(text: &str) -> Vec<(String, String, &'static str)> {
    let findings = analysis::check(&world(text));
    findings
        .into_iter()
        .map(|found| (found.object.key.name.to_string(), found.field.to_string(), found.code))
        .collect()
}

fn expect(text: &str, expected: &[(&str, &str, &'static str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, field, code)| ((*name).to_owned(), (*field).to_owned(), *code))
        .collect();
    assert_eq!(found(text), expected, "{text}");
}

#[test]
fn destinations_must_be_there() {
    let text = SERVICE.to_owned()
        + &virtual_service(
            "v",
            "default",
            "{hosts: [reviews], http: [{route: [{destination: {host: reviews}}, {destination: {host: a.wild.com}, weight: 1}, {destination: {host: nosuch}}]}]}",
        );
    expect(&text, &[("v", "spec.http[0].route[2].destination.host", "IST0101")]);
    let subset = virtual_service(
        "v",
        "default",
        "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v9}}]}]}",
    );
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: reviews, subsets: [{name: v1}]}\n---\n";
    expect(
        &format!("{SERVICE}{rule}{subset}"),
        &[("v", "spec.http[0].route[0].destination.subset", "IST0101")],
    );
    let fine = subset.replace("v9", "v1");
    expect(&format!("{SERVICE}{rule}{fine}"), &[]);
    expect(
        &rule.replace("host: reviews", "host: nosuch"),
        &[("d", "spec.host", "IST0174")],
    );
}

#[test]
fn one_host_one_virtual_service() {
    let spec = "{hosts: [reviews.default.svc.cluster.local], http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}]}]}";
    let text = SERVICE.to_owned() + &virtual_service("one", "default", spec) + &virtual_service("two", "other", spec);
    expect(
        &text,
        &[("one", "spec.hosts", "IST0109"), ("two", "spec.hosts", "IST0109")],
    );
    let findings = analysis::check(&world(&text));
    assert!(
        findings[0].message.contains("this one counts") && findings[0].message.contains("other/two"),
        "{}",
        findings[0].message
    );
    assert!(
        findings[1].message.contains("the older one counts"),
        "{}",
        findings[1].message
    );
    let apart = spec.replace("{hosts", "{exportTo: [.], hosts");
    let text =
        SERVICE.to_owned() + &virtual_service("one", "default", &apart) + &virtual_service("two", "other", &apart);
    expect(&text, &[]);
}

#[test]
fn gateways_must_be_there_and_serve_the_host() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: ['*.a.com']}]}\n---\n";
    let text = format!("{SERVICE}{gateway}")
        + &virtual_service(
            "v",
            "default",
            "{hosts: [x.a.com, b.com], gateways: [g, missing], http: [{route: [{destination: {host: reviews}}]}]}",
        );
    expect(
        &text,
        &[
            ("v", "spec.gateways[0]", "IST0132"),
            ("v", "spec.gateways[1]", "IST0101"),
        ],
    );
}

#[test]
fn one_default_sidecar_per_namespace() {
    let sidecar = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}}}\nspec: {{egress: [{{hosts: ['*/*']}}]}}\n---\n"
        )
    };
    expect(
        &(sidecar("a") + &sidecar("b")),
        &[
            ("a", "spec.workloadSelector", "IST0111"),
            ("b", "spec.workloadSelector", "IST0111"),
        ],
    );
}

#[test]
fn a_host_is_defined_once_in_a_namespace() {
    let entry = |name: &str, year: u32, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec: {spec}\n---\n"
        )
    };
    let older = entry(
        "older",
        2023,
        "{hosts: [dup.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
    );
    let younger = |resolution: &str| {
        entry(
            "younger",
            2024,
            &format!(
                "{{hosts: [dup.com], resolution: {resolution}, endpoints: [{{address: 10.8.8.8}}], ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 8080, name: more, protocol: HTTP}}]}}"
            ),
        )
    };
    expect(
        &format!("{}{older}", younger("STATIC")),
        &[("younger", "spec.ports[1].number", "LTN0001")],
    );
    // Alike, both are one service.
    expect(&format!("{}{older}", younger("DNS")), &[]);
    // A Service is older whenever it was made.
    let beside = entry(
        "beside",
        2020,
        "{hosts: [reviews.default.svc.cluster.local], resolution: STATIC, ports: [{number: 81, name: http, protocol: HTTP}]}",
    );
    expect(
        &format!("{SERVICE}{beside}"),
        &[("beside", "spec.ports[0].number", "LTN0001")],
    );
}
