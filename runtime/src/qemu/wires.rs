//! The other ends of a machine's network cards: Unix sockets in the run's private folder.
//!
//! QEMU's `stream` backend sends each Ethernet frame behind its length, four bytes in big-endian
//! order. One thread a card hands what comes to the [`Wire`] and sends what it has due.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rehost_block::{Error, Result};

use crate::{MachineNic, Wire};

/// How often a wire that is silent is asked for what it has due.
const TICK: Duration = Duration::from_millis(200);

/// Longest frame that is taken: QEMU's own limit for this backend (`NET_BUFSIZE`).
const FRAME_MAX: usize = 4096 + 65536;

/// The wires of a running machine. They end when this is dropped.
pub(super) struct Wires {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Wires {
    /// Listens at `place(n)` for the card `n` of the machine.
    pub(super) fn listen(
        nics: &[MachineNic],
        place: impl Fn(usize) -> std::path::PathBuf,
    ) -> Result<Self> {
        let mut wires = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (nth, nic) in nics.iter().enumerate() {
            let listener = bind(&place(nth))?;
            let (stop, wire) = (Arc::clone(&wires.stop), Arc::clone(&nic.wire));
            let thread = thread::Builder::new()
                .name(format!("wire{nth}"))
                .spawn(move || serve(&listener, &*wire, &stop))
                .map_err(|error| Error::io("cannot start a thread", error))?;
            wires.threads.push(thread);
        }
        Ok(wires)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to clear up.
            let _ = thread.join();
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    let failed = |error| Error::io("cannot listen", error).in_file(path);
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Waits for QEMU and serves it until `stop`, or until it hangs up.
fn serve(listener: &UnixListener, wire: &dyn Wire, stop: &AtomicBool) {
    // Ends when `stop` is set at the latest.
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                // An end of the connection is the end of the machine.
                let _ = pass(stream, wire, stop);
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(_) => return,
        }
    }
}

/// Passes frames in both directions.
fn pass(mut stream: UnixStream, wire: &dyn Wire, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    let mut waiting = Vec::new();
    let mut unsent = Unsent::default();
    let mut buffer = vec![0; 1 << 16];
    // Ends when `stop` is set or QEMU hangs up.
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                waiting.extend_from_slice(buffer.get(..len).unwrap_or_default());
                take_frames(&mut waiting, wire)?;
            }
            Err(error) if is_later(&error) => {}
            Err(error) => return Err(error),
        }
        // Ends because a wire that answers frames has finitely many of them due at once; one that
        // does not end is ended by the socket's buffer.
        while unsent.send(&mut stream)? == Room::Left {
            let Some(frame) = wire.due() else { break };
            unsent.put(&frame);
        }
    }
    Ok(())
}

/// Whether a call on a stream did nothing, and may do something later.
fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Whether a stream takes more.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Left,
    Full,
}

/// What of a frame the stream has not taken yet. QEMU reads nothing while the guest's driver takes
/// nothing, which before it is loaded may be a minute.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    fn put(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.bytes = [&len.to_be_bytes()[..], frame].concat();
        self.sent = 0;
    }

    /// Sends as much as there is room for.
    fn send(&mut self, stream: &mut impl Write) -> io::Result<Room> {
        // Ends because every round sends a byte or ends.
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.sent = self.sent.saturating_add(len),
                Err(error) if is_later(&error) => return Ok(Room::Full),
                Err(error) => return Err(error),
            }
        }
        Ok(Room::Left)
    }
}

/// Hands on the frames that are complete and keeps the rest.
fn take_frames(waiting: &mut Vec<u8>, wire: &dyn Wire) -> io::Result<()> {
    let mut rest = waiting.as_slice();
    // Ends because every round takes a frame off `rest`.
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some((frame, after)) = tail.split_at_checked(len) else {
            break;
        };
        wire.received(frame);
        rest = after;
    }
    *waiting = rest.to_vec();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Mac, NicModel};

    /// Echoes every frame.
    #[derive(Debug, Default)]
    struct Echo {
        frames: Mutex<Vec<Vec<u8>>>,
    }

    impl Wire for Echo {
        fn received(&self, frame: &[u8]) {
            self.frames.lock().unwrap().push(frame.to_vec());
        }

        fn due(&self) -> Option<Vec<u8>> {
            self.frames.lock().unwrap().pop()
        }
    }

    /// Has a frame due whenever it is asked.
    #[derive(Debug, Default)]
    struct Talker {
        frames: Mutex<u32>,
    }

    impl Wire for Talker {
        fn received(&self, _frame: &[u8]) {}

        fn due(&self) -> Option<Vec<u8>> {
            let mut frames = self.frames.lock().unwrap();
            *frames += 1;
            (*frames <= 20_000).then(|| frames.to_be_bytes().to_vec())
        }
    }

    #[test]
    fn a_guest_that_listens_late_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let wire = Arc::new(Talker::default());
        let nic = MachineNic {
            model: NicModel::VirtioNet,
            mac: Mac([0; 6]),
            wire: Arc::clone(&wire) as Arc<dyn Wire>,
        };
        let path = |nth: usize| folder.path().join(format!("wire{nth}"));
        let wires = Wires::listen(&[nic], path).unwrap();
        let mut stream = UnixStream::connect(path(0)).unwrap();
        // Until the socket is full and a write has timed out more than once.
        thread::sleep(TICK * 4);
        for nth in 1_u32..=20_000 {
            let mut came = [0; 8];
            stream.read_exact(&mut came).unwrap();
            assert_eq!(came[..4], 4_u32.to_be_bytes());
            assert_eq!(came[4..], nth.to_be_bytes());
        }
        drop(wires);
    }

    #[test]
    fn frames_are_framed_in_both_directions_however_they_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let nic = MachineNic {
            model: NicModel::VirtioNet,
            mac: Mac([0; 6]),
            wire: Arc::new(Echo::default()),
        };
        let path = |nth: usize| folder.path().join(format!("wire{nth}"));
        let wires = Wires::listen(&[nic], path).unwrap();
        let mut stream = UnixStream::connect(path(0)).unwrap();
        for part in [&[0, 0][..], &[0, 3, b'a'], b"bc", &[0, 0, 0, 1, b'd']] {
            stream.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        let mut came = [0; 12];
        stream.read_exact(&mut came).unwrap();
        let mut both = [came[..7].to_vec(), came[7..].to_vec()];
        if came[3] == 1 {
            both = [came[5..].to_vec(), came[..5].to_vec()];
        }
        assert_eq!(both, [b"\0\0\0\x03abc".to_vec(), b"\0\0\0\x01d".to_vec()]);
        drop(wires);
    }
}
