//! Helpers shared by the tiers of tests.
