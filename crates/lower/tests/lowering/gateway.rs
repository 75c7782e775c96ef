//! Gateway.

use lateen_model::Severity;
use lateen_model::gateway::*;

use crate::world::{findings, key, world};

#[test]
fn servers_with_hosts_protocols_and_tls() {
    let snapshot = world(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, protocol: http, name: http}
    hosts: ['*', ./own.com, shop/a.com, '*/b.com', '~/never.com']
    tls: {httpsRedirect: true}
  - port: {number: 443, protocol: HTTPS, name: https}
    name: secure
    bind: 10.0.0.1
    hosts: [a.com]
    tls:
      mode: OPTIONAL_MUTUAL
      credentialNames: [one, two]
      minProtocolVersion: TLSV1_2
      cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, nonsense, ECDHE-RSA-AES128-GCM-SHA256]
  - port: {number: 9000, protocol: QUIC, name: bad}
    hosts: ['*']
  - port: {number: 444, protocol: TLS, name: files}
    hosts: ['*']
    tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}",
    );
    let made = snapshot.gateways.get(&key("edge", "g")).unwrap();
    let GatewaySelector::Labels(selector) = &made.selects else {
        panic!()
    };
    assert_eq!(selector.labels.len(), 1);
    assert_eq!(
        made.servers.len(),
        3,
        "the server with the unknown protocol is left out"
    );
    let hosts: Vec<_> = made.servers[0]
        .hosts
        .iter()
        .map(|host| (host.namespace.as_ref().map(|name| name.as_str()), host.host.as_str()))
        .collect();
    assert_eq!(
        hosts,
        [
            (None, "*"),
            (Some("edge"), "own.com"),
            (Some("shop"), "a.com"),
            (None, "b.com")
        ]
    );
    assert!(made.servers[0].tls.as_ref().unwrap().https_redirect);
    let secure = &made.servers[1];
    assert_eq!(
        (secure.name.as_deref(), secure.bind.unwrap().to_string()),
        (Some("secure"), "10.0.0.1".to_owned())
    );
    let tls = secure.tls.as_ref().unwrap();
    assert_eq!((tls.mode, tls.min_version), (ServerTlsMode::OptionalMutual, 3));
    assert_eq!(tls.credentials, ["one".into(), "two".into()]);
    assert_eq!(tls.cipher_suites, ["ECDHE-RSA-AES128-GCM-SHA256".into()]);
    let files = made.servers[2].tls.as_ref().unwrap();
    assert_eq!(files.certificate_files, [("/c".into(), "/k".into())]);
    let findings = findings(&snapshot, "g");
    assert!(
        findings.contains(&("spec.servers[2].port.protocol".to_owned(), Severity::Error, "IST0106")),
        "{findings:?}"
    );
}
