//! Gateways of the Gateway API: the proxies that are made for them, and what is told of them and of their routes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Client, Resource};
use lateen_controllers::gateways::{Settings, keep};
use lateen_controllers::status::DISTRIBUTED;
use lateen_injector::{InjectionSettings, Request, inject, strategic_merge_of};
use lateen_model::deployment::{Deployments, GatewayDeployment, GatewayPort};
use lateen_names::{Name, Namespace, ObjectKey};
use lateen_testkit::{ApiServer, Lateend, eventually};
use lateen_tests::helm::Helm;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::objects;

/// A first election, a first list of everything, and the machine's other work.
const SOON: Duration = Duration::from_secs(120);

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: edge}
spec:
  gatewayClassName: istio
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
  infrastructure:
    labels: {team: web}
    parametersRef: {group: '', kind: ConfigMap, name: edge}
";

const WORLD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: edge, namespace: edge}
data:
  deployment: 'spec: {replicas: 3, template: {spec: {containers: [{name: istio-proxy, env: [{name: A, value: b}]}]}}}'
  horizontalPodAutoscaler: 'spec: {maxReplicas: 7}'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: defaults, namespace: istio-system, labels: {gateway.istio.io/defaults-for-class: istio}}
data: {service: 'metadata: {annotations: {class: default}}'}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: edge}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: edge}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: taken-istio, namespace: edge}
spec: {selector: {app: mine}, ports: [{name: http, port: 99}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: taken, namespace: edge}
spec:
  gatewayClassName: istio
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

fn endpoints() -> &'static str {
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice,
      metadata: {name: edge, namespace: edge, labels: {kubernetes.io/service-name: edge-istio}}, addressType: IPv4,
      ports: [{name: http, port: 80}], endpoints: [{addresses: [10.1.0.9], conditions: {ready: true}}]}"
}

/// Whether a condition among these has this status and reason.
fn has(conditions: &Value, kind: &str, status: &str, reason: &str) -> bool {
    conditions
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == kind && condition["status"] == status && condition["reason"] == reason)
}

/// Waits for an object that is as it should be.
async fn until<K>(api: &Api<K>, name: &str, what: &str, is: impl Fn(&K) -> bool) -> Result<K>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let found = eventually(what, SOON, async || {
        let object = api.get_opt(name).await.ok().flatten()?;
        is(&object).then_some(object)
    });
    match found.await {
        Ok(object) => Ok(object),
        Err(error) => Err(error.context(format!("{:?}", api.get_opt(name).await))),
    }
}

struct Edge {
    deployments: Api<Deployment>,
    services: Api<Service>,
    accounts: Api<ServiceAccount>,
    scalers: Api<HorizontalPodAutoscaler>,
}

impl Edge {
    fn new(client: &Client) -> Self {
        Self {
            deployments: Api::namespaced(client.clone(), "edge"),
            services: Api::namespaced(client.clone(), "edge"),
            accounts: Api::namespaced(client.clone(), "edge"),
            scalers: Api::namespaced(client.clone(), "edge"),
        }
    }
}

fn replicas(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

fn ports(service: &Service) -> Vec<i32> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| port.port).collect()
}

fn owner(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<(&str, &str, &str)> {
    let owner = meta.owner_references.as_ref()?.first()?;
    Some((&owner.kind, &owner.name, &owner.uid))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_its_proxies_and_says_how_it_is_served() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    if std::env::var_os("LATEEN_REFERENCE").is_none() {
        println!("skipped: without LATEEN_REFERENCE there are no definitions of the Gateway API");
        return Ok(());
    }
    server.install_crds().await?;
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    server.apply(WORLD).await?;
    server.apply(GATEWAY).await?;
    let kubeconfig = with_the_charts_rights(&server).await?;
    let lateend = Lateend::start_in_cluster(&kubeconfig, server.directory(), &[]).await?;
    let client = server.client().await?;
    let done = async {
        let edge = Edge::new(&client);
        made(&client, &edge).await?;
        told(&server, &client, &edge).await?;
        repaired(&server, &edge).await?;
        // What was there before is somebody else's.
        let taken = edge.services.get("taken-istio").await?;
        assert_eq!(ports(&taken), [99]);
        assert!(taken.metadata.owner_references.is_none());
        Ok(())
    };
    let done: Result<()> = done.await;
    done.map_err(|error| error.context(lateend.log()))
}

/// Somebody who may do what the chart lets the control plane do, and no more; everything where there is no Helm.
async fn with_the_charts_rights(server: &ApiServer) -> Result<PathBuf> {
    let Some(helm) = Helm::find("the rights that the chart gives") else {
        return Ok(server.kubeconfig().to_owned());
    };
    let all = helm.objects("lateen", "istio-system", &[]);
    let kinds = ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"];
    for mut object in all
        .into_iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)))
    {
        if object.get("subjects").is_some() {
            object["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "lateen"}]);
        }
        server.apply(&object.to_string()).await?;
    }
    server.kubeconfig_for("lateen", &[])
}

/// Account, Deployment, Service and autoscaler with overlays of class and Gateway, owned by the Gateway; and the classes.
async fn made(client: &Client, edge: &Edge) -> Result<()> {
    let gateways = objects(client, "edge", GATEWAY_API, "Gateway", "gateways");
    let uid = gateways.get("edge").await?.metadata.uid.context("no uid")?;
    let owned = Some(("Gateway", "edge", uid.as_str()));

    let deployment = until(&edge.deployments, "edge-istio", "a Deployment is made", |_| true).await?;
    assert_eq!(owner(&deployment.metadata), owned);
    assert_eq!(replicas(&deployment), Some(3));
    let labels = deployment.metadata.labels.clone().unwrap_or_default();
    assert_eq!(
        labels.get("gateway.networking.k8s.io/gateway-name").map(String::as_str),
        Some("edge")
    );
    assert_eq!(
        labels
            .get("gateway.networking.k8s.io/gateway-class-name")
            .map(String::as_str),
        Some("istio")
    );
    assert_eq!(
        labels.get("gateway.istio.io/managed").map(String::as_str),
        Some("istio.io-gateway-controller")
    );
    assert_eq!(labels.get("team").map(String::as_str), Some("web"));
    let template = serde_json::to_value(&deployment.spec.context("no spec")?.template)?;
    let container = &template["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["env"][0]["name"]),
        (&json!("auto"), &json!("A"))
    );
    assert_eq!(template["metadata"]["labels"]["sidecar.istio.io/inject"], "true");
    assert_eq!(
        template["metadata"]["annotations"]["inject.istio.io/templates"],
        "gateway"
    );
    let managers = deployment.metadata.managed_fields.unwrap_or_default();
    assert!(
        managers
            .iter()
            .any(|entry| entry.manager.as_deref() == Some("istio.io/gateway-controller"))
    );

    let service = until(&edge.services, "edge-istio", "a Service is made", |_| true).await?;
    assert_eq!(owner(&service.metadata), owned);
    assert_eq!(ports(&service), [15021, 80]);
    let spec = service.spec.context("no spec")?;
    assert_eq!(spec.type_.as_deref(), Some("LoadBalancer"));
    let annotations = service.metadata.annotations.unwrap_or_default();
    assert_eq!(
        annotations.get("class").map(String::as_str),
        Some("default"),
        "the class's overlay"
    );

    let account = until(&edge.accounts, "edge-istio", "an account is made", |_| true).await?;
    assert_eq!(owner(&account.metadata), owned);
    let scaler = until(&edge.scalers, "edge-istio", "an autoscaler is made", |_| true).await?;
    assert_eq!(owner(&scaler.metadata), owned);
    assert_eq!(scaler.spec.map(|spec| spec.max_replicas), Some(7));

    let classes = crate::cluster_objects(client, GATEWAY_API, "GatewayClass", "gatewayclasses");
    for class in ["istio", "istio-remote"] {
        let accepted =
            |object: &DynamicObject| has(&object.data["status"]["conditions"], "Accepted", "True", "Accepted");
        until(&classes, class, "the class is accepted", accepted).await?;
    }
    classes.delete("istio-remote", &DeleteParams::default()).await?;
    until(&classes, "istio-remote", "the class is made again", |class| {
        class.metadata.deletion_timestamp.is_none()
    })
    .await?;
    Ok(())
}

/// Conditions, addresses and attached routes; what another controller tells of a route stays.
async fn told(server: &ApiServer, client: &Client, edge: &Edge) -> Result<()> {
    let gateways = objects(client, "edge", GATEWAY_API, "Gateway", "gateways");
    let routes = objects(client, "edge", GATEWAY_API, "HTTPRoute", "httproutes");
    let conditions = |object: &DynamicObject| object.data["status"]["conditions"].clone();
    until(&gateways, "edge", "the Gateway waits for endpoints", |gateway| {
        has(&conditions(gateway), "Accepted", "True", "Accepted")
            && has(&conditions(gateway), "Programmed", "False", "AddressNotAssigned")
    })
    .await?;
    server.apply(endpoints()).await?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}});
    edge.services
        .patch_status("edge-istio", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    let gateway = until(&gateways, "edge", "the Gateway is served", |gateway| {
        has(&conditions(gateway), "Programmed", "True", "Programmed")
            && has(&conditions(gateway), DISTRIBUTED, "True", "Distributed")
    })
    .await?;
    let told = &gateway.data["status"];
    assert_eq!(
        told["addresses"],
        json!([{"type": "IPAddress", "value": "203.0.113.7"}])
    );
    let listener = &told["listeners"][0];
    assert_eq!(
        (&listener["name"], &listener["attachedRoutes"]),
        (&json!("http"), &json!(1))
    );
    assert!(has(&listener["conditions"], "Conflicted", "False", "NoConflicts"));

    let ours = |route: &DynamicObject| -> Value {
        let parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
        let mut ours = parents
            .into_iter()
            .filter(|parent| parent["controllerName"] == "istio.io/gateway-controller");
        ours.next()
            .map(|parent| parent["conditions"].clone())
            .unwrap_or_default()
    };
    let route = until(&routes, "web", "the route is accepted everywhere", |route| {
        has(&ours(route), "Accepted", "True", "Accepted")
            && has(&ours(route), "ResolvedRefs", "True", "ResolvedRefs")
            && has(&ours(route), DISTRIBUTED, "True", "Distributed")
    })
    .await?;
    let since = ours(&route);
    let since = since
        .as_array()
        .and_then(|list| list.iter().find(|condition| condition["type"] == "Accepted"));
    let since = since.map(|condition| condition["lastTransitionTime"].clone());

    // Another controller tells of a parent of its own, and then the route leads nowhere.
    let mut parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    let other = json!({
        "controllerName": "example.org/other",
        "parentRef": {"group": "example.org", "kind": "Edge", "name": "other"},
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2024-01-01T00:00:00Z"}],
    });
    parents.insert(0, other.clone());
    let patch = json!({"status": {"parents": parents}});
    routes
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let patch = json!({"spec": {"rules": [{"backendRefs": [{"name": "nobody", "port": 80}]}]}});
    routes
        .patch("web", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let route = until(&routes, "web", "the route's back end is missed", |route| {
        has(&ours(route), "ResolvedRefs", "False", "BackendNotFound")
    })
    .await?;
    assert_eq!(route.data["status"]["parents"][0], other);
    let after = ours(&route);
    let after = after
        .as_array()
        .and_then(|list| list.iter().find(|condition| condition["type"] == "Accepted"));
    assert_eq!(after.map(|condition| condition["lastTransitionTime"].clone()), since);
    assert_eq!(
        after.map(|condition| condition["observedGeneration"].clone()),
        Some(json!(2))
    );
    let unchanged = gateways.get("edge").await?.metadata.resource_version;
    assert_eq!(
        unchanged, gateway.metadata.resource_version,
        "written though nothing differs"
    );
    Ok(())
}

/// Other's edits are undone where they contradict, and what is asked for no more goes.
async fn repaired(server: &ApiServer, edge: &Edge) -> Result<()> {
    let merge = |patch: Value| Patch::Merge(patch);
    let params = PatchParams::default();
    edge.deployments
        .patch(
            "edge-istio",
            &params,
            &merge(json!({"spec": {"replicas": 9}, "metadata": {"annotations": {"mine": "x"}}})),
        )
        .await?;
    let deployment = until(
        &edge.deployments,
        "edge-istio",
        "replicas are put right",
        |deployment| replicas(deployment) == Some(3),
    )
    .await?;
    let annotations = deployment.metadata.annotations.unwrap_or_default();
    assert_eq!(
        annotations.get("mine").map(String::as_str),
        Some("x"),
        "what others add stays"
    );
    edge.services
        .patch("edge-istio", &params, &merge(json!({"spec": {"selector": null}})))
        .await?;
    until(&edge.services, "edge-istio", "the selector is put right", |service| {
        service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
    })
    .await?;
    edge.accounts.delete("edge-istio", &DeleteParams::default()).await?;
    until(&edge.accounts, "edge-istio", "the account is made again", |_| true).await?;

    server
        .apply(&WORLD.replace("  horizontalPodAutoscaler: 'spec: {maxReplicas: 7}'\n", ""))
        .await?;
    eventually("the autoscaler goes with its overlay", SOON, async || {
        edge.scalers.get_opt("edge-istio").await.ok()?.is_none().then_some(())
    })
    .await?;
    server
        .apply(&GATEWAY.replace("listeners: [", "listeners: [{name: more, port: 8080, protocol: HTTP}, "))
        .await?;
    until(&edge.services, "edge-istio", "a port is added", |service| {
        ports(service).contains(&8080)
    })
    .await?;
    Ok(())
}

fn plan(uid: &str, revision: Option<&str>) -> GatewayDeployment {
    GatewayDeployment {
        uid: uid.into(),
        class: "istio".into(),
        controller: "istio.io/gateway-controller".into(),
        revision: revision.map(Into::into),
        controller_version: None,
        name: "edge-istio".into(),
        account: "edge-istio".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        service_type: "ClusterIP".into(),
        load_balancer_ip: None,
        ports: vec![GatewayPort {
            name: "http".into(),
            number: 80,
            protocol: "http".into(),
        }],
        overlays: Vec::new(),
    }
}

fn overlay(kind: &str, object: &Value, patch: &str) -> Result<Value, String> {
    let patch = serde_json::from_str(patch).map_err(|error| error.to_string())?;
    Ok(strategic_merge_of(kind, object, &patch))
}

fn key(namespace: &str) -> Result<ObjectKey> {
    Ok(ObjectKey {
        namespace: Some(Namespace::new(namespace)?),
        name: Name::new("edge")?,
    })
}

/// What the webhook makes of a pod of the template.
fn injected(template: &Value) -> Result<Value> {
    let mut pod = template.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    let request = Request {
        pod: &pod,
        namespace: "own",
        owner: None,
        environment: &BTreeMap::new(),
    };
    Ok(inject(request, &InjectionSettings::default())?.pod)
}

/// A revision deploys the Gateways that name it or a tag of it, and leaves the others alone; broken overlays stop nothing
/// else.
#[tokio::test(flavor = "multi_thread")]
async fn each_revision_looks_after_its_own_gateways() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let names = ["default", "own", "tagged", "other", "newer", "broken", "odd"];
    for name in names {
        server
            .apply(&format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"
            ))
            .await?;
    }
    server
        .apply(
            "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration,
              metadata: {name: istio-revision-tag-prod, labels: {istio.io/tag: prod, istio.io/rev: canary}}}",
        )
        .await?;
    let mut plans = Deployments::new();
    plans.insert(key("default")?, plan("1", None));
    plans.insert(key("own")?, plan("2", Some("canary")));
    plans.insert(key("tagged")?, plan("3", Some("prod")));
    plans.insert(key("other")?, plan("4", Some("stable")));
    let newer = GatewayDeployment {
        controller_version: Some("6".into()),
        ..plan("5", Some("canary"))
    };
    plans.insert(key("newer")?, newer);
    let overlaid = |uid: &str, part: &str, patch: &str| GatewayDeployment {
        overlays: vec![BTreeMap::from([(part.into(), patch.into())])],
        ..plan(uid, Some("canary"))
    };
    let renamed = r#"{"metadata": {"name": "another"}}"#;
    plans.insert(key("broken")?, overlaid("6", "service", renamed));
    let unlabelled = r#"{"metadata": {"labels": "none"}}"#;
    plans.insert(key("odd")?, overlaid("7", "deployment", unlabelled));
    let (_plans, seen) = watch::channel(Arc::new(plans));
    let settings = |revision: &str| Settings {
        revision: revision.to_owned(),
        overlay,
        classes: false,
    };
    let client = server.client().await?;
    let services = |namespace: &str| Api::<Service>::namespaced(client.clone(), namespace);
    let mut tasks = JoinSet::new();
    tasks.spawn(keep(client.clone(), settings("canary"), seen.clone()));
    for namespace in ["own", "tagged"] {
        until(&services(namespace), "edge-istio", namespace, |_| true).await?;
    }
    let deployments = Api::<Deployment>::namespaced(client.clone(), "own");
    let deployment = until(&deployments, "edge-istio", "it is injected by its revision", |_| true).await?;
    let template = serde_json::to_value(&deployment.spec.context("no spec")?.template)?;
    assert_eq!(template["metadata"]["labels"]["istio.io/rev"], "canary");
    let pod = injected(&template)?;
    let proxy = &pod["spec"]["containers"][0];
    assert_eq!(
        (&proxy["args"][0], &proxy["args"][1]),
        (&json!("proxy"), &json!("router"))
    );
    assert_ne!(proxy["image"], "auto");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    for namespace in ["default", "other", "newer", "broken", "odd"] {
        assert!(
            services(namespace).get_opt("edge-istio").await?.is_none(),
            "{namespace}"
        );
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        assert!(deployments.get_opt("edge-istio").await?.is_none(), "{namespace}");
    }
    // The default revision takes those that name none.
    tasks.spawn(keep(client.clone(), settings("default"), seen));
    until(&services("default"), "edge-istio", "default", |_| true).await?;
    assert!(services("other").get_opt("edge-istio").await?.is_none());
    Ok(())
}
