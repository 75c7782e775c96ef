//! What passes between pods, byte for byte.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::Cluster;
use crate::wait::eventually;

/// A recording of the bridge that all pods of the node are on.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    cluster: Cluster,
    file: std::path::PathBuf,
}

/// One TCP segment with something in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// From where.
    pub source: std::net::SocketAddrV4,
    /// To where.
    pub destination: std::net::SocketAddrV4,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Whether it begins a TLS record of a version in use: handshake, alert, change of cipher or data.
    pub fn begins_tls_record(&self) -> bool {
        matches!(self.payload.as_slice(), [20..=23, 3, 1..=4, ..])
    }

    /// Whether `text` is in it, readable.
    pub fn shows(&self, text: &str) -> bool {
        let text = text.as_bytes();
        !text.is_empty() && self.payload.windows(text.len()).any(|part| part == text)
    }
}

impl Capture {
    pub(super) async fn start(cluster: &Cluster, filter: &str) -> Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = cluster.state().join(format!("capture-{number}.pcap"));
        let mut command = cluster.node("tcpdump");
        // As root to the end: the folder belongs to nobody that it could become.
        command.args(["-Z", "root", "-i", "cni0", "-s", "0", "-U", "--immediate-mode", "-w"]);
        command.arg(&file).arg(filter);
        let mut tcpdump = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run tcpdump")?;
        let mut lines = BufReader::new(tcpdump.stderr.take().context("tcpdump says nothing")?).lines();
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.contains("listening on") {
                return Ok(Self {
                    tcpdump,
                    cluster: cluster.clone(),
                    file,
                });
            }
            said.push_str(&line);
            said.push('\n');
        }
        anyhow::bail!("tcpdump does not listen: {said}")
    }

    /// What has passed so far.
    ///
    /// # Errors
    /// When the recording cannot be read.
    pub fn packets(&self) -> Result<Vec<Packet>> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        read(&bytes)
    }

    /// Waits until a packet is there that `wanted` takes, then ends the recording.
    ///
    /// # Errors
    /// When there is none in `within`.
    pub async fn until(
        mut self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Vec<Packet>> {
        let found = eventually(what, within, async || {
            let packets = self.packets().ok()?;
            packets.iter().any(&wanted).then_some(packets)
        })
        .await;
        self.end().await;
        found
    }

    /// Ends the recording.
    async fn end(&mut self) {
        // The script hands its process over to nsenter, which waits for tcpdump: that one is told, by its file.
        let mut kill = self.cluster.node("pkill");
        kill.arg("-f").arg(format!("tcpdump.*{}", self.file.display()));
        let _ = super::Finish::finish(&mut kill).await;
        let _ = self.tcpdump.wait().await;
    }
}

/// The packets in a file of tcpdump's on Ethernet. One that is still being written is left out.
fn read(bytes: &[u8]) -> Result<Vec<Packet>> {
    const HEAD: usize = 24;
    ensure!(
        bytes.get(..4) == Some(&[0xd4, 0xc3, 0xb2, 0xa1]),
        "no recording in this machine's byte order"
    );
    let mut found = Vec::new();
    let mut rest = bytes.get(HEAD..).unwrap_or_default();
    while let Some((head, after)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, next)) = after.split_at_checked(length) else {
            break;
        };
        found.extend(segment(frame));
        rest = next;
    }
    Ok(found)
}

/// The TCP segment in an Ethernet frame, if it holds one over IPv4 that is not empty.
fn segment(frame: &[u8]) -> Option<Packet> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let ip_head = usize::from(packet.first()? & 15) * 4;
    let whole = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if *packet.get(9)? != 6 {
        return None;
    }
    let address = |at: usize| {
        Some(std::net::Ipv4Addr::from(
            <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
        ))
    };
    let tcp = packet.get(ip_head..whole)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let tcp_head = usize::from(tcp.get(12)? >> 4) * 4;
    let payload = tcp.get(tcp_head..)?.to_vec();
    if payload.is_empty() {
        return None;
    }
    Some(Packet {
        source: std::net::SocketAddrV4::new(address(12)?, port(0)?),
        destination: std::net::SocketAddrV4::new(address(16)?, port(2)?),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording of one frame: 10.0.0.1:5000 → 10.0.0.2:80 with `payload`.
    fn recording(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        let whole = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, whole[0], whole[1], 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(5000u16.to_be_bytes());
        frame.extend(80u16.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1];
        bytes.extend([0; 20]);
        bytes.extend([0; 8]);
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        bytes.extend(length);
        bytes.extend(length);
        bytes.extend(frame);
        bytes
    }

    #[test]
    fn plain_text_is_seen_with_its_ends() {
        let packets = read(&recording(b"GET / HTTP/1.1")).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].source, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(packets[0].destination, "10.0.0.2:80".parse().unwrap());
        assert!(packets[0].shows("GET /") && !packets[0].begins_tls_record());
    }

    #[test]
    fn a_tls_record_is_told_from_text() {
        let packets = read(&recording(&[22, 3, 1, 0, 5, 1, 2, 3])).unwrap();
        assert!(packets[0].begins_tls_record() && !packets[0].shows("GET"));
    }

    #[test]
    fn empty_segments_and_half_written_packets_are_left_out() {
        assert!(read(&recording(b"")).unwrap().is_empty());
        let mut cut = recording(b"GET / HTTP/1.1");
        cut.truncate(cut.len() - 3);
        assert!(read(&cut).unwrap().is_empty());
        assert!(read(b"not a recording").is_err());
    }
}
