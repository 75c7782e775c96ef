//! Status of Istio's kinds, with proxies that acknowledge, lag and reject over ADS.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use lateen_controllers::status::{ACCEPTED, DISTRIBUTED, Findings, Scope, Told, keep};
use lateen_model::{Diagnostic, Severity};
use lateen_names::{Name, Namespace, ObjectKey, ObjectRef};
use lateen_testkit::{ApiServer, eventually};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::replica::{Replica, condition};
use crate::{SOON, objects, version};

fn virtual_service(name: &str, timeout: u32) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: default}}, \
         spec: {{hosts: [{name}], http: [{{timeout: {timeout}s, route: [{{destination: {{host: {name}}}}}]}}]}}}}"
    )
}

fn service(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, \
         spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}}}"
    )
}

fn reviews() -> Result<ObjectRef> {
    Ok(ObjectRef {
        kind: "VirtualService".into(),
        group: "networking.istio.io".into(),
        key: ObjectKey {
            namespace: Some(Namespace::new("default")?),
            name: Name::new("reviews")?,
        },
    })
}

struct Watching(Api<DynamicObject>);

impl Watching {
    async fn get(&self, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.0.get(name).await?)?)
    }

    /// Waits until the condition says this of the object's current generation; gives its message.
    async fn until(&self, name: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{name} is {kind}: {status}, {reason}");
        let looking = eventually(&what, SOON, async || {
            let object = self.get(name).await.ok()?;
            let generation = object["metadata"]["generation"].as_i64()?;
            let (found, why, message, observed) = condition(&object, kind)?;
            (found == status && why == reason && observed == generation).then_some(message)
        });
        match looking.await {
            Ok(message) => Ok(message),
            Err(error) => Err(error.context(self.get(name).await?["status"].to_string())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_distributed_once_every_proxy_of_every_replica_has_it() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server.install_crds().await?;
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    for name in ["reviews", "ratings"] {
        server.apply(&service(name)).await?;
        server.apply(&virtual_service(name, 1)).await?;
    }
    let client = server.client().await?;
    let services = Watching(objects(
        &client,
        "default",
        "networking.istio.io/v1",
        "VirtualService",
        "virtualservices",
    ));

    let mut one = Replica::start(client.clone(), "one").await?;
    let mut two = Replica::start(client.clone(), "two").await?;
    let _first = one.proxy("first").await?;
    let second = two.proxy("second").await?;
    let scope = Scope {
        namespaces: Arc::new([Namespace::new("default")?].into()),
        revision: "default".to_owned(),
        ..Scope::default()
    };
    let (_scope, scopes) = watch::channel(scope);
    let (findings, found) = watch::channel(Arc::new(Findings::new()));
    let mut tasks = JoinSet::new();
    let (_statuses, statuses) = watch::channel(Arc::default());
    let told = Told {
        findings: found,
        statuses,
    };
    tasks.spawn(keep(server.client().await?, "istio-system".to_owned(), scopes, told));

    let message = services.until("reviews", DISTRIBUTED, "True", "Distributed").await?;
    assert_eq!(message, "held by all proxies (2 connected to 2 replicas)");
    let object = services.get("reviews").await?;
    assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    services.until("ratings", DISTRIBUTED, "True", "Distributed").await?;

    // One replica has read the change, the other has not; then a proxy does not answer; then all have it.
    second.reads(false);
    let written = version(&services.0.get("ratings").await?)?;
    server.apply(&virtual_service("reviews", 2)).await?;
    one.read().await?;
    let message = services.until("reviews", DISTRIBUTED, "False", "Pending").await?;
    assert!(message.starts_with("waits for "), "{message}");
    two.read().await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "istio-system");
    eventually("the second replica tells of its proxy", SOON, async || {
        let lease = leases.get("lateen-replica-two").await.ok()?;
        let told = lease.metadata.annotations?.get("lateen.dev/progress")?.clone();
        told.contains("sidecar~10.0.0.9~second").then_some(())
    })
    .await?;
    let pending = services.get("reviews").await?;
    assert_eq!(
        condition(&pending, DISTRIBUTED).map(|found| found.0).as_deref(),
        Some("False")
    );
    second.reads(true);
    services.until("reviews", DISTRIBUTED, "True", "Distributed").await?;
    assert_eq!(
        version(&services.0.get("ratings").await?)?,
        written,
        "an object was written that nothing happened to"
    );

    rejected(&server, &services, &mut one, &mut two, &second).await?;
    findings_are_written(&services, &findings).await?;
    lost(&server, &services, &mut one, two, &leases).await
}

/// A rejection names the proxy and its words, and is over when the next change is taken.
async fn rejected(
    server: &ApiServer,
    services: &Watching,
    one: &mut Replica,
    two: &mut Replica,
    second: &crate::replica::Proxy,
) -> Result<()> {
    second.rejects_routes(true);
    server.apply(&virtual_service("reviews", 3)).await?;
    one.read().await?;
    two.read().await?;
    let message = services.until("reviews", DISTRIBUTED, "False", "Rejected").await?;
    assert!(message.contains("sidecar~10.0.0.9~second.default"), "{message}");
    assert!(message.contains("this proxy takes no routes"), "{message}");
    second.rejects_routes(false);
    server.apply(&virtual_service("reviews", 4)).await?;
    one.read().await?;
    two.read().await?;
    services.until("reviews", DISTRIBUTED, "True", "Distributed").await?;
    Ok(())
}

/// What analysis finds is written without a change of the object, once, beside what others write.
async fn findings_are_written(services: &Watching, findings: &watch::Sender<Arc<Findings>>) -> Result<()> {
    let foreign = json!({"type": "example.org/Seen", "status": "True"});
    let mut conditions = services.get("reviews").await?["status"]["conditions"].clone();
    conditions.as_array_mut().context("no conditions")?.push(foreign);
    let patch = json!({"status": {"conditions": conditions}});
    services
        .0
        .patch_status("reviews", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;

    let finding = Diagnostic {
        object: reviews()?,
        field: "spec.http[0].route[0].destination.host".into(),
        severity: Severity::Error,
        code: "IST0101",
        message: "no such host; add a Service or a ServiceEntry for it".into(),
    };
    findings.send_replace(Arc::new(BTreeMap::from([(reviews()?, vec![finding])])));
    let message = services.until("reviews", ACCEPTED, "False", "Invalid").await?;
    assert!(
        message.contains("spec.http[0].route[0].destination.host: no such host"),
        "{message}"
    );
    let object = services.get("reviews").await?;
    let messages = &object["status"]["validationMessages"];
    assert_eq!(
        (&messages[0]["type"]["code"], &messages[0]["level"]),
        (&json!("IST0101"), &json!("ERROR"))
    );
    assert!(condition(&object, "example.org/Seen").is_none());
    let conditions = object["status"]["conditions"].as_array().context("no conditions")?;
    assert!(
        conditions
            .iter()
            .any(|condition| condition["type"] == "example.org/Seen")
    );

    // Told again, nothing is written: what is written next is what comes next.
    findings.send_modify(|_| {});
    findings.send_replace(Arc::new(Findings::new()));
    services.until("reviews", ACCEPTED, "True", "Accepted").await?;
    let after = services.get("reviews").await?;
    assert!(after["status"].get("validationMessages").is_none());
    Ok(())
}

/// A replica that is killed counts until its Lease is over, one that ends counts no more at once.
async fn lost(
    server: &ApiServer,
    services: &Watching,
    one: &mut Replica,
    two: Replica,
    leases: &Api<Lease>,
) -> Result<()> {
    server.apply(&virtual_service("reviews", 5)).await?;
    two.kill();
    one.read().await?;
    services.until("reviews", DISTRIBUTED, "False", "Pending").await?;
    let message = services.until("reviews", DISTRIBUTED, "True", "Distributed").await?;
    assert_eq!(message, "held by all proxies (1 connected to 1 replicas)");
    one.end();
    eventually("the lease of a replica that ended is gone", SOON, async || {
        leases.get_opt("lateen-replica-one").await.ok()?.is_none().then_some(())
    })
    .await
}
