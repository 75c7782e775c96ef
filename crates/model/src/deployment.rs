//! The proxies that Gateways of the Gateway API ask for, as far as the objects say.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_names::ObjectKey;

/// What is to be deployed, by Gateway.
pub type Deployments = BTreeMap<ObjectKey, GatewayDeployment>;

/// The proxies of one Gateway: a Deployment, its Service and its account, and what users lay over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayDeployment {
    /// The Gateway's `metadata.uid`: what is made for it goes with it.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Arc<str>,
    /// The controller of its class, e.g. `istio.io/gateway-controller`.
    pub controller: Arc<str>,
    /// The revision or tag that the Gateway or else its namespace names (`istio.io/rev`).
    pub revision: Option<Arc<str>>,
    /// What `gateway.istio.io/controller-version` says.
    pub controller_version: Option<Arc<str>>,
    /// Name of the Deployment and of the Service.
    pub name: Arc<str>,
    /// Name of the service account.
    pub account: Arc<str>,
    /// Labels of everything that is made, beside those that name Gateway and class.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations of everything that is made.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// The Service's `type`.
    pub service_type: Arc<str>,
    /// The address that the Gateway asks its load balancer for.
    pub load_balancer_ip: Option<Arc<str>>,
    /// The listeners' ports; one for each number, in the order of the listeners.
    pub ports: Vec<GatewayPort>,
    /// Strategic merge patches in YAML by what they are laid over (`deployment`, `service`, `serviceAccount`,
    /// `horizontalPodAutoscaler`, `podDisruptionBudget`), in order: those of the class, then those of the Gateway.
    pub overlays: Vec<BTreeMap<Arc<str>, Arc<str>>>,
}

/// A port of a Gateway's Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPort {
    /// Its name: the listener's, made fit for a Service.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// The listener's protocol in lower case.
    pub protocol: Arc<str>,
}
