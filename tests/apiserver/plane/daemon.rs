//! `lateend` itself, in a cluster.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use lateen_controllers::root_certificates;
use lateen_controllers::status::{ACCEPTED, DISTRIBUTED};
use lateen_testkit::{ApiServer, Lateend, eventually};
use serde_json::Value;

use crate::objects;
use crate::replica::condition;

/// A first election, a first list of everything, and the machine's other work.
const SOON: Duration = Duration::from_secs(120);

const SERVICE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: reviews, namespace: default},
 spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}}";

fn virtual_service(host: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: reviews, namespace: default}}, \
         spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn lateend_makes_the_root_gives_it_to_namespaces_and_says_what_has_become_of_objects() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server.install_crds().await?;
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    server.apply(SERVICE).await?;
    server.apply(&virtual_service("reviews")).await?;
    let lateend = Lateend::start_in_cluster(server.kubeconfig(), server.directory(), &[]).await?;
    let client = server.client().await?;

    let done = async {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "istio-system");
        let secret = secrets.get("istio-ca-secret").await?;
        let root = secret
            .data
            .and_then(|mut data| data.remove("root-cert.pem"))
            .unwrap_or_default();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        eventually("the namespace has the root", SOON, async || {
            let map = maps.get_opt(root_certificates::NAME).await.ok().flatten()?;
            (map.data?.get(root_certificates::KEY)?.as_bytes() == root.0).then_some(())
        })
        .await?;
        let leases: Api<Lease> = Api::namespaced(client.clone(), "istio-system");
        for name in ["lateen-leader", "lateen-leader-default"] {
            leases.get(name).await?;
        }
        let services = objects(
            &client,
            "default",
            "networking.istio.io/v1",
            "VirtualService",
            "virtualservices",
        );
        let says = async |what: &str, is: &dyn Fn(&Value, i64) -> bool| {
            eventually(what, SOON, async || {
                let object = serde_json::to_value(services.get("reviews").await.ok()?).ok()?;
                let generation = object["metadata"]["generation"].as_i64()?;
                is(&object, generation).then_some(())
            })
            .await
        };
        let distributed = |object: &Value, generation: i64| {
            condition(object, DISTRIBUTED)
                .is_some_and(|(status, _, _, observed)| status == "True" && observed == generation)
        };
        says("the first generation is live", &distributed).await?;
        server.apply(&virtual_service("nobody")).await?;
        says(
            "the second generation is live, and a finding is told",
            &|object, generation| {
                let accepted = condition(object, ACCEPTED);
                let messages = object["status"]["validationMessages"].as_array().map_or(0, Vec::len);
                generation == 2 && distributed(object, generation) && accepted.is_some() && messages > 0
            },
        )
        .await
    };
    let done: Result<()> = done.await;
    done.map_err(|error| error.context(lateend.log()))
}
