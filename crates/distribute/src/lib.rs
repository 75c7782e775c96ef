//! Classes of proxies, memoised compilation, push order and progress.
//!
//! A [`Distributor`] answers the one question of the xDS server: what should this proxy hold? Proxies whose facts are
//! equal form a class; every family of resources is compiled once per class, every input is built once as long as some
//! class lists it, and proxies of a class share one set. A new snapshot costs what differs from the one before, for each
//! class that it concerns, and one look at each proxy that is told of it; only proxies whose sets changed are woken.

mod directory;
mod distributor;
mod families;
mod progress;
mod rounds;
mod wave;

pub use distributor::{ConnectedProxy, Distributor, ReadProxy};
pub use families::{Families, Work};
pub use progress::{Progress, ProgressMetrics, Rejection};
