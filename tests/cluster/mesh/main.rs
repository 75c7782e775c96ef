//! Lateen on a real cluster, as its users have it: installed by Helm, configured by kubectl. All tests share one cluster
//! and take turns at it, since most of them configure the same shop.

mod edge;
mod istios_tools;
mod mesh;
mod moving_in;
mod outages;
mod pods;
mod resilience;
mod shop;
mod traffic;
