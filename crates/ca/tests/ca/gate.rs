//! How often callers are answered, and what is written down of it.

use std::path::Path;
use std::time::Duration;

use lateen_ca::pki::PrivateKey;
use lateen_ca::{Allowance, AuditLog};
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::{Struct, Value, value::Kind};
use serde_json::Value as Json;
use tonic::{Code, Status};

use crate::support::{Mesh, Served, csr, read};

const CERTIFICATES: Allowance = Allowance {
    burst: 3,
    every: Duration::from_secs(60),
};

/// In how many milliseconds a refused caller may come again.
fn pushback(status: &Status) -> u64 {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let wait = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    wait.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_caller_that_asks_too_often_is_told_when_to_come_again() {
    let served = Served::with(Mesh::new(), |service| service.with_allowance(CERTIFICATES)).await;
    let mut client = served.client().await;
    let key = PrivateKey::generate().unwrap();
    let (request, token) = (csr(&key, "cart"), served.mesh.token("cart"));
    for _ in 0..3 {
        client.create(&request, Some(&token)).await.unwrap();
    }
    let status = client.create(&request, Some(&token)).await.unwrap_err();
    let wait = pushback(&status);
    assert!((1..=60_000).contains(&wait), "{wait}");
    // Requests that cannot be served count too, and another identity does not wait.
    let malformed = client.create("nonsense", Some(&token)).await.unwrap_err();
    assert_eq!(malformed.code(), Code::ResourceExhausted);
    let other = served.mesh.token("reviews");
    client.create(&csr(&key, "reviews"), Some(&other)).await.unwrap();
    assert_eq!(served.mesh.metric("lateen_ca_refusals_total"), 2.0);
    served.mesh.clock.advance(Duration::from_secs(60));
    client.create(&request, Some(&token)).await.unwrap();
}

#[tokio::test]
async fn strangers_that_prove_nothing_again_and_again_are_not_listened_to() {
    let served = Served::new().await;
    let mut stranger = served.client().await;
    let key = PrivateKey::generate().unwrap();
    let request = csr(&key, "cart");
    for _ in 0..Allowance::FAILURES.burst {
        let refused = stranger.create(&request, Some("a.b.c")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let status = stranger.create(&request, Some("a.b.c")).await.unwrap_err();
    assert!(pushback(&status) > 0);
    // Whoever shares the address and has a certificate still is.
    let workload = served.mesh.workload("cart");
    let mut known = served.connect(Some(&workload)).await.unwrap();
    known.create(&request, None).await.unwrap();
    served.mesh.clock.advance(Duration::from_secs(60));
    let token = served.mesh.token("cart");
    stranger.create(&request, Some(&token)).await.unwrap();
}

/// The lines of the log so far; waits until there are as many.
async fn lines(path: &Path, wanted: usize) -> Vec<Json> {
    let looking = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let whole = text.lines().filter(|_| text.ends_with('\n'));
            let lines: Vec<Json> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= wanted {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.unwrap()
}

#[tokio::test]
async fn what_is_certified_and_what_is_refused_is_written_down() {
    let mesh = Mesh::new();
    let path = mesh.directory.path().join("audit.jsonl");
    let log = AuditLog::to_file(&path, mesh.authority.audit_lost()).unwrap();
    let served = Served::with(mesh, |service| service.with_audit(log)).await;
    let mut client = served.client().await;
    let key = PrivateKey::generate().unwrap();
    let (request, token) = (csr(&key, "cart"), served.mesh.token("cart"));
    let issued = client.create(&request, Some(&token)).await.unwrap();
    let serial = read(&issued).0.leaf().serial().to_owned();
    client.create("nonsense", Some(&token)).await.unwrap_err();
    client.create(&request, None).await.unwrap_err();
    let fields = [(
        "ImpersonatedIdentity".to_owned(),
        "spiffe://cluster.local/ns/shop/sa/bank\n{}",
    )];
    let fields = fields.map(|(name, text)| {
        (
            name,
            Value {
                kind: Some(Kind::StringValue(text.to_owned())),
            },
        )
    });
    let other = IstioCertificateRequest {
        csr: request.clone(),
        metadata: Some(Struct {
            fields: fields.into_iter().collect(),
        }),
        ..IstioCertificateRequest::default()
    };
    client.send(other, Some(&token)).await.unwrap_err();

    let lines = lines(&path, 4).await;
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let [first, second, third, fourth] = &lines[..] else {
        panic!("{lines:?}");
    };
    for line in &lines {
        assert_eq!(line["event"], "certificate");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        // Neither tokens nor keys.
        assert!(!line.to_string().contains(&token), "{line}");
    }
    assert_eq!(
        (
            &first["outcome"],
            &first["identity"],
            &first["caller"],
            &first["serial"]
        ),
        (&"issued".into(), &cart.into(), &cart.into(), &serial.into())
    );
    assert_eq!(
        (&first["proof"], &first["proved_by"]),
        (&"token".into(), &"https://lateen.local".into())
    );
    assert!(first["not_after"].as_str().unwrap() > first["time"].as_str().unwrap());
    assert_eq!(
        (&second["outcome"], &second["reason"]),
        (&"refused".into(), &"request".into())
    );
    assert_eq!((&third["outcome"], third.get("caller")), (&"refused".into(), None));
    assert_eq!(fourth["reason"], "impersonation_disabled");
    assert!(fourth["identity"].as_str().unwrap().contains("/sa/bank"), "{fourth}");

    // Who rotates logs renames them.
    let old = path.with_extension("1");
    std::fs::rename(&path, &old).unwrap();
    client.create(&request, Some(&token)).await.unwrap();
    assert_eq!(self::lines(&path, 1).await[0]["outcome"], "issued");
    assert_eq!(self::lines(&old, 4).await.len(), 4);
    assert_eq!(served.mesh.metric("lateen_ca_audit_lost_total"), 0.0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}
