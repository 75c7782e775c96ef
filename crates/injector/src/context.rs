//! What the built-in templates read: the pod without what was injected before, and the settings.

use std::collections::BTreeMap;

use lateen_api::mesh::ProxyConfig;
use lateen_api::mesh::proxy_config::InboundInterceptionMode;
use serde_json::Value;

use crate::annotations::{INTERCEPTION_MODE, NATIVE, STATUS_PORT};
use crate::owner::Owner;
use crate::pod;
use crate::settings::InjectionSettings;

/// The user ID that the proxy runs with, and that redirection leaves alone.
pub(crate) const PROXY_UID: i64 = 1337;

/// OpenShift's ranges of IDs that a namespace's pods may have.
const UID_RANGE: &str = "openshift.io/sa.scc.uid-range";
const GROUPS: &str = "openshift.io/sa.scc.supplemental-groups";

/// What the built-in templates read.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a InjectionSettings,
    /// The pod as its user wrote it.
    pub(crate) pod: &'a Value,
    pub(crate) owner: &'a Owner,
    pub(crate) proxy_config: &'a ProxyConfig,
    /// Whether the sidecar is an init container.
    pub(crate) native: bool,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
}

impl<'a> Context<'a> {
    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        pod::annotation(self.pod, key)
    }

    /// A label that says something.
    pub(crate) fn label(&self, key: &str) -> Option<&'a str> {
        pod::label(self.pod, key).filter(|value| !value.is_empty())
    }

    /// An annotation, or the value of the installation.
    pub(crate) fn annotation_or(&self, key: &str, path: &str) -> String {
        match self.annotation(key) {
            Some(value) => value.to_owned(),
            None => self.settings.values.text(path),
        }
    }

    /// An annotation as a number, or the value of the installation.
    pub(crate) fn number_or(&self, key: &str, path: &str, other: i64) -> i64 {
        let asked = self.annotation(key).and_then(|value| value.parse().ok());
        asked.unwrap_or_else(|| self.settings.values.number_or(path, other))
    }

    /// `REDIRECT`, `TPROXY` or `NONE`.
    pub(crate) fn interception_mode(&self) -> &'a str {
        let mesh: &'static str = self.proxy_config.interception_mode.as_str();
        self.annotation(INTERCEPTION_MODE).unwrap_or(mesh)
    }

    pub(crate) fn is_tproxy(&self) -> bool {
        self.interception_mode() == InboundInterceptionMode::Tproxy.as_str()
    }

    /// The names of the application's containers.
    pub(crate) fn app_containers(&self) -> Vec<&'a str> {
        let containers = pod::list(self.pod, pod::CONTAINERS).iter().map(pod::name);
        containers.filter(|name| *name != pod::PROXY).collect()
    }

    /// Whether CNI does the redirection.
    pub(crate) fn cni(&self) -> bool {
        self.settings.values.flag("pilot.cni.enabled")
    }

    /// Whether the application's containers are to wait for the proxy.
    pub(crate) fn holds_application(&self) -> bool {
        self.proxy_config.hold_application_until_proxy_starts == Some(true)
            || self
                .settings
                .values
                .flag("global.proxy.holdApplicationUntilProxyStarts")
    }
}

/// Whether this pod's sidecar is an init container.
pub(crate) fn is_native(settings: &InjectionSettings, pod: &Value) -> bool {
    match pod::annotation(pod, NATIVE).filter(|asked| !asked.is_empty()) {
        Some("false") => false,
        Some(_) => true,
        None => settings.native_sidecars,
    }
}

/// The agent's port: where probes and metrics are asked for.
pub(crate) fn status_port(pod: &Value, proxy_config: &ProxyConfig) -> i64 {
    let asked = pod::annotation(pod, STATUS_PORT).and_then(|port| port.trim().parse::<u16>().ok());
    match asked {
        Some(port) if port != 0 => i64::from(port),
        _ => i64::from(proxy_config.status_port),
    }
}

/// User and group ID of the proxy. On OpenShift the last ones that the namespace's pods may have: applications get the
/// first.
pub(crate) fn proxy_ids(namespace: Option<&BTreeMap<String, String>>) -> (i64, i64) {
    let of = |key: &str| namespace?.get(key).filter(|value| !value.is_empty());
    let uid = of(UID_RANGE).and_then(|range| last_id(range));
    let groups = of(GROUPS).or_else(|| of(UID_RANGE));
    let gid = groups.and_then(|groups| last_id(groups.split(',').next()?));
    (uid.unwrap_or(PROXY_UID), gid.unwrap_or(PROXY_UID))
}

/// The last ID of `first/count` or `first-last`.
fn last_id(range: &str) -> Option<i64> {
    if let Some((first, count)) = range.split_once('/') {
        let (first, count): (u32, u32) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
        return Some(i64::from(first) + i64::from(count) - 1);
    }
    let (_, last) = range.split_once('-')?;
    last.trim().parse::<u32>().ok().map(i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_last_that_the_namespace_allows() {
        let ids = |pairs: &[(&str, &str)]| {
            let annotations = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            proxy_ids(Some(&annotations.collect()))
        };
        assert_eq!(ids(&[(UID_RANGE, "1000/100"), (GROUPS, "5-9,20/2")]), (1099, 9));
        assert_eq!(ids(&[(UID_RANGE, "1000/100")]), (1099, 1099));
        assert_eq!(ids(&[(UID_RANGE, "many")]), (1337, 1337));
        assert_eq!(proxy_ids(None), (1337, 1337));
    }
}
