//! Lateen on a real cluster, as its users have it: installed by Helm, configured by kubectl.

mod installed;
mod traffic;
