//! Test support: the real `lateend` and real Envoys on loopback, with upstreams and load; a real Kubernetes node.
//!
//! Everything that is started here ends when its value is dropped, listens on ports of its own and keeps its files in a
//! temporary directory, so tests run side by side. Nothing waits for a time: [`eventually`] waits for a condition and
//! gives up at a deadline. Errors say what was waited for; logs of processes are kept until the world is dropped.

pub mod agent;
pub mod apiserver;
pub mod call;
pub mod cluster;
pub mod echo;
pub mod envoy;
pub mod fabric;
pub mod http;
pub mod lateend;
pub mod load;
pub mod pki;
pub mod ports;
pub mod process;
pub mod settle;
pub mod table;
pub mod tools;
pub mod upstream;
pub mod wait;
pub mod world;

pub use agent::GatewayAgent;
pub use apiserver::ApiServer;
pub use cluster::Cluster;
pub use envoy::Envoy;
pub use lateend::Lateend;
pub use load::{Load, Tally};
pub use upstream::Upstream;
pub use wait::{eventually, listens};
pub use world::World;
