//! What was certified, and what was refused: one line of JSON each, for whoever must answer later who had which identity.
//!
//! Failure policy: a line that cannot be written is lost, counted and logged; nobody is refused a certificate for it. A
//! writer of its own keeps a slow disk from holding up callers.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use prometheus::IntCounter;
use serde::Serialize;
use tracing::warn;

/// Lines that may wait for the disk.
const WAITING: usize = 8192;

/// What became of a request for a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When, in RFC 3339.
    pub time: String,
    /// Always `certificate`: the line's kind, for logs that hold others.
    pub event: &'static str,
    /// `issued` or `refused`.
    pub outcome: &'static str,
    /// Why it was refused, in one word; as the metrics have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Why it was refused, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was certified, or was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Who asked, as proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Who it claimed to be without proving it, where nothing was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// `token` or `certificate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<&'static str>,
    /// The token's issuer, or the certificate's serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proved_by: Option<String>,
    /// The pod that the token is bound to, with its UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Where the request came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Serial number of the certificate, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When it ends, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// Where lines go. Clones share it.
#[derive(Clone, Default)]
pub struct AuditLog(Option<SyncSender<String>>);

/// A file that is appended to, and opened anew when it was moved away.
struct Appended {
    path: PathBuf,
    file: Option<std::fs::File>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditLog").field(&self.0.is_some()).finish()
    }
}

/// A time as lines have it.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl AuditLog {
    /// Appends lines to a file, which only its owner may read. When it is renamed, the next line begins a new one.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn to_file(path: &Path, lost: IntCounter) -> io::Result<Self> {
        let mut appended = Appended {
            path: path.to_owned(),
            file: None,
        };
        appended.current()?;
        Self::to_writer(appended, lost)
    }

    /// Writes lines there, whole and one after the other.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn to_writer(mut to: impl Write + Send + 'static, lost: IntCounter) -> io::Result<Self> {
        let (lines, arriving): (_, Receiver<String>) = sync_channel(WAITING);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            let mut failing = false;
            for line in arriving {
                match to.write_all(line.as_bytes()).and_then(|()| to.flush()) {
                    Ok(()) => failing = false,
                    Err(error) => {
                        lost.inc();
                        if !std::mem::replace(&mut failing, true) {
                            warn!(%error, "lines of the audit log are lost");
                        }
                    }
                }
            }
        })?;
        Ok(Self(Some(lines)))
    }

    /// Writes a line. Whether it will be: the disk may be too slow.
    pub(crate) fn write(&self, record: &Record) -> bool {
        let Some(lines) = &self.0 else { return true };
        let Ok(mut line) = serde_json::to_string(record) else {
            return false;
        };
        line.push('\n');
        lines.try_send(line).is_ok()
    }
}

impl Appended {
    fn current(&mut self) -> io::Result<&mut std::fs::File> {
        use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
        let there = std::fs::metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        let open = match &self.file {
            Some(file) => file.metadata().ok().map(|meta| (meta.dev(), meta.ino())),
            None => None,
        };
        if open.is_none() || open != there {
            let mut options = std::fs::OpenOptions::new();
            self.file = Some(options.create(true).append(true).mode(0o600).open(&self.path)?);
        }
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current()?.flush()
    }
}
