//! What `lateend` must be allowed: no more than it says, and with less it does what it can.

use anyhow::Result;
use lateen_sources::kube::{Rule, rules};
use lateen_testkit::{ApiServer, eventually};
use lateen_xds::types::ROUTE;
use serde_json::json;

use crate::proxy::PATIENCE;
use crate::scene::{SERVICES, TABLE, lateend, route, scene, sidecar};

/// What the certificate authority must be allowed besides: to keep the mesh's root.
const ROOT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: root, namespace: istio-system}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list, watch, create, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: root, namespace: istio-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: root}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: lateen}]
";

fn grant(user: &str, rules: &[Rule]) -> String {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    format!("{role}\n---\n{binding}\n")
}

#[tokio::test]
async fn the_rules_suffice() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        server.apply(SERVICES).await?;
        server.apply(&route("seen")).await?;
        server.apply(ROOT).await?;
        server.apply(&grant("lateen", &rules())).await?;
        let restricted = server.kubeconfig_for("lateen", &[])?;
        let (restricted, free) = tokio::join!(
            lateend(server, &restricted, &[]),
            lateend(server, server.kubeconfig(), &[])
        );
        let (restricted, free) = (restricted?, free?);
        assert!(
            !restricted.whole_log().contains("permission is missing"),
            "{}",
            restricted.log()
        );
        let held = sidecar(&restricted).await?.held();
        assert_eq!(held, sidecar(&free).await?.held());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_missing_permission_is_named_and_stops_nothing_else() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        server.apply(SERVICES).await?;
        server.apply(&route("later")).await?;
        let mut less = rules();
        for rule in &mut less {
            rule.resources
                .retain(|resource| !["virtualservices", "nodes", "customresourcedefinitions"].contains(resource));
        }
        less.retain(|rule| !rule.resources.is_empty());
        server.apply(ROOT).await?;
        server.apply(&grant("lateen", &less)).await?;
        let kubeconfig = server.kubeconfig_for("lateen", &[])?;
        let lateend = lateend(server, &kubeconfig, &[]).await?;
        let mut sidecar = sidecar(&lateend).await?;
        assert_eq!(sidecar.contains(ROUTE, TABLE, "a.one.svc.cluster.local"), Some(true));
        assert_eq!(sidecar.contains(ROUTE, TABLE, "later"), Some(false));
        let log = lateend.whole_log();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("permission is missing"))
            .collect();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        for name in ["VirtualService", "Node", "customresourcedefinitions"] {
            assert!(lines.iter().any(|line| line.contains(name)), "{name}: {lines:#?}");
        }

        server.apply(&grant("lateen", &rules())).await?;
        sidecar.until_contains(ROUTE, TABLE, "later", true).await?;
        eventually("lateend says so", PATIENCE, async || {
            lateend.whole_log().contains("permission was granted").then_some(())
        })
        .await
    })
    .await
}
