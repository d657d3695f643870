//! `Server` and `Running`: the socket, its connections, and their end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rehost_block::{Error, Result};

use crate::Export;
use crate::negotiate::negotiate;
use crate::stream::{Listener, Stream};
use crate::transmit::transmit;

/// Clients at one time (limit of ours; nbdcopy opens 4, QEMU 1).
const CONNECTIONS_MAX: usize = 32;
/// How long a client may think about one option.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(30);
/// Errors kept for [`Running::take_errors`]; later ones add nothing to the first.
const ERRORS_MAX: usize = 16;

/// Where a server listens.
#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    address: Address,
    exports: Arc<[Export]>,
}

impl Server {
    /// Listens on a new Unix socket at `path`. The first export is also the one without a name.
    ///
    /// # Errors
    /// Io when the socket cannot be made (one that exists among others); Usage when there is no
    /// export, or two share a name.
    pub fn bind(path: impl AsRef<Path>, exports: Vec<Export>) -> Result<Self> {
        Export::check_all(&exports)?;
        let path = path.as_ref();
        let listener = UnixListener::bind(path).map_err(|error| {
            Error::io("cannot listen on a Unix socket", error)
                .in_file(path)
                .hint("choose a new, short path (at most 107 bytes) in a writable folder")
        })?;
        Ok(Self {
            listener: Listener::Unix(listener),
            address: Address::Unix(path.to_owned()),
            exports: exports.into(),
        })
    }

    /// Listens on a TCP address. There is no encryption and no authentication: whoever reaches the
    /// port reads and, on a writable export, writes.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_tcp(address: impl ToSocketAddrs, exports: Vec<Export>) -> Result<Self> {
        Export::check_all(&exports)?;
        let io = |error| Error::io("cannot listen on a TCP port", error);
        let listener = TcpListener::bind(address).map_err(io)?;
        let address = Address::Tcp(listener.local_addr().map_err(io)?);
        Ok(Self {
            listener: Listener::Tcp(listener),
            address,
            exports: exports.into(),
        })
    }

    /// Answers clients from threads of its own until the result is dropped.
    ///
    /// # Errors
    /// Io when no thread can be started.
    pub fn spawn(self) -> Result<Running> {
        let shared = Arc::new(Shared {
            listener: self.listener,
            exports: self.exports,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            errors: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let mut running = Running {
            shared,
            address: self.address,
            acceptor: None,
        };
        let acceptor = thread::Builder::new()
            .name("nbd accept".to_owned())
            .spawn(move || accept(&accepting))
            .map_err(|error| Error::io("cannot start a thread", error))?;
        running.acceptor = Some(acceptor);
        Ok(running)
    }
}

/// What the acceptor and the connections share.
#[derive(Debug)]
struct Shared {
    listener: Listener,
    exports: Arc<[Export]>,
    stopping: AtomicBool,
    connections: Mutex<BTreeMap<u64, Connection>>,
    errors: Mutex<Vec<Error>>,
}

#[derive(Debug)]
struct Connection {
    stream: Arc<Stream>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, error: Error) {
        // What breaks while the server stops is its own doing.
        if self.stopping.load(Ordering::SeqCst) {
            return;
        }
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_MAX {
            errors.push(error);
        }
    }

    fn serve(&self, stream: &Stream) {
        let served = stream
            .set_read_timeout(Some(HANDSHAKE_PATIENCE))
            .map_err(|error| Error::io("cannot set a time limit", error))
            .and_then(|()| negotiate(stream, &self.exports))
            .and_then(|session| match session {
                None => Ok(()),
                Some(session) => {
                    stream
                        .set_read_timeout(None)
                        .map_err(|error| Error::io("cannot lift a time limit", error))?;
                    transmit(stream, &session, &|error| self.report(error))
                }
            });
        if let Err(error) = served {
            self.report(error);
        }
        stream.shutdown();
    }
}

/// Takes clients until the listener is shut down.
fn accept(shared: &Arc<Shared>) {
    let mut number = 0u64;
    // Ends once `stopping` is set: its setter wakes `accept` by shutting the listener down.
    while !shared.stopping.load(Ordering::SeqCst) {
        let stream = match shared.listener.accept() {
            Ok(stream) => Arc::new(stream),
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    // Out of descriptors, or the client has gone: neither is better at once.
                    thread::sleep(Duration::from_millis(20));
                }
                continue;
            }
        };
        let mut connections = shared.connections();
        connections.retain(|_, known| {
            known
                .thread
                .as_ref()
                .is_some_and(|thread| !thread.is_finished())
        });
        if connections.len() >= CONNECTIONS_MAX {
            stream.shutdown();
            continue;
        }
        let (serving, client) = (Arc::clone(shared), Arc::clone(&stream));
        let thread = thread::Builder::new()
            .name("nbd client".to_owned())
            .spawn(move || serving.serve(&client));
        match thread {
            Ok(thread) => {
                let thread = Some(thread);
                connections.insert(number, Connection { stream, thread });
                number = number.saturating_add(1);
            }
            Err(_) => stream.shutdown(),
        }
    }
}

/// A server that answers. Dropping it ends all connections, waits for their threads and removes
/// the Unix socket.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    address: Address,
    acceptor: Option<JoinHandle<()>>,
}

impl Running {
    /// The URI of the export called `name`, as libnbd and QEMU understand it.
    #[must_use]
    pub fn uri(&self, name: &str) -> String {
        let name = percent(name.as_bytes(), b"");
        match &self.address {
            Address::Unix(path) => {
                let path = percent(path.as_os_str().as_encoded_bytes(), b"/");
                format!("nbd+unix:///{name}?socket={path}")
            }
            Address::Tcp(address) => format!("nbd://{address}/{name}"),
        }
    }

    /// The TCP address it listens on, with the port the system chose; `None` for a Unix socket.
    #[must_use]
    pub const fn tcp_address(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Unix(_) => None,
            Address::Tcp(address) => Some(address),
        }
    }

    /// What went wrong so far and was not taken before: disks that could not be read or written,
    /// and clients that broke the protocol. At most 16 are kept.
    #[must_use]
    pub fn take_errors(&self) -> Vec<Error> {
        std::mem::take(
            &mut *self
                .shared
                .errors
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // On Linux this wakes a thread in accept(2). Should it fail, a thread is left behind,
        // which is better than one waited for without end.
        let woken = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        if let (Ok(()), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
        let connections = std::mem::take(&mut *self.shared.connections());
        for connection in connections.values() {
            connection.stream.shutdown();
        }
        for connection in connections.into_values() {
            if let Some(thread) = connection.thread {
                let _ = thread.join();
            }
        }
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

/// Percent-encodes what is not unreserved in a URI (RFC 3986) and not in `keep`.
fn percent(bytes: &[u8], keep: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
