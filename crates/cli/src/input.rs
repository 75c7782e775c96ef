//! Files that are named on the command line.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The text of a file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
