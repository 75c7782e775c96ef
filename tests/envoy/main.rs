//! A real Envoy, steered by the real `lateend`, between real clients and servers: what happens to requests while
//! configuration changes, is wrong, or has nobody who reads it.

mod bad_input;
mod canary;
mod changes;
mod debug;
mod edge;
mod issuer;
mod on_demand;
mod restart;
mod rotation;
mod samples;
mod scene;
mod strangers;
mod virtual_hosts;
mod wasm;
