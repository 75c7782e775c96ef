//! ReferenceGrant: leave to refer to objects of this namespace from another.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::serde_util::is_default;

/// Leave to refer to objects of this namespace from others.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1beta1",
    kind = "ReferenceGrant",
    plural = "referencegrants",
    namespaced,
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Leave to refer to objects of this namespace from others."
)]
#[serde(default, rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Who may refer; one of these is enough.
    #[serde(skip_serializing_if = "is_default")]
    pub from: Vec<ReferenceGrantFrom>,
    /// To what; one of these is enough.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Vec<ReferenceGrantTo>,
}

/// Who may refer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReferenceGrantFrom {
    /// The referrer's API group; empty for the core group.
    pub group: String,
    /// The referrer's kind.
    pub kind: String,
    /// The referrer's namespace.
    pub namespace: String,
}

/// To what may be referred.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReferenceGrantTo {
    /// The object's API group; empty for the core group.
    pub group: String,
    /// The object's kind.
    pub kind: String,
    /// The object's name; every object of the kind when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
}
