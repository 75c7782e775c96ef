//! GatewayClass: who looks after the Gateways that name it.

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::common::ParametersReference;
use super::status::GatewayClassStatus;
use crate::serde_util::is_default;

/// The controller of a class of Gateways.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GatewayClass",
    plural = "gatewayclasses",
    status = "GatewayClassStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "A class of Gateways, and who looks after them."
)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// The name of the controller, such as `istio.io/gateway-controller`; fixed once set.
    pub controller_name: String,
    /// An object with parameters for the controller.
    #[serde(skip_serializing_if = "is_default")]
    pub parameters_ref: Option<ParametersReference>,
    /// A text for humans.
    #[serde(skip_serializing_if = "is_default")]
    pub description: Option<String>,
}
