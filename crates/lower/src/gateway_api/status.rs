//! What is told of the objects: conditions by the rules of the Gateway API, with the reasons that Istio gives.

use std::sync::Arc;

use lateen_api::gateway_api::ParentReference;
use lateen_model::status::{Condition, ListenerStatus, ParentRef};

/// Something that is wrong: in one word, as the Gateway API or Istio defines it, and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A condition that holds unless something is wrong.
pub(super) fn unless(fault: Option<&Fault>, kind: &'static str, reason: &'static str, message: &str) -> Condition {
    match fault {
        Some(fault) => Condition::fails(kind, fault.reason, fault.message.as_str()),
        None => Condition::holds(kind, reason, message),
    }
}

/// What became of a listener.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Why it is not taken.
    pub(super) accepted: Option<Fault>,
    /// What it refers to and cannot have.
    pub(super) resolved: Option<Fault>,
    /// Why proxies do not have it.
    pub(super) programmed: Option<Fault>,
    /// What it is in conflict with; it has no effect then.
    pub(super) conflict: Option<Fault>,
    /// The kinds of routes that may attach.
    pub(super) kinds: Vec<&'static str>,
    /// Whether kinds are allowed that cannot attach.
    pub(super) other_kinds: bool,
    /// Whether its port is to be opened, were all else well.
    pub(super) serves: bool,
    /// Whether nothing keeps it from serving.
    pub(super) valid: bool,
}

impl Verdict {
    /// Its part of the status.
    pub(super) fn status(&self, name: &str, routes: usize) -> ListenerStatus {
        let conditions = match &self.conflict {
            Some(conflict) => vec![
                Condition::fails("Accepted", conflict.reason, conflict.message.as_str()),
                Condition::holds("Conflicted", conflict.reason, conflict.message.as_str()),
                Condition::fails("Programmed", conflict.reason, conflict.message.as_str()),
            ],
            None => vec![
                unless(self.accepted.as_ref(), "Accepted", "Accepted", ""),
                Condition::fails("Conflicted", "NoConflicts", ""),
                unless(self.programmed.as_ref(), "Programmed", "Programmed", ""),
                match self.other_kinds {
                    true => Condition::fails(
                        "ResolvedRefs",
                        "InvalidRouteKinds",
                        "allowedRoutes.kinds has kinds of routes that cannot attach to this protocol; remove them",
                    ),
                    false => unless(self.resolved.as_ref(), "ResolvedRefs", "ResolvedRefs", ""),
                },
            ],
        };
        ListenerStatus {
            name: name.into(),
            kinds: self.kinds.clone(),
            routes,
            conditions,
        }
    }
}

/// Whether some, all or none of an object's listeners are valid: `Accepted` of the whole.
pub(super) fn by_listeners(valid: usize, of: usize) -> Result<&'static str, Fault> {
    match valid {
        0 if of > 0 => Err(Fault::new("ListenersNotValid", "none of the listeners is valid")),
        _ if valid < of => Ok("ListenersNotValid"),
        _ => Ok("Accepted"),
    }
}

/// A route's reference to a parent.
pub(super) fn parent_ref(from: &ParentReference) -> ParentRef {
    let text = |value: &Option<String>| value.as_deref().filter(|text| !text.is_empty()).map(Arc::<str>::from);
    ParentRef {
        group: from.group.as_str().into(),
        kind: from.kind.as_str().into(),
        namespace: text(&from.namespace),
        name: from.name.as_str().into(),
        section: text(&from.section_name),
        port: from.port.filter(|port| *port != 0),
    }
}
