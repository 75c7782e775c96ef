//! Load for a control plane: fills a cluster with a synthetic mesh, plays its sidecars over delta ADS, changes the mesh and
//! measures what comes of it. It works with any control plane that speaks as istiod does.
//!
//! [`fill()`] and [`clear`] are about the cluster, [`run()`] is about the control plane; a [`Report`] becomes a table, JSON
//! and a plot.

mod fill;
mod fleet;
mod identity;
mod latency;
mod mesh;
mod plot;
mod process;
mod progress;
mod report;
mod run;
mod sidecar;
mod watch;
mod writer;

pub use fill::{clear, fill};
pub use identity::MutualTls;
pub use latency::Latency;
pub use mesh::{LABEL, Mesh, Shape};
pub use plot::{Growth, growth, svg};
pub use process::Sample;
pub use progress::Progress;
pub use report::{Phase, Report, Server};
pub use run::{Plan, phase, run};
pub use writer::{Access, Writer};
