//! Values: wrong ones are refused with a message that names them, Istio's mean what they mean to Istio.

use serde_json::{Value, json};

use lateen_tests::helm::{Helm, identity, text};

/// Chart, a value, and what the refusal says.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("base", "--set=defaultRevison=canary", &["'defaultRevison' not allowed"]),
    (
        "base",
        "--set=base.excludedCRDs={wasmplugins}",
        &["/base/excludedCRDs/0", "wasmplugins"],
    ),
    (
        "base",
        "--set=base.validationURL=http://plain",
        &["/base/validationURL"],
    ),
    (
        "lateen",
        "--set=autoscaleMinimum=3",
        &["'autoscaleMinimum' not allowed"],
    ),
    (
        "lateen",
        "--set-string=autoscaleMin=3",
        &["/autoscaleMin", "want integer"],
    ),
    (
        "lateen",
        "--set=pilot.replicaCount=many",
        &["/pilot/replicaCount", "want integer"],
    ),
    (
        "lateen",
        "--set=pilot.replicas=3",
        &["/pilot", "'replicas' not allowed"],
    ),
    ("lateen", "--set=autoscaleMax=1", &["/autoscaleMin"]),
    ("lateen", "--set=revision=Canary", &["/revision", "Canary"]),
    ("lateen", "--set=revision=default", &["/revision"]),
    ("lateen", "--set=revisionTags=prod", &["/revisionTags", "want array"]),
    ("lateen", "--set=revisionTags={prod,prod}", &["/revisionTags", "equal"]),
    (
        "lateen",
        "--set=global.proxy.loglevel=debug",
        &["/global/proxy", "'loglevel' not allowed"],
    ),
    (
        "lateen",
        "--set=global.proxy.logLevel=loud",
        &["/global/proxy/logLevel"],
    ),
    (
        "lateen",
        "--set=global.proxy.includeIPRanges=10.0.0.0",
        &["/global/proxy/includeIPRanges"],
    ),
    (
        "lateen",
        "--set=global.remotePilotAddress=10.1.2.3",
        &["/global/remotePilotAddress"],
    ),
    (
        "lateen",
        "--set=istiodRemote.enabled=true",
        &["'istiodRemote' not allowed"],
    ),
    ("lateen", "--set=traceSampling=101", &["/traceSampling", "100"]),
    (
        "lateen",
        "--set=sidecarInjectorWebhook.reinvocationPolicy=Always",
        &["/reinvocationPolicy", "IfNeeded"],
    ),
    (
        "lateen",
        "--set=sidecarInjectorWebhook.templates.mine.spec=1",
        &["/sidecarInjectorWebhook/templates/mine", "want string"],
    ),
    (
        "lateen",
        "--set=gatewayClasses.istio.pods.a=b",
        &["/gatewayClasses/istio", "'pods' not allowed"],
    ),
    (
        "lateen",
        "--set=resources.request.cpu=1",
        &["/resources", "'request' not allowed"],
    ),
    ("lateen", "--set=env.NOT-A-NAME=1", &["propertyName 'NOT-A-NAME'"]),
    (
        "lateen",
        "--set=env.EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API",
        &["global.certSigners"],
    ),
    ("gateway", "--set=replicas=2", &["'replicas' not allowed"]),
    (
        "gateway",
        "--set=service.type=Loadbalancer",
        &["/service/type", "LoadBalancer"],
    ),
    ("gateway", "--set=service.ports=null", &["/service", "ports"]),
    ("gateway", "--set=service.ports[0].port=99999", &["/service/ports/0"]),
    ("gateway", "--set=kind=StatefulSet", &["/kind", "DaemonSet"]),
    ("cni", "--set=cniBinDir=opt/cni/bin", &["/cniBinDir"]),
    ("cni", "--set=cniConfFileName=10-net.yaml", &["/cniConfFileName"]),
    ("cni", "--set=ambient.enabled=true", &["/ambient/enabled"]),
];

#[test]
fn wrong_values_are_refused_by_name() {
    let Some(helm) = Helm::find("the refusal of wrong values") else {
        return;
    };
    for (chart, argument, expected) in WRONG {
        let Err(said) = helm.template("release", chart, "istio-system", &[argument]) else {
            panic!("{chart} takes {argument}");
        };
        for part in *expected {
            assert!(said.contains(part), "{chart} {argument}: {part:?} is not in {said}");
        }
    }
}

fn find<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| identity(object) == wanted)
        .unwrap_or_else(|| panic!("no {wanted}"))
}

fn document(object: &Value, key: &str) -> Value {
    serde_yaml::from_str(object["data"][key].as_str().unwrap()).unwrap()
}

#[test]
fn values_below_pilot_are_those_at_the_top_and_win() {
    let Some(helm) = Helm::find("values below pilot") else {
        return;
    };
    let arguments = [
        "--set=autoscaleEnabled=true",
        "--set=pilot.autoscaleEnabled=false",
        "--set=pilot.replicaCount=3",
        "--set=pilot.env.PILOT_TRACE=yes",
        "--set=pilot.cni.enabled=true",
        "--set=pilot.image=registry.example/mine:7",
    ];
    let objects = helm.objects("lateen", "istio-system", &arguments);
    let deployment = find(&objects, "Deployment istio-system/istiod");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/mine:7");
    assert!(
        container["env"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "PILOT_TRACE", "value": "yes"}))
    );
    assert!(!objects.iter().any(|object| object["kind"] == "HorizontalPodAutoscaler"));
    let values = document(
        find(&objects, "ConfigMap istio-system/istio-sidecar-injector"),
        "values",
    );
    assert_eq!(values["pilot"]["cni"]["enabled"], true);
    assert_eq!(values["pilot"]["env"]["PILOT_TRACE"], "yes");
}

#[test]
fn mesh_config_is_laid_over_what_the_chart_sets() {
    let Some(helm) = Helm::find("MeshConfig in the chart") else {
        return;
    };
    let arguments = [
        "--set=revision=canary",
        "--set=meshConfig.trustDomain=shop.example",
        "--set=meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true",
        "--set=meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY",
        "--set=global.meshID=north",
        "--set=global.meshNetworks.west.endpoints[0].fromRegistry=west",
        "--set=traceSampling=0.5",
        "--set=telemetry.enabled=false",
    ];
    let objects = helm.objects("lateen", "istio-system", &arguments);
    let map = find(&objects, "ConfigMap istio-system/istio-canary");
    assert_eq!(
        document(map, "mesh"),
        json!({
            "defaultConfig": {
                "discoveryAddress": "istiod-canary.istio-system.svc:15012",
                "holdApplicationUntilProxyStarts": true,
                "meshId": "north",
                "tracing": {"sampling": 0.5},
            },
            "enablePrometheusMerge": true,
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "rootNamespace": "istio-system",
            "trustDomain": "shop.example",
        })
    );
    assert_eq!(
        document(map, "meshNetworks"),
        json!({"networks": {"west": {"endpoints": [{"fromRegistry": "west"}]}}})
    );
}

#[test]
fn images_are_pulled_from_where_the_values_say() {
    let Some(helm) = Helm::find("images") else { return };
    let version = env!("CARGO_PKG_VERSION");
    let image = |chart: &str, arguments: &[&str]| -> String {
        let objects = helm.objects(chart, "istio-system", arguments);
        let workload = objects
            .iter()
            .find(|object| object.pointer("/spec/template").is_some())
            .unwrap();
        text(workload, "/spec/template/spec/containers/0/image").to_owned()
    };
    let elsewhere = ["--set=global.hub=registry.example/mesh", "--set-string=global.tag=7"];
    assert_eq!(image("lateen", &[]), format!("ghcr.io/lateen-mesh/lateend:{version}"));
    assert_eq!(image("lateen", &elsewhere), "registry.example/mesh/lateend:7");
    assert_eq!(image("cni", &[]), format!("ghcr.io/lateen-mesh/proxy:{version}"));
    assert_eq!(image("cni", &["--set=hub=a/b", "--set=tag=1.2"]), "a/b/proxy:1.2");
    assert_eq!(image("gateway", &[]), "auto");
    let objects = helm.objects("lateen", "istio-system", &elsewhere);
    let values = document(
        find(&objects, "ConfigMap istio-system/istio-sidecar-injector"),
        "values",
    );
    let global = &values["global"];
    assert_eq!(
        (&global["hub"], &global["tag"]),
        (&json!("registry.example/mesh"), &json!("7"))
    );
}

#[test]
fn log_levels_of_istio_are_understood() {
    let Some(helm) = Helm::find("log levels") else { return };
    for (given, expected) in [
        ("info", "info"),
        ("default:debug", "debug"),
        (r"all:none\,ads:debug", "off"),
        ("ads:debug", "info"),
        (r"default:warn\,lateen_xds=debug", "warn,lateen_xds=debug"),
    ] {
        let objects = helm.objects(
            "lateen",
            "istio-system",
            &[&format!("--set=global.logging.level={given}")],
        );
        let deployment = find(&objects, "Deployment istio-system/istiod");
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap();
        assert!(
            env.contains(&json!({"name": "LATEEN_LOG", "value": expected})),
            "{given}: {env:?}"
        );
    }
}

#[test]
fn webhooks_fail_open_on_installation_and_are_left_alone_on_upgrade() {
    let Some(helm) = Helm::find("the failure policy of validation") else {
        return;
    };
    let policy = |chart: &str, arguments: &[&str]| -> Value {
        let objects = helm.objects(chart, "istio-system", arguments);
        let found = objects
            .iter()
            .find(|object| object["kind"] == "ValidatingWebhookConfiguration");
        found.unwrap()["webhooks"][0]["failurePolicy"].clone()
    };
    for chart in ["base", "lateen"] {
        assert_eq!(policy(chart, &[]), "Ignore");
        assert_eq!(policy(chart, &["--is-upgrade"]), Value::Null);
        assert_eq!(policy(chart, &["--set=base.validationFailurePolicy=Fail"]), "Fail");
        assert_eq!(policy(chart, &["--set=base.validationCABundle=QUJD"]), "Fail");
    }
}

#[test]
fn a_gateway_is_what_its_values_make_it() {
    let Some(helm) = Helm::find("a gateway's values") else {
        return;
    };
    let arguments = [
        "--set=name=istio-ingressgateway",
        "--set=revision=canary",
        "--set=env.A=1",
        "--set=kind=DaemonSet",
        "--set=service.type=NodePort",
        "--set=service.externalTrafficPolicy=Local",
        "--set=service.annotations.a=b",
    ];
    let objects = helm.objects("gateway", "edge", &arguments);
    let workload = find(&objects, "DaemonSet edge/istio-ingressgateway");
    let template = &workload["spec"]["template"];
    assert_eq!(
        template["metadata"]["annotations"]["inject.istio.io/templates"],
        "gateway"
    );
    let labels = &template["metadata"]["labels"];
    assert_eq!(
        (&labels["istio"], &labels["istio.io/rev"]),
        (&json!("ingressgateway"), &json!("canary"))
    );
    assert_eq!(labels["sidecar.istio.io/inject"], "true");
    assert_eq!(
        template["spec"]["containers"][0]["env"],
        json!([{"name": "A", "value": "1"}])
    );
    assert!(!objects.iter().any(|object| object["kind"] == "HorizontalPodAutoscaler"));
    let service = find(&objects, "Service edge/istio-ingressgateway");
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(service["metadata"]["annotations"], json!({"a": "b"}));
    let ports = |objects: &[Value]| -> Vec<u64> {
        let service = objects.iter().find(|object| object["kind"] == "Service").unwrap();
        let ports = service["spec"]["ports"].as_array().unwrap().iter();
        ports.map(|port| port["port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports(&objects), [15021, 80, 443]);
    let between = helm.objects("gateway", "edge", &["--set=networkGateway=west"]);
    assert_eq!(ports(&between), [15021, 15443, 15012, 15017]);
    let service = find(&between, "Service edge/gateway");
    assert_eq!(service["metadata"]["labels"]["topology.istio.io/network"], "west");
}
