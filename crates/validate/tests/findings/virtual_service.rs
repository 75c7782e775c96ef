//! VirtualServices.

use crate::{table, warnings};

#[test]
fn virtual_services() {
    table(
        "VirtualService",
        "PART",
        &[
            ("{hosts: [a], http: [{route: [{destination: {host: a}}]}]}", "ok"),
            ("{hosts: [a]}", "spec"),
            ("{http: [{route: [{destination: {host: a}}]}]}", "ok"),
            (
                "{gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
                "spec.gateways",
            ),
            (
                "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[0]",
            ),
            (
                "{hosts: ['*'], gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
                "ok",
            ),
            (
                "{hosts: ['*.a.com', b.a.com], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[0]",
            ),
            (
                "{hosts: [a], gateways: [a/b/c], http: [{route: [{destination: {host: a}}]}]}",
                "spec.gateways[0]",
            ),
            (
                "{hosts: [a], exportTo: ['*', x], http: [{route: [{destination: {host: a}}]}]}",
                "spec.exportTo",
            ),
            (
                "{hosts: [a], exportTo: [., shop], http: [{route: [{destination: {host: a}}]}]}",
                "spec.exportTo[1]",
            ),
            (
                "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]",
            ),
            (
                "{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: a}}]}]}",
                "ok",
            ),
            (
                "{hosts: [a.com], tls: [{route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match",
            ),
            (
                "{hosts: [a.com], tcp: [{match: [{destinationSubnets: [x]}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[0].match[0].destinationSubnets[0]",
            ),
            ("{hosts: [a.com], tcp: [{}]}", "spec.tcp[0].route"),
        ],
    );
}

#[test]
fn http_routes() {
    table(
        "VirtualService",
        "{hosts: [a], http: [{PART}]}",
        &[
            ("", "spec.http[0]"),
            (
                "redirect: {uri: /a}, route: [{destination: {host: a}}]",
                "spec.http[0].route",
            ),
            (
                "redirect: {uri: /a}, directResponse: {status: 200}",
                "spec.http[0].directResponse",
            ),
            (
                "redirect: {uri: /a}, fault: {abort: {httpStatus: 500}}",
                "spec.http[0].fault",
            ),
            ("redirect: {}", "spec.http[0].redirect"),
            (
                "redirect: {uri: /a, redirectCode: 200}",
                "spec.http[0].redirect.redirectCode",
            ),
            (
                "match: [{uri: {exact: /x}}], redirect: {prefixRewrite: /a}",
                "spec.http[0].redirect.prefixRewrite",
            ),
            ("directResponse: {status: 199}", "spec.http[0].directResponse.status"),
            (
                "delegate: {name: x}, route: [{destination: {host: a}}]",
                "spec.http[0].route",
            ),
            (
                "route: [{destination: {host: a}}, {destination: {host: b}}]",
                "spec.http[0].route",
            ),
            (
                "route: [{destination: {host: a}, weight: -1}]",
                "spec.http[0].route[0].weight",
            ),
            ("route: [{}]", "spec.http[0].route[0].destination"),
            (
                "route: [{destination: {host: '*'}}]",
                "spec.http[0].route[0].destination.host",
            ),
            (
                "route: [{destination: {host: a, port: {number: 0}}}]",
                "spec.http[0].route[0].destination.port.number",
            ),
            (
                "route: [{destination: {host: a, subset: 'A b'}}]",
                "spec.http[0].route[0].destination.subset",
            ),
        ],
    );
    table(
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}], PART}]}",
        &[
            ("match: [{uri: {regex: '/a('}}]", "spec.http[0].match[0].uri.regex"),
            ("match: [{uri: {prefix: ''}}]", "ok"),
            (
                "match: [{headers: {x: {prefix: ''}}}]",
                "spec.http[0].match[0].headers[x].prefix",
            ),
            ("match: [{withoutHeaders: {x: {regex: '*'}}}]", "ok"),
            (
                "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]",
                "spec.http[0]",
            ),
            (
                "match: [{sourceNamespace: 'A B'}]",
                "spec.http[0].match[0].sourceNamespace",
            ),
            ("match: [{port: 70000}]", "spec.http[0].match[0].port"),
            ("timeout: 0.5ms", "spec.http[0].timeout"),
            ("retries: {attempts: 0, retryOn: 5xx}", "spec.http[0].retries.attempts"),
            (
                "retries: {attempts: 1, retryOn: '5xx,nonsense'}",
                "spec.http[0].retries.retryOn",
            ),
            ("retries: {attempts: 1, retryOn: '5xx,503'}", "ok"),
            ("fault: {}", "spec.http[0].fault"),
            (
                "fault: {abort: {grpcStatus: NONSENSE}}",
                "spec.http[0].fault.abort.grpcStatus",
            ),
            (
                "fault: {delay: {exponentialDelay: 1s}}",
                "spec.http[0].fault.delay.exponentialDelay",
            ),
            (
                "fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}",
                "spec.http[0].fault.delay.percentage.value",
            ),
            (
                "mirror: {host: a}, mirrors: [{destination: {host: b}}]",
                "spec.http[0].mirror",
            ),
            ("mirrorPercentage: {value: 101}", "spec.http[0].mirrorPercentage.value"),
            ("rewrite: {}", "spec.http[0].rewrite"),
            (
                "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
                "spec.http[0].rewrite",
            ),
            (
                "rewrite: {authority: a}, headers: {request: {set: {host: b}}}",
                "spec.http[0]",
            ),
            (
                "headers: {request: {set: {':path': b}}}",
                "spec.http[0].headers.request.set[:path]",
            ),
            (
                "headers: {response: {remove: [host]}}",
                "spec.http[0].headers.response.remove[0]",
            ),
            (
                "headers: {request: {add: {x: '%'}}}",
                "spec.http[0].headers.request.add[x]",
            ),
            (
                "corsPolicy: {allowOrigins: [{exact: ''}]}",
                "spec.http[0].corsPolicy.allowOrigins[0]",
            ),
            (
                "corsPolicy: {allowMethods: [FOO]}",
                "spec.http[0].corsPolicy.allowMethods[0]",
            ),
            ("corsPolicy: {maxAge: 1.5s}", "spec.http[0].corsPolicy.maxAge"),
        ],
    );
}

#[test]
fn routes_that_are_never_used() {
    let route = "route: [{destination: {host: a}}]";
    warnings(
        "VirtualService",
        &format!("{{hosts: [a], http: [PART, {{{route}}}]}}"),
        &[
            (&format!("{{{route}}}"), "IST0130", "spec.http[1]"),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /a}}}}], {route}}}"
                ),
                "IST0131",
                "spec.http[1].match[0]",
            ),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /a}}}}], {route}}}"
                ),
                "IST0130",
                "spec.http[1]",
            ),
            (
                &format!(
                    "{{match: [{{uri: {{prefix: /a}}}}], {route}}}, {{match: [{{uri: {{prefix: /ab}}}}], {route}}}"
                ),
                "IST0131",
                "spec.http[1].match[0]",
            ),
        ],
    );
    warnings(
        "VirtualService",
        "{hosts: [a], gateways: [PART], http: [{route: [{destination: {host: a}}]}]}",
        &[("old.ns.svc", "IST0133", "spec.gateways[0]")],
    );
}
