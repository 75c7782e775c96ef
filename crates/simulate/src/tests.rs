//! One test for each rule of matching.

mod actions;
mod connections;
mod filters;
mod routing;
mod upstreams;
