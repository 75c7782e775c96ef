//! MeshNetworks: which endpoints are on which network, and the gateways between the networks.

use crate::serde_util::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which endpoints are on which network, and the gateways between the networks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshNetworks {
    /// The networks, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub networks: BTreeMap<String, Network>,
}

/// A network: its endpoints reach each other directly.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// What is on it.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Vec<NetworkEndpoints>,
    /// How others reach it.
    #[serde(skip_serializing_if = "is_default")]
    pub gateways: Vec<IstioNetworkGateway>,
}

/// Some endpoints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkEndpoints {
    /// Those with addresses in this range.
    #[serde(skip_serializing_if = "is_default")]
    pub from_cidr: Option<String>,
    /// Those of this cluster.
    #[serde(skip_serializing_if = "is_default")]
    pub from_registry: Option<String>,
}

/// Which endpoints a [`NetworkEndpoints`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NetworkEndpointsSource<'a> {
    /// `NetworkEndpoints::from_cidr` is set.
    FromCidr(&'a str),
    /// `NetworkEndpoints::from_registry` is set.
    FromRegistry(&'a str),
}

impl NetworkEndpoints {
    /// Which one of the exclusive fields is set; the first in the order of [`NetworkEndpointsSource`] if the CRD rule was bypassed.
    pub fn ne(&self) -> Option<NetworkEndpointsSource<'_>> {
        self.from_cidr
            .as_deref()
            .map(NetworkEndpointsSource::FromCidr)
            .or_else(|| self.from_registry.as_deref().map(NetworkEndpointsSource::FromRegistry))
    }
}

/// A gateway into a network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IstioNetworkGateway {
    /// The Service of the gateway, by its full name.
    #[serde(skip_serializing_if = "is_default")]
    pub registry_service_name: Option<String>,
    /// The address of the gateway.
    #[serde(skip_serializing_if = "is_default")]
    pub address: Option<String>,
    /// Its port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// Its place, as `region/zone/subzone`.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: String,
}

/// Where a gateway is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NetworkGatewayAddress<'a> {
    /// `IstioNetworkGateway::registry_service_name` is set.
    RegistryServiceName(&'a str),
    /// `IstioNetworkGateway::address` is set.
    Address(&'a str),
}

impl IstioNetworkGateway {
    /// Which one of the exclusive fields is set; the first in the order of [`NetworkGatewayAddress`] if the CRD rule was bypassed.
    pub fn gw(&self) -> Option<NetworkGatewayAddress<'_>> {
        self.registry_service_name
            .as_deref()
            .map(NetworkGatewayAddress::RegistryServiceName)
            .or_else(|| self.address.as_deref().map(NetworkGatewayAddress::Address))
    }
}
