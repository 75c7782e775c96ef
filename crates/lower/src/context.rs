//! What lowering a single object may look at beside the object itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_model::mesh::Mesh;
use lateen_model::{Diagnostic, ExportTo, Labels, Severity};
use lateen_names::{Hostname, InvalidName, Name, Namespace, ObjectKey, ObjectRef};

use crate::Kind;

/// The world as far as the lowering of one object may depend on it: when any of it changes, all objects are lowered
/// again. What depends on *other objects* is not here, but in the functions that are given those objects.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Settings of the mesh: root namespace, domain, default visibilities, and so on.
    pub mesh: &'a Mesh,
}

/// The identity of an object, checked: what every lowering needs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Kind, namespace and name.
    pub origin: ObjectRef,
    /// Namespace; of cluster-scoped kinds the root namespace.
    pub namespace: Namespace,
    /// Seconds since the epoch when the object was made; 0 where it does not say.
    pub created: i64,
}

impl<'a> Context<'a> {
    /// The namespace whose objects hold for the whole mesh.
    pub fn root_namespace(&self) -> &'a Namespace {
        &self.mesh.root_namespace
    }

    /// Suffix of service names, `cluster.local`.
    pub fn domain(&self) -> &'a str {
        &self.mesh.domain
    }

    /// The object's identity.
    ///
    /// # Errors
    /// When its name or namespace is none. The API server lets no such object in, files may hold one.
    pub fn meta(&self, kind: Kind, meta: &ObjectMeta) -> Result<Meta, InvalidName> {
        let key = key_of(meta)?;
        Ok(Meta {
            namespace: key
                .namespace
                .clone()
                .unwrap_or_else(|| self.mesh.root_namespace.clone()),
            origin: kind.reference(key),
            created: created(meta),
        })
    }

    /// A host as an object in `namespace` means it: short names (without dot) are services of that namespace, every
    /// other name stands for itself; lower case.
    ///
    /// # Errors
    /// When the text is no host name.
    pub fn host(&self, text: &str, namespace: &Namespace) -> Result<Hostname, InvalidName> {
        if text.starts_with('*') || text.contains('.') || text.contains(':') {
            return Hostname::lower(text);
        }
        Hostname::lower(&format!("{text}.{namespace}.svc.{}", self.mesh.domain))
    }

    /// Visibility as an object in `namespace` says it; `default` where it says nothing. `.` is the own namespace, `*`
    /// everybody, `~` nobody; names that are no namespaces are left out.
    pub fn export_to<S: AsRef<str>>(&self, list: &[S], namespace: &Namespace, default: &ExportTo) -> ExportTo {
        export_to(list, namespace).unwrap_or_else(|| match default {
            // The mesh's default is stored with `.` unresolved, as the (otherwise impossible) empty list.
            ExportTo::Namespaces(namespaces) if namespaces.is_empty() => ExportTo::Namespaces(vec![namespace.clone()]),
            other => other.clone(),
        })
    }
}

/// A list of visibilities; `None` for the empty list.
pub(crate) fn export_to<S: AsRef<str>>(list: &[S], namespace: &Namespace) -> Option<ExportTo> {
    let mut namespaces = Vec::new();
    let mut nobody = false;
    for entry in list {
        match entry.as_ref().trim() {
            "*" => return Some(ExportTo::All),
            "~" => nobody = true,
            "." => namespaces.push(namespace.clone()),
            name => namespaces.extend(Namespace::new(name)),
        }
    }
    if list.is_empty() {
        return None;
    }
    if namespaces.is_empty() && nobody {
        return Some(ExportTo::Nobody);
    }
    namespaces.sort();
    namespaces.dedup();
    Some(ExportTo::Namespaces(namespaces))
}

/// Namespace and name of an object.
///
/// # Errors
/// When one of them is missing or none.
pub fn key_of(meta: &ObjectMeta) -> Result<ObjectKey, InvalidName> {
    let namespace = meta
        .namespace
        .as_deref()
        .filter(|text| !text.is_empty())
        .map(Namespace::new)
        .transpose()?;
    Ok(ObjectKey {
        namespace,
        name: Name::new(meta.name.as_deref().unwrap_or_default())?,
    })
}

/// Seconds since the epoch when the object was made; 0 where it does not say.
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Labels as the model has them.
pub fn labels(map: Option<&BTreeMap<String, String>>) -> Labels {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
        .collect()
}

/// A diagnostic in one line.
pub fn diagnostic(
    object: &ObjectRef,
    field: &str,
    severity: Severity,
    code: &'static str,
    message: &str,
) -> Diagnostic {
    Diagnostic {
        object: object.clone(),
        field: field.into(),
        severity,
        code,
        message: message.into(),
    }
}
