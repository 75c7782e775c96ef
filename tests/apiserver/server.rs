//! The API server that the other tests stand on.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use lateen_testkit::ApiServer;
use lateen_testkit::apiserver::TokenFor;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: a, namespace: one}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: one, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{name: a, image: a}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
";

#[tokio::test]
async fn a_server_keeps_its_objects_over_a_restart_and_takes_status() -> Result<()> {
    let Some(mut server) = ApiServer::start().await? else {
        return Ok(());
    };
    server.apply(OBJECTS).await?;
    server.stop()?;
    server.start_again().await?;
    let client = server.client().await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "one");
    assert!(services.get("a").await?.spec.context("no spec")?.cluster_ip.is_some());
    let pod = Api::<Pod>::namespaced(client, "one").get("a").await?;
    assert_eq!(pod.status.context("no status")?.pod_ip.as_deref(), Some("10.0.0.1"));

    server.delete(OBJECTS).await?;
    assert!(services.get_opt("a").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn users_and_service_accounts_may_do_what_rbac_grants_and_no_more() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server.apply(OBJECTS).await?;
    let user = server
        .client_of(&server.kubeconfig_for("jane", &["readers", "writers"])?)
        .await?;
    let account = server
        .client_of(&server.kubeconfig_for_account("one", "a").await?)
        .await?;
    for client in [&user, &account] {
        let refused = Api::<Pod>::namespaced(client.clone(), "one")
            .list(&ListParams::default())
            .await;
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    }
    server
        .apply(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: readers}
rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: readers}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: writers}
- {kind: ServiceAccount, namespace: one, name: a}
",
        )
        .await?;
    for client in [&user, &account] {
        lateen_testkit::eventually("pods may be read", std::time::Duration::from_secs(20), async || {
            let pods = Api::<Pod>::namespaced(client.clone(), "one");
            pods.list(&ListParams::default()).await.ok()
        })
        .await?;
    }
    let purpose = TokenFor {
        audiences: &["istio-ca"],
        pod: Some("a"),
        lifetime: None,
    };
    assert_eq!(server.token("one", "a", purpose).await?.split('.').count(), 3);
    Ok(())
}

#[tokio::test]
async fn the_definitions_of_the_repository_are_taken() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server.install_crds().await?;
    server
        .apply(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
",
        )
        .await
}
