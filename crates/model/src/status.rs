//! What is to be told of objects of the Gateway API: their `status`, as far as it follows from the objects. Times, and
//! what other controllers wrote beside it, are added by who writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_names::ObjectRef;

/// The statuses of all objects of which something is to be told.
pub type Statuses = BTreeMap<ObjectRef, Status>;

/// The status of one object. Its kind decides which of the parts it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The object's `metadata.generation`, of which all of this is true.
    pub generation: i64,
    /// Conditions of the whole object: GatewayClass, Gateway, ListenerSet.
    pub conditions: Vec<Condition>,
    /// What a GatewayClass can do, sorted.
    pub features: &'static [&'static str],
    /// Listeners in the object's order: Gateway, ListenerSet.
    pub listeners: Option<Vec<ListenerStatus>>,
    /// Where a Gateway is reached; empty while nothing is known of it, which is no reason to forget what was told before.
    pub addresses: Vec<Address>,
    /// How many ListenerSets add listeners to a Gateway.
    pub listener_sets: usize,
    /// Conditions at each parent of a route, or at each ancestor of a policy, that is Lateen's.
    pub parents: Option<Vec<ParentStatus>>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type, e.g. `Accepted`.
    pub kind: &'static str,
    /// Whether it is `True`.
    pub holds: bool,
    /// Why, in one word, as the Gateway API or Istio defines it.
    pub reason: &'static str,
    /// Why, for people.
    pub message: Arc<str>,
}

/// A listener's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: Arc<str>,
    /// The kinds of routes, all of the Gateway API's group, that may attach.
    pub kinds: Vec<&'static str>,
    /// How many routes have attached.
    pub routes: usize,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// Where a Gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// At an IP address.
    Ip(Arc<str>),
    /// By a name.
    Host(Arc<str>),
}

/// What holds of a route or policy at one parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent, as the object names it.
    pub parent: ParentRef,
    /// The controller that says so, e.g. `istio.io/gateway-controller`.
    pub controller: Arc<str>,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// A parent as an object names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// API group; empty for core.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace; `None` where the object leaves it out.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Section: a listener, or a port by name.
    pub section: Option<Arc<str>>,
    /// Port.
    pub port: Option<i32>,
}

impl Condition {
    /// A condition that holds.
    pub fn holds(kind: &'static str, reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }
}
