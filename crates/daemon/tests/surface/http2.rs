//! Frames of HTTP/2 (RFC 9113), as a caller writes them who keeps to no rule.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: Vec<u8>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The code of an error that stands at this place of the payload.
    pub(crate) fn error(&self, at: usize) -> Option<u32> {
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().unwrap()))
    }
}

/// A header that is in no table.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // An integer of seven bits (RFC 7541, §5.1).
        let mut rest = text.len();
        if rest < 127 {
            field.push(u8::try_from(rest).unwrap());
        } else {
            field.push(127);
            rest -= 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 0x80);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend(text.as_bytes());
    }
    field
}

/// The headers of a POST.
pub(crate) fn path(path: &str) -> Vec<u8> {
    let mut fields = vec![0x83, 0x87];
    fields.extend(literal(":path", path));
    fields.extend(literal(":authority", "istiod"));
    fields
}

/// A connection that has exchanged prefaces.
pub(crate) struct Connection(TlsStream<TcpStream>);

impl Connection {
    pub(crate) async fn begin(mut stream: TlsStream<TcpStream>) -> Self {
        let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        preface.extend(Frame::new(SETTINGS, 0, 0, Vec::new()).bytes());
        stream.write_all(&preface).await.unwrap();
        let mut this = Self(stream);
        // The server's settings come first.
        let first = this.next().await.unwrap();
        assert_eq!(first.kind, SETTINGS);
        this.write(&Frame::new(SETTINGS, 1, 0, Vec::new()).bytes())
            .await
            .unwrap();
        this
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The next frame; nothing when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame::new(head[3], head[4], stream, payload))
    }
}
