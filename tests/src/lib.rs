//! Helpers shared by the tiers of tests.

pub mod helm;
