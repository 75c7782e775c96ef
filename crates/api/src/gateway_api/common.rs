//! References to other objects.

use serde::{Deserialize, Serialize};

use super::GROUP;
use crate::serde_util::is_default;

/// What a route attaches to: a Gateway, a ListenerSet, a Service or a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParentReference {
    /// The parent's API group; that of the Gateway API by default, empty for the core group.
    pub group: String,
    /// The parent's kind; `Gateway` by default.
    pub kind: String,
    /// The parent's namespace; the route's own when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
    /// The parent's name.
    pub name: String,
    /// One section of the parent: a listener's name, or a port's.
    #[serde(skip_serializing_if = "is_default")]
    pub section_name: Option<String>,
    /// One port of the parent; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
}

impl Default for ParentReference {
    fn default() -> Self {
        Self {
            group: GROUP.to_owned(),
            kind: "Gateway".to_owned(),
            namespace: None,
            name: String::new(),
            section_name: None,
            port: None,
        }
    }
}

/// Something that takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendObjectReference {
    /// Its API group; empty, the core group, by default.
    pub group: String,
    /// Its kind; `Service` by default.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the referrer's own when absent. Another one takes a ReferenceGrant there.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
    /// Its port, which a Service must have named here.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
}

impl Default for BackendObjectReference {
    fn default() -> Self {
        Self {
            group: String::new(),
            kind: "Service".to_owned(),
            name: String::new(),
            namespace: None,
            port: None,
        }
    }
}

/// Something that takes a share of the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendRef {
    /// Its API group; empty, the core group, by default.
    pub group: String,
    /// Its kind; `Service` by default.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the route's own when absent. Another one takes a ReferenceGrant there.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
    /// Its port, which a Service must have named here.
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
    /// Its share, in proportion to the sum of all weights of the rule; 1 by default, none at 0.
    pub weight: i32,
}

impl Default for BackendRef {
    fn default() -> Self {
        let BackendObjectReference {
            group,
            kind,
            name,
            namespace,
            port,
        } = BackendObjectReference::default();
        Self {
            group,
            kind,
            name,
            namespace,
            port,
            weight: 1,
        }
    }
}

/// A Secret, by default, that holds a certificate or a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretObjectReference {
    /// Its API group; empty, the core group, by default.
    pub group: String,
    /// Its kind; `Secret` by default.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the referrer's own when absent. Another one takes a ReferenceGrant there.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
}

impl Default for SecretObjectReference {
    fn default() -> Self {
        Self {
            group: String::new(),
            kind: "Secret".to_owned(),
            name: String::new(),
            namespace: None,
        }
    }
}

/// An object of any kind in any namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference {
    /// Its API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the referrer's own when absent. Another one takes a ReferenceGrant there.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
}

/// An object of any kind in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalObjectReference {
    /// Its API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// An object with parameters of a GatewayClass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParametersReference {
    /// Its API group; empty for the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; absent when its kind has none.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: Option<String>,
}

/// An object with parameters of a Gateway, in the same namespace.
pub type LocalParametersReference = LocalObjectReference;

/// Whether a Gateway is a default for routes, and whether a route wants the default Gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultScope {
    /// For all routes; all default Gateways.
    All,
    /// For none; none.
    None,
}
