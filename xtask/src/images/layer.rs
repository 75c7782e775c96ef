//! One layer of an image: a tar archive whose bytes depend on nothing but what is put in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Files by the path they have in the image, without the leading slash. Sorted, so that the archive is.
#[derive(Default)]
pub(super) struct Layer {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    what: What,
    mode: u32,
    owner: u64,
}

enum What {
    Folder,
    Bytes(Vec<u8>),
    File(PathBuf),
    Link(String),
}

/// A file whose hash and size are known.
pub(super) struct Blob {
    pub(super) path: PathBuf,
    /// Lower-case hex of its SHA-256.
    pub(super) sha256: String,
    pub(super) size: u64,
}

impl Layer {
    /// A folder of root's, and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        self.folder_of(path, 0o755, 0);
    }

    /// A folder of `owner`, user and group; those above it are root's.
    pub(super) fn folder_of(&mut self, path: &str, mode: u32, owner: u64) {
        let what = What::Folder;
        self.put(path, Entry { what, mode, owner });
    }

    /// A file of root's that everyone may read.
    pub(super) fn bytes(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        let what = What::Bytes(bytes.into());
        self.put(
            path,
            Entry {
                what,
                mode: 0o644,
                owner: 0,
            },
        );
    }

    /// A file of this machine, with the permissions that it has here.
    pub(super) fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        let meta = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        let executable = meta.permissions().mode() & 0o111 != 0;
        self.put(
            path,
            Entry {
                what: What::File(from.to_path_buf()),
                mode: if executable { 0o755 } else { 0o644 },
                owner: 0,
            },
        );
        Ok(())
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        let what = What::Link(target.to_owned());
        self.put(
            path,
            Entry {
                what,
                mode: 0o777,
                owner: 0,
            },
        );
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.entries.entry(path[..slash].to_owned()).or_insert(Entry {
                what: What::Folder,
                mode: 0o755,
                owner: 0,
            });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The files of this machine that go in, with their paths in the image.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.entries.iter().filter_map(|(path, entry)| match &entry.what {
            What::File(from) => Some((path.as_str(), from.as_path())),
            _ => None,
        })
    }

    /// Writes it below `folder`, under the name of its hash.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn write(&self, folder: &Path) -> Result<Blob> {
        let work = tempfile::NamedTempFile::new_in(folder).context("cannot make a temporary file")?;
        let writer = Hashing::new(BufWriter::new(work.as_file().try_clone()?));
        let mut tar = tar::Builder::new(writer);
        for (path, entry) in &self.entries {
            append(&mut tar, path, entry).with_context(|| format!("cannot pack {path}"))?;
        }
        let (mut inner, sha256, size) = tar.into_inner().context("cannot end the archive")?.end();
        inner.flush().context("cannot write the archive")?;
        let path = folder.join(&sha256);
        work.persist(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Blob { path, sha256, size })
    }
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, entry: &Entry) -> Result<()> {
    let mut header = header(entry.mode, entry.owner);
    match &entry.what {
        What::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{path}/"), io::empty())?;
        }
        What::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())?;
        }
        What::File(from) => {
            let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
            header.set_size(file.metadata()?.len());
            tar.append_data(&mut header, path, file)?;
        }
        What::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

/// A header with no time and no names in it.
pub(super) fn header(mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Hashes what goes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn end(self) -> (W, String, u64) {
        (self.inner, hex(&self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf)?;
        self.hash.update(&buf[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
/// The SHA-256 of a file's bytes.
pub(super) fn sha256(mut from: impl io::Read) -> io::Result<String> {
    let mut hashing = Hashing::new(io::sink());
    io::copy(&mut from, &mut hashing)?;
    Ok(hashing.end().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(order: &[&str]) -> Layer {
        let mut layer = Layer::default();
        for path in order {
            layer.bytes(path, *path);
        }
        layer.folder_of("/var/lib/mine", 0o750, 1337);
        layer.link("usr/bin/alias", "tool");
        layer
    }

    #[test]
    fn the_same_files_make_the_same_bytes_whatever_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let one = layer(&["etc/a", "usr/bin/tool"]).write(folder.path()).unwrap();
        let two = layer(&["usr/bin/tool", "etc/a"]).write(folder.path()).unwrap();
        assert_eq!(one.sha256, two.sha256);
        let file = File::open(&one.path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), one.size);
        assert_eq!(sha256(file).unwrap(), one.sha256);
    }

    #[test]
    fn an_archive_has_every_folder_owners_and_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let blob = layer(&["etc/a"]).write(folder.path()).unwrap();
        let mut archive = tar::Archive::new(File::open(blob.path).unwrap());
        let found: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 0);
                let path = entry.path().unwrap().display().to_string();
                format!("{path} {:o} {}", header.mode().unwrap(), header.uid().unwrap())
            })
            .collect();
        assert_eq!(
            found,
            [
                "etc/ 755 0",
                "etc/a 644 0",
                "usr/ 755 0",
                "usr/bin/ 755 0",
                "usr/bin/alias 777 0",
                "var/ 755 0",
                "var/lib/ 755 0",
                "var/lib/mine/ 750 1337",
            ]
        );
    }
}
