//! What is no disk: a client's side of the NBD protocol, a VMX file, a libvirt domain, data for the deflate encoder.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress, Status};
use rehost_block::{Memory, Overlay, StorageDisk};
use rehost_deflate::{Encoder, Level};
use rehost_nbd::{Export, Running, Server};

/// Bytes that a client sends at most: each request of 28 may be answered with the whole disk.
const MOST_SENT: usize = 4096;

/// How long a server may take to hang up on a client that will say no more.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a small disk, for as long as the process lives.
struct Serving {
    _folder: tempfile::TempDir,
    path: PathBuf,
    server: Running,
}

impl Serving {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let disk = |len| Arc::new(StorageDisk::new(Arc::new(Memory::new("d", vec![1; len]))));
        let writable = Overlay::in_memory(disk(64 << 10));
        let exports = vec![
            Export::writable("d", Arc::new(writable)).described("a disk"),
            Export::read_only("r", disk(1000)),
        ];
        Self {
            server: Server::bind(&path, exports).unwrap().spawn().unwrap(),
            path,
            _folder: folder,
        }
    }
}

/// What a client says after the greeting.
pub(crate) fn nbd(bytes: &[u8]) {
    static SERVING: OnceLock<Serving> = OnceLock::new();
    let serving = SERVING.get_or_init(Serving::start);
    let mut said = UnixStream::connect(&serving.path).unwrap();
    let mut heard = said.try_clone().unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The server may hang up early; a reset is an end too.
            let _ = said.write_all(&bytes[..bytes.len().min(MOST_SENT)]);
            let _ = said.shutdown(Shutdown::Write);
        });
        let mut answer = [0; 16 << 10];
        loop {
            match heard.read(&mut answer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    let late = error.kind() == std::io::ErrorKind::WouldBlock;
                    assert!(!late, "the server does not hang up");
                    break;
                }
            }
        }
    });
    let _ = serving.server.take_errors();
}

/// A VMX file whose disks are none.
#[cfg(feature = "machines")]
pub(crate) fn vmx(bytes: &[u8]) {
    use crate::storages::{NAME, Strangers};
    let _ = rehost::source::vmx::parse(bytes, NAME.as_ref(), &Strangers::raw());
}

/// A libvirt domain whose disks are none.
#[cfg(feature = "machines")]
pub(crate) fn domain(bytes: &[u8]) {
    use crate::storages::{NAME, Strangers};
    let _ = rehost::source::libvirt::parse(bytes, NAME.as_ref(), &Strangers::raw());
}

/// A unit to compress, its first byte the level.
pub(crate) fn deflate(bytes: &[u8]) {
    let Some((level, plain)) = bytes.split_first() else {
        return;
    };
    let level = Level::new(level % 9 + 1).unwrap();
    let mut encoder = Encoder::new(level);
    let most = plain.len() + 1024;
    let packed = encoder.encode(plain, most).expect("room for anything");
    let mut back = Vec::with_capacity(plain.len() + 1);
    let status = Decompress::new(false).decompress_vec(packed, &mut back, FlushDecompress::Finish);
    assert!(matches!(status, Ok(Status::StreamEnd)), "{status:?}");
    assert!(back == plain, "decodes to something else");
    assert!(
        encoder
            .encode(plain, plain.len() / 2)
            .is_none_or(|short| short.len() <= plain.len() / 2)
    );
}
