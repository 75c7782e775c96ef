//! Modules within archives: a module may come compressed, or in a tar file, or both.

use std::io::Read;

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;

/// Name of the module in an image's layer (the `compat` variant of Solo's image specification).
const PLUGIN: &str = "plugin.wasm";
/// How deep archives may lie in one another.
const DEEPEST: usize = 4;

/// Whether the bytes begin as a module does: magic number and version.
pub(super) fn is_module(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes.starts_with(b"\0asm")
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// The module in a download: itself, or the only file of an archive.
///
/// # Errors
/// When there is none, or it is larger than `largest` bytes.
pub(super) fn unpack(bytes: Vec<u8>, largest: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = bytes;
    for _ in 0..DEEPEST {
        if is_module(&bytes) {
            return Ok(bytes);
        }
        bytes = if is_gzip(&bytes) {
            inflate(&bytes, largest)?
        } else if is_tar(&bytes) {
            file(&bytes, |_| true, largest)?.context("the archive is empty")?
        } else {
            break;
        };
    }
    bail!("what was downloaded is no WebAssembly module, nor an archive with one");
}

/// The module in a layer of an image.
///
/// # Errors
/// When there is none, or it is larger than `largest` bytes.
pub(super) fn plugin(layer: &[u8], largest: usize) -> anyhow::Result<Vec<u8>> {
    let inflated;
    let layer = match is_gzip(layer) {
        true => {
            inflated = inflate(layer, largest)?;
            &inflated
        }
        false => layer,
    };
    let named = |path: &str| path.rsplit('/').next() == Some(PLUGIN);
    let module = file(layer, named, largest)?.with_context(|| format!("the image's last layer has no {PLUGIN}"))?;
    if !is_module(&module) {
        bail!("{PLUGIN} of the image is no WebAssembly module");
    }
    Ok(module)
}

fn inflate(bytes: &[u8], largest: usize) -> anyhow::Result<Vec<u8>> {
    limited(MultiGzDecoder::new(bytes), largest).context("gzip")
}

/// The first file of a tar archive whose path is wanted.
fn file(archive: &[u8], wanted: impl Fn(&str) -> bool, largest: usize) -> anyhow::Result<Option<Vec<u8>>> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().context("tar")? {
        let entry = entry.context("tar")?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            return Ok(Some(limited(entry, largest).context("tar")?));
        }
    }
    Ok(None)
}

/// Reads all, unless it is more than `largest` bytes: a small archive can unfold to any size.
fn limited(reader: impl Read, largest: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(largest).unwrap_or(u64::MAX);
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > largest {
        bail!("more than {largest} bytes");
    }
    Ok(bytes)
}
