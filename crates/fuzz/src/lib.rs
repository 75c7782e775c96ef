//! What is fuzzed: a function for each parser that faces the network or what users write. Each takes any bytes and must
//! return; what must never come of them is asserted.
//!
//! `fuzz/` at the top of the repository runs them under libFuzzer (`cargo xtask fuzz`), and the test of this crate runs
//! each over its committed corpus, without instrumentation. An input that broke one becomes a file of the corpus.

#![allow(clippy::panic, reason = "a broken promise must end the run")]

mod configuration;
mod credentials;
mod discovery;

pub use configuration::{files, node, policy};
pub use credentials::{certificate, csr, jwt};
pub use discovery::discovery;

/// A function under test.
pub type Target = fn(&[u8]);

/// All of them, by the names that they have in `fuzz/fuzz_targets/` and `fuzz/corpus/`.
pub const TARGETS: [(&str, Target); 7] = [
    ("certificate", certificate),
    ("csr", csr),
    ("discovery", discovery),
    ("files", files),
    ("jwt", jwt),
    ("node", node),
    ("policy", policy),
];
