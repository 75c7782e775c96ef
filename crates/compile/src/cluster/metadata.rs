//! What clusters say about themselves to telemetry and to tools, under `istio`.

use lateen_names::ObjectKey;
use lateen_proto::envoy::config::core::v3::Metadata;
use lateen_proto::{Struct, Value};

use super::values;

/// Metadata under construction.
#[derive(Debug, Default)]
pub(crate) struct Istio(Struct);

impl Istio {
    fn set(&mut self, key: &str, value: Value) {
        self.0.fields.insert(key.to_owned(), value);
    }

    /// The services that are reached: host, name and namespace.
    pub(crate) fn services<'a>(&mut self, services: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
        let each = services.into_iter().map(|(host, name, namespace)| {
            values::nested(values::object([
                ("host", values::text(host)),
                ("name", values::text(name)),
                ("namespace", values::text(namespace)),
            ]))
        });
        self.set("services", values::list(each.collect()));
    }

    /// The DestinationRule that is in force, by the path of the API server.
    pub(crate) fn rule(&mut self, rule: &ObjectKey) {
        let namespace = rule.namespace.as_ref().map(|namespace| namespace.as_str());
        let path = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}",
            namespace.unwrap_or_default(),
            rule.name
        );
        self.text("config", &path);
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str, text: &str) {
        self.set(key, values::text(text));
    }

    /// A fact that is so.
    pub(crate) fn flag(&mut self, key: &str) {
        self.set(key, values::boolean(true));
    }

    /// As a cluster has it.
    pub(crate) fn into_metadata(self) -> Metadata {
        values::metadata("istio", self.0)
    }
}
