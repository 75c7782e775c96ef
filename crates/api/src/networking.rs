//! The kinds of group `networking.istio.io`.

pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod proxy_config;
pub mod service_entry;
pub mod sidecar;
pub mod virtual_service;
pub mod workload_entry;
pub mod workload_group;

pub use self::destination_rule::{DestinationRule, DestinationRuleSpec};
pub use self::envoy_filter::{EnvoyFilter, EnvoyFilterSpec};
pub use self::gateway::{Gateway, GatewaySpec};
pub use self::proxy_config::{ProxyConfig, ProxyConfigSpec};
pub use self::service_entry::{ServiceEntry, ServiceEntrySpec};
pub use self::sidecar::{Sidecar, SidecarSpec};
pub use self::virtual_service::{VirtualService, VirtualServiceSpec};
pub use self::workload_entry::{WorkloadEntry, WorkloadEntrySpec};
pub use self::workload_group::{WorkloadGroup, WorkloadGroupSpec};
