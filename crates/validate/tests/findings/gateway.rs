//! Gateways and Sidecars.

use crate::table;

#[test]
fn gateways_and_sidecars() {
    table(
        "Gateway",
        "{servers: [{port: {number: 443, name: p, protocol: HTTPS}, hosts: [a.com], tls: {PART}}]}",
        &[
            ("mode: SIMPLE, credentialName: c", "ok"),
            ("mode: SIMPLE", "spec.servers[0].tls.serverCertificate"),
            (
                "mode: MUTUAL, serverCertificate: c, privateKey: k",
                "spec.servers[0].tls.caCertificates",
            ),
            (
                "mode: ISTIO_MUTUAL, credentialName: c",
                "spec.servers[0].tls.credentialName",
            ),
            (
                "mode: SIMPLE, credentialName: c, serverCertificate: c, privateKey: k",
                "spec.servers[0].tls",
            ),
            (
                "mode: SIMPLE, serverCertificate: c, privateKey: k, caCrl: x",
                "spec.servers[0].tls.caCrl",
            ),
        ],
    );
    table(
        "Gateway",
        "{servers: [{PART}]}",
        &[
            ("hosts: [a]", "spec.servers[0].port"),
            ("port: {number: 80, name: p, protocol: HTTP}", "spec.servers[0].hosts"),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: ['a b']",
                "spec.servers[0].hosts[0]",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTPS}, hosts: [a]",
                "spec.servers[0].tls",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], tls: {mode: SIMPLE, credentialName: c}",
                "spec.servers[0].tls",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], tls: {httpsRedirect: true}",
                "ok",
            ),
            (
                "port: {number: 0, name: p, protocol: HTTP}, hosts: [a]",
                "spec.servers[0].port.number",
            ),
            (
                "port: {number: 80, protocol: HTTP}, hosts: [a]",
                "spec.servers[0].port.name",
            ),
            (
                "port: {number: 80, name: p, protocol: X}, hosts: [a]",
                "spec.servers[0].port.protocol",
            ),
            (
                "port: {number: 80, name: p, protocol: HTTP}, hosts: [a], bind: x",
                "spec.servers[0].bind",
            ),
        ],
    );
    table(
        "Gateway",
        "{PART}",
        &[
            ("", "spec.servers"),
            (
                "servers: [{port: {number: 80, name: p, protocol: HTTP}, hosts: [a]}, {port: {number: 81, name: p, protocol: HTTP}, hosts: [a]}]",
                "spec.servers[1].port.name",
            ),
        ],
    );
    table(
        "Sidecar",
        "{PART}",
        &[
            ("", "spec"),
            ("egress: [{hosts: []}]", "spec.egress[0].hosts"),
            ("egress: [{hosts: [x]}]", "spec.egress[0].hosts[0]"),
            ("egress: [{hosts: ['*/*']}, {hosts: ['*/*']}]", "spec.egress[0].port"),
            (
                "egress: [{port: {number: 80, protocol: TCP}, hosts: [./*]}, {port: {number: 80, protocol: TCP}, hosts: [./*]}]",
                "spec.egress[1].port",
            ),
            ("egress: [{port: {protocol: TCP}, hosts: [./*]}]", "spec.egress[0].bind"),
            ("ingress: [{}]", "spec.ingress[0].port"),
            (
                "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '1.2.3.4:80'}]",
                "spec.ingress[0].defaultEndpoint",
            ),
            (
                "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: ':80'}]",
                "ok",
            ),
            (
                "ingress: [{port: {number: 80, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}}]",
                "spec.ingress[0].tls.credentialName",
            ),
            (
                "outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a, port: {number: 1}}}",
                "spec.outboundTrafficPolicy.egressProxy",
            ),
        ],
    );
}
