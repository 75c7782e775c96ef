//! Ports on the machine's loopback that lead into the demo's namespaces: TCP outside, a Unix socket across, TCP inside.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::net::Place;
use super::plan::{Part, Workload};

/// Inner ports of the control plane that are worth a look.
pub(super) const CONTROL: &[(&str, u16)] = &[("lateend", 8080), ("metrics", 15014)];

/// A port of the machine's loopback, open but not yet served.
pub(super) struct Forward {
    pub(super) name: String,
    pub(super) port: u16,
    listener: TcpListener,
}

/// Opens one port for each thing worth a look: the control plane, each Envoy's admin page, the gateway.
///
/// # Errors
/// When no port is free.
pub(super) fn open_all(cast: &[Workload]) -> Result<Vec<Forward>> {
    let mut names: Vec<String> = CONTROL.iter().map(|(name, _)| (*name).to_owned()).collect();
    for workload in cast {
        names.push(workload.pod.clone());
        if workload.part == Part::Gateway {
            names.push("gateway".to_owned());
        }
    }
    names
        .into_iter()
        .map(|name| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a port on 127.0.0.1")?;
            let port = listener.local_addr().context("a port without an address")?.port();
            Ok(Forward { name, port, listener })
        })
        .collect()
}

fn socket(dir: &Path, name: &str) -> PathBuf {
    dir.join("port").join(name)
}

impl Forward {
    /// The outer half: carries connections to the Unix socket, on threads that end with the process.
    ///
    /// # Errors
    /// When the listener cannot be shared.
    pub(super) fn serve(&self, dir: &Path) -> Result<()> {
        let listener = self.listener.try_clone().context("cannot share a port")?;
        let socket = socket(dir, &self.name);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let socket = socket.clone();
                std::thread::spawn(move || {
                    let Ok(inner) = UnixStream::connect(socket) else { return };
                    join(&client, &inner);
                });
            }
        });
        Ok(())
    }
}

/// The inner half: carries connections from the Unix socket `name` to `address` as seen from `place`.
///
/// # Errors
/// When the socket cannot be made.
pub(super) fn serve_inside(dir: &Path, name: &str, place: &Place, address: SocketAddr) -> Result<()> {
    let path = socket(dir, name);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let place = place.clone();
    std::thread::spawn(move || {
        for outer in listener.incoming().flatten() {
            let place = place.clone();
            std::thread::spawn(move || {
                let Ok(Ok(inner)) = place.within(|| TcpStream::connect(address)) else {
                    return;
                };
                join(&inner, &outer);
            });
        }
    });
    Ok(())
}

/// Copies both ways until both ends are done.
fn join(tcp: &TcpStream, unix: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*tcp, &mut &*unix);
            let _ = unix.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &*unix, &mut &*tcp);
        let _ = tcp.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_go_through_both_halves_and_back() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("port")).unwrap();
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = service.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = service.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let forward = open_all(&[]).unwrap().remove(0);
        serve_inside(dir.path(), &forward.name, &Place::Here, address).unwrap();
        forward.serve(dir.path()).unwrap();

        let mut client = TcpStream::connect(("127.0.0.1", forward.port)).unwrap();
        client.write_all(b"ahoy").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "AHOY");
        echo.join().unwrap();
    }
}
