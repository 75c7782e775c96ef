//! Names of clusters in statistics.

use lateen_model::service::Port;

/// What stands for a service in a name.
pub(crate) struct Of<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    /// Services of Kubernetes have a short name; others only their host.
    pub(crate) kubernetes: bool,
}

/// The name of a cluster's statistics: the cluster's own, or what the mesh's pattern makes of the service; with the
/// delimiter by which Istio's dashboards tell names of hosts apart from what follows.
pub(crate) fn name(pattern: &str, cluster: &str, service: &Of<'_>, subset: &str, port: (&Port, u16)) -> String {
    if pattern.is_empty() {
        return format!("{cluster};");
    }
    let (port, target) = port;
    let short = if service.kubernetes {
        format!("{}.{}", service.name, service.namespace)
    } else {
        service.host.to_owned()
    };
    let name = if service.kubernetes { service.name } else { service.host };
    let mut text = pattern
        .replace("%SERVICE%", &short)
        .replace("%SERVICE_NAME%", name)
        .replace("%SERVICE_FQDN%", service.host)
        .replace("%SUBSET_NAME%", subset)
        .replace("%TARGET_PORT%", &target.to_string())
        .replace("%SERVICE_PORT%", &port.number.to_string())
        .replace("%SERVICE_PORT_NAME%", &port.name);
    text.push(';');
    text
}
