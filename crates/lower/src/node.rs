//! Proxies from what they say of themselves, and what they would say, from their pods.
//!
//! [`proxy_from_node`] reads the Node of a discovery request: Istio's node ID `<type>~<address>~<pod>.<namespace>~<domain>`
//! and the metadata that Istio's agent sends. What Kubernetes knows of the pod (labels, place) counts before what the proxy
//! says. Sizes are bounded: a request is refused before anything of it is kept.
//!
//! [`node_for_pod`] makes the Node that Istio's agent would send for a pod, to tell without a running proxy what it would get.

mod parse;
mod pod;

pub use parse::{NodeError, proxy_from_node};
pub use pod::{PodNode, kind_of_pod, node_for_pod};
