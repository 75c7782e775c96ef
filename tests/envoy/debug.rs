//! What `istioctl`, Kiali and dashboards read of a running control plane, and what the command line shows of it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use lateen_testkit::eventually;
use lateen_testkit::lateend::program;
use lateen_testkit::world::{destination_rule, virtual_service};
use serde_json::Value;

use crate::scene::{PATIENCE, Scene, scene};

const PROXY: &str = "router~127.0.0.1~gateway.edge~edge.svc.cluster.local";

impl Scene {
    async fn debug(&self, path: &str) -> Result<Value> {
        let answer = self.lateend.http(path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).with_context(|| format!("{path}: {}", answer.body))
    }

    /// The value of a metric, by its name with labels; 0 when it is not there.
    async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.lateend.monitoring("/metrics").await?.body;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        match line.and_then(|line| line.rsplit(' ').next()) {
            Some(value) => Ok(value.parse()?),
            None => Ok(0.0),
        }
    }

    /// Waits until the proxy's row of `/debug/syncz` is so.
    async fn row(&self, what: &str, mut so: impl FnMut(&Value) -> bool) -> Result<Value> {
        eventually(what, PATIENCE, async || {
            let rows = self.debug("/debug/syncz").await.ok()?;
            rows.as_array()?.iter().find(|row| so(row)).cloned()
        })
        .await
    }

    /// What the command line says; it must end well.
    async fn lateen(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("lateen-cli", "lateen")?);
        command.args(arguments);
        command.args(["--address", &format!("http://{}", self.lateend.http_address())]);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let (said, error) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success(), "{arguments:?}: {said}{error}");
        Ok(said)
    }
}

/// The scene with a route and a rule in force.
async fn furnished(scene: &Scene, mark: &str) -> Result<()> {
    let rule = destination_rule("shop", "echo-0", "", &[("v1", "v1")]);
    let route = virtual_service("shop", "echo", "echo.test", "echo-0", mark, &[(Some("v1"), 100)]);
    scene.world.write("echo.yaml", &[&rule, &route])?;
    scene.marked("echo.test", mark).await?;
    Ok(())
}

fn synced(row: &Value) -> bool {
    let same = |kind: &str| {
        let (sent, acked) = (&row[format!("{kind}_sent")], &row[format!("{kind}_acked")]);
        sent.is_string() && sent == acked
    };
    ["cluster", "listener", "route", "endpoint"].into_iter().all(same)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_endpoints_in_istiods_shapes() -> Result<()> {
    scene(async |scene| {
        furnished(scene, "on").await?;
        let row = scene.row("the gateway is in sync", synced).await?;
        for (field, expected) in [
            ("proxy", "gateway.edge"),
            ("proxy_type", "router"),
            ("cluster_id", "Kubernetes"),
            ("istio_version", "1.32.0"),
        ] {
            ensure!(row[field] == expected, "{field}: {row:#}");
        }
        let clusters = &row["resources"]["type.googleapis.com/envoy.config.cluster.v3.Cluster"];
        ensure!(
            clusters["sent"] == row["cluster_sent"] && clusters["sentTime"].is_string(),
            "{row:#}"
        );

        let services = scene.debug("/debug/registryz").await?;
        let host = "echo-0.shop.svc.cluster.local";
        let service = services
            .as_array()
            .and_then(|all| all.iter().find(|one| one["hostname"] == host));
        let service = service.with_context(|| format!("{services:#}"))?;
        for (pointer, expected) in [
            ("/Attributes/Name", Value::from("echo-0")),
            ("/Attributes/Namespace", "shop".into()),
            ("/Attributes/ServiceRegistry", "Kubernetes".into()),
            ("/ports/0/port", 80.into()),
            ("/ports/0/protocol", "HTTP".into()),
            ("/Resolution", 0.into()),
            ("/MeshExternal", false.into()),
            ("/clusterVIPs/Addresses/Kubernetes/0", "10.96.0.1".into()),
        ] {
            ensure!(service.pointer(pointer) == Some(&expected), "{pointer}: {service:#}");
        }

        for path in ["/debug/endpointShardz", "/debug/endpointz"] {
            let shards = scene.debug(path).await?;
            let endpoints = &shards[host]["shop"]["Shards"]["Kubernetes/Kubernetes"];
            let first = &endpoints[0];
            ensure!(first["Addresses"][0] == "127.0.1.1", "{shards:#}");
            ensure!(first["EndpointPort"] == scene.one.address.port(), "{shards:#}");
            ensure!(
                first["ServicePortName"] == "http" && first["HealthStatus"] == 1,
                "{shards:#}"
            );
        }

        let connections = scene.debug("/debug/connections").await?;
        ensure!(connections["totalClients"] == 1, "{connections:#}");
        ensure!(
            connections["clients"][0]["connectionId"]
                .as_str()
                .is_some_and(|id| id.starts_with(PROXY))
        );
        let clients = scene.debug("/debug/adsz").await?;
        ensure!(
            clients["clients"][0]["metadata"]["CLUSTER_ID"] == "Kubernetes",
            "{clients:#}"
        );
        let mesh = scene.debug("/debug/mesh").await?;
        ensure!(mesh["enableAutoMtls"] == false, "{mesh:#}");
        let names = scene.debug("/debug/list").await?;
        ensure!(
            names.as_array().is_some_and(|names| names.contains(&"syncz".into())),
            "{names:#}"
        );
        ensure!(scene.lateend.monitoring("/debug/syncz").await?.status == 200);
        let version = scene.lateend.monitoring("/version").await?.body;
        ensure!(version.starts_with("1.32.0-lateen."), "{version}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_shown() -> Result<()> {
    scene(async |scene| {
        let pair = rcgen::generate_simple_self_signed(["shop.test".to_owned()])?;
        let key = pair.signing_key.serialize_pem();
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-cert, namespace: edge}}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
            encode(&pair.cert.pem()),
            encode(&key)
        );
        let port = lateen_testkit::ports::free()?;
        let gateway = format!(
            "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: secure, namespace: edge}}
spec:
  selector: {{istio: edge}}
  servers:
    - port: {{number: {port}, name: https, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [\"shop.test\"]
      tls: {{mode: SIMPLE, credentialName: shop-cert}}
"
        );
        scene.world.write("secret.yaml", &[&secret, &gateway])?;
        furnished(scene, "on").await?;
        let dump = eventually("the gateway's certificate is in its dump", PATIENCE, async || {
            let dump = scene.debug(&format!("/debug/config_dump?proxyID={PROXY}&include_eds")).await.ok()?;
            dump.to_string().contains("kubernetes://shop-cert").then_some(dump)
        })
        .await?;
        let kinds: Vec<&str> = dump["configs"]
            .as_array()
            .context("no configs")?
            .iter()
            .filter_map(|config| config["@type"].as_str()?.rsplit('.').next())
            .collect();
        ensure!(
            kinds
                == [
                    "BootstrapConfigDump",
                    "ClustersConfigDump",
                    "EndpointsConfigDump",
                    "ListenersConfigDump",
                    "ScopedRoutesConfigDump",
                    "RoutesConfigDump",
                    "SecretsConfigDump",
                    "EcdsConfigDump",
                ],
            "{kinds:?}"
        );
        let secrets = scene.lateen(&["pc", "secret", "gateway.edge"]).await?;
        ensure!(secrets.contains("Cert Chain") && secrets.contains("true"), "{secrets}");

        // Neither as it is, nor as bytes of a message are written in JSON.
        let line = key.lines().nth(1).context("no key")?;
        let encoded = encode(&key);
        let mut paths: Vec<String> = ["configz", "push_status", "registryz", "endpointz", "syncz", "adsz", "mesh"]
            .iter()
            .map(|name| format!("/debug/{name}"))
            .collect();
        paths.push(format!("/debug/config_dump?proxyID={PROXY}&include_eds"));
        paths.push(format!("/debug/config_dump?proxyID={PROXY}&types=sds"));
        for path in paths {
            let text = scene.debug(&path).await?.to_string();
            ensure!(!text.contains(line) && !text.contains(&encoded[..200]), "a key is shown by {path}");
        }
        let configuration = scene.debug("/debug/configz").await?;
        let configuration = configuration.as_array().context("no list")?;
        ensure!(configuration.iter().all(|one| one["apiVersion"].is_string() && one["kind"] != "Secret"));
        ensure!(configuration.iter().any(|one| one["kind"] == "VirtualService" && one["metadata"]["name"] == "echo"));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_are_shown_as_long_as_they_last() -> Result<()> {
    scene(async |scene| {
        furnished(scene, "on").await?;
        scene.row("the gateway is in sync", synced).await?;
        let listeners = "type.googleapis.com/envoy.config.listener.v3.Listener";
        let rejects = "pilot_total_xds_rejects{type=\"lds\"}";
        ensure!(scene.metric(rejects).await? == 0.0);
        // Somebody else has the port of this one's second listener.
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port();
        let second = lateen_testkit::world::gateway(port).replace("name: gateway,", "name: second,");
        let route = virtual_service("shop", "second", "second.test", "echo-1", "on", &[(None, 100)])
            .replace("edge/gateway", "edge/second");
        scene.world.write("second.yaml", &[&second, &route])?;
        let error = |row: &Value| row["resources"][listeners]["lastError"].as_str().map(str::to_owned);
        let row = scene.row("the refusal is in syncz", |row| error(row).is_some()).await?;
        ensure!(
            error(&row).is_some_and(|text| text.contains(&port.to_string())),
            "{row:#}"
        );
        ensure!(scene.metric(rejects).await? >= 1.0);
        let status = scene.lateen(&["proxy-status"]).await?;
        let line = status.lines().nth(1).unwrap_or_default();
        ensure!(
            line.starts_with("gateway.edge ") && line.contains("ERROR") && line.contains("SYNCED"),
            "{status}"
        );
        ensure!(status.contains("gateway.edge rejected LDS: "), "{status}");

        scene.world.remove("second.yaml")?;
        scene
            .row("the refusal is gone from syncz", |row| {
                error(row).is_none() && synced(row)
            })
            .await?;
        let status = scene.lateen(&["proxy-status"]).await?;
        ensure!(!status.contains("ERROR") && !status.contains("rejected"), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_what_envoy_holds() -> Result<()> {
    scene(async |scene| {
        furnished(scene, "on").await?;
        scene.row("the gateway is in sync", synced).await?;
        let admin = format!("http://{}", scene.envoy.address());
        let status = scene.lateen(&["ps", "gateway.edge", "--admin", &admin]).await?;
        ensure!(
            status.ends_with("\nClusters Match\nListeners Match\nRoutes Match\n"),
            "{status}"
        );

        let lines = |text: String| -> Vec<String> {
            let words = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            words.collect()
        };
        for source in [&["gateway.edge"][..], &["--admin", &admin]] {
            let show = async |what: &[&str]| scene.lateen(&[&["pc"][..], what, source].concat()).await.map(lines);
            let clusters = show(&["cluster", "--fqdn", "echo-0"]).await?;
            let host = "echo-0.shop.svc.cluster.local";
            ensure!(
                clusters
                    == [
                        "SERVICE FQDN PORT SUBSET DIRECTION TYPE DESTINATION RULE".to_owned(),
                        format!("{host} 80 - outbound EDS echo-0.shop"),
                        format!("{host} 80 v1 outbound EDS echo-0.shop"),
                    ],
                "{source:?}: {clusters:#?}"
            );
            let port = scene.door.port();
            let table = format!("http.{port}.127.0.0.1");
            let listeners = show(&["listener", "--port", &port.to_string()]).await?;
            ensure!(
                listeners.get(1) == Some(&format!("127.0.0.1 {port} ALL Route: {table}")),
                "{source:?}: {listeners:#?}"
            );
            let routes = show(&["route", "--name", &table]).await?;
            let expected = format!("{table} echo.test:{port} echo.test /* echo.shop");
            ensure!(routes.contains(&expected), "{source:?}: {routes:#?}");
            let cluster = format!("outbound|80|v1|{host}");
            let endpoints = show(&["endpoint", "--cluster", &cluster]).await?;
            let expected = format!("{} HEALTHY {cluster}", scene.one.address);
            ensure!(endpoints.get(1) == Some(&expected), "{source:?}: {endpoints:#?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istiods_metrics_move() -> Result<()> {
    scene(async |scene| {
        furnished(scene, "on").await?;
        scene.row("the gateway is in sync", synced).await?;
        let moving = [
            "pilot_xds_pushes{type=\"rds\"}",
            "pilot_proxy_convergence_time_count",
            "pilot_xds_push_time_count{type=\"rds\"}",
            "pilot_xds_send_time_count",
            "pilot_xds_config_size_bytes_count{type=\"rds\"}",
            "pilot_k8s_cfg_events{event=\"update\",type=\"VirtualService\"}",
            "pilot_inbound_updates{type=\"config\"}",
            "pilot_push_triggers{type=\"config\"}",
            "pilot_debounce_time_count",
            "pilot_pushcontext_init_seconds_count",
        ];
        let mut before = Vec::new();
        for name in moving {
            before.push(scene.metric(name).await?);
        }
        furnished(scene, "better").await?;
        for (name, before) in moving.into_iter().zip(before) {
            eventually(&format!("{name} grows from {before}"), PATIENCE, async || {
                (scene.metric(name).await.ok()? > before).then_some(())
            })
            .await?;
        }
        // The gateway has no Service; the ConfigMap is none of configuration's kinds.
        for (name, expected) in [
            ("pilot_services", 2.0),
            ("pilot_virt_services", 1.0),
            ("pilot_xds{version=\"1.32.0\"}", 1.0),
            ("pilot_vservice_dup_domain", 0.0),
            ("pilot_k8s_cfg_events{event=\"add\",type=\"VirtualService\"}", 1.0),
            ("pilot_k8s_reg_events{event=\"add\",type=\"Services\"}", 2.0),
            ("pilot_total_xds_internal_errors", 0.0),
            ("citadel_server_csr_count", 0.0),
        ] {
            let found = scene.metric(name).await?;
            ensure!(found == expected, "{name}: {found}, not {expected}");
        }
        let text = scene.lateend.monitoring("/metrics").await?.body;
        for name in [
            "pilot_info{version=\"1.32.0-",
            "istio_build{component=\"pilot\",tag=\"1.32.0-",
        ] {
            ensure!(
                text.lines().any(|line| line.starts_with(name) && line.ends_with(" 1")),
                "{name}: {text}"
            );
        }
        for name in [
            "citadel_server_root_cert_expiry_timestamp",
            "citadel_server_root_cert_expiry_seconds",
            "citadel_server_cert_chain_expiry_timestamp",
            "istiod_uptime_seconds",
            "process_resident_memory_bytes",
        ] {
            ensure!(scene.metric(name).await? > 0.0, "{name}: {text}");
        }
        scene.world.remove("echo.yaml")?;
        eventually("a deletion is counted", PATIENCE, async || {
            let name = "pilot_k8s_cfg_events{event=\"delete\",type=\"VirtualService\"}";
            (scene.metric(name).await.ok()? == 1.0).then_some(())
        })
        .await
    })
    .await
}
