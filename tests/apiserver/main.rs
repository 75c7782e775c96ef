//! A real API server: what `lateend` makes of the cluster behind it.

mod changes;
mod explain;
mod load;
mod lost;
mod proxy;
mod rights;
mod same;
mod scene;
mod server;
