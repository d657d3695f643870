//! The transmission phase: requests in, replies out.
//!
//! One thread reads requests and carries out writes in the order they come, streaming their
//! payload in pieces, so that no client makes the server hold a whole request. Reads and block
//! status queries, which may decode compressed clusters, are answered by a few threads beside it,
//! in any order, as the protocol allows. What bounds memory is [`PIECE`] times the threads,
//! whatever sizes clients ask for.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rehost_block::{DiskMut, Error, Kind, Result};

use crate::negotiate::Session;
use crate::reply::Replies;
use crate::status;
use crate::stream::{Stream, read_or_end};
use crate::wire::{Command, Errno, PAYLOAD_MAX, Request, cmd_flag, protocol};

/// Bytes moved at a time.
pub(crate) const PIECE: usize = 1 << 20;
/// Threads that answer reads, per connection.
const WORKERS: usize = 4;
/// Reads that may wait for one of them.
const QUEUE: usize = 16;

/// Serves one client until it leaves.
///
/// # Errors
/// Corrupt when the client breaks the protocol; Io when the connection breaks inside a request.
pub(crate) fn transmit(
    stream: &Stream,
    session: &Session<'_>,
    report: &(dyn Fn(Error) + Sync),
) -> Result<()> {
    let replies = Replies::new(stream, session.structured, report);
    let (jobs, queue) = sync_channel(QUEUE);
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            let spawned = thread::Builder::new()
                .name("nbd read".to_owned())
                .spawn_scoped(scope, || work(&queue, session, &replies));
            if let Err(error) = spawned {
                stream.shutdown();
                return Err(Error::io("cannot start a thread", error));
            }
        }
        let ended = receive(stream, session, &replies, &jobs);
        // The workers end once the queue is empty and its last sender has gone.
        drop(jobs);
        ended
    })
}

/// A worker: answers reads until no more can come.
fn work(queue: &Mutex<Receiver<Request>>, session: &Session<'_>, replies: &Replies<'_>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(request) = job else { return };
        let sent = match request.command {
            Command::BlockStatus => status::answer(&request, session, replies),
            _ => replies.read(&request, session.export.disk()),
        };
        if sent.is_err() {
            // The client has gone or is no longer in step; the reading thread sees it too.
            replies.hang_up();
        }
    }
}

/// Reads requests until the client leaves.
fn receive(
    stream: &Stream,
    session: &Session<'_>,
    replies: &Replies<'_>,
    jobs: &SyncSender<Request>,
) -> Result<()> {
    let size = session.export.size();
    let mut buffer = Vec::new();
    // Ends when the client disconnects, hangs up or breaks the protocol.
    loop {
        let mut header = [0; Request::SIZE];
        if !read_or_end(stream, &mut header).map_err(lost)? {
            return Ok(());
        }
        let request = Request::parse(&header)?;
        if request.command == Command::Disc {
            return Ok(());
        }
        if request.command == Command::Write && request.len > PAYLOAD_MAX {
            return Err(protocol("NBD request", "write is too long")
                .mismatch(format!("at most {PAYLOAD_MAX} bytes"), request.len));
        }
        let refused = refusal(&request, session, size);
        let done = match (request.command, refused) {
            (Command::Write, refused) => {
                let disk = session.export.writer().filter(|_| refused.is_none());
                let written = write(stream, &request, disk, &mut buffer)?;
                match refused {
                    Some((errno, why)) => replies.refuse(&request, errno, why),
                    None => replies.done(&request, written),
                }
            }
            (_, Some((errno, why))) => replies.refuse(&request, errno, why),
            (Command::Read | Command::BlockStatus, None) => {
                // Fails only when every worker has died, which takes a panic.
                jobs.send(request)
                    .map_err(|_| Error::internal("no thread answers reads"))
            }
            (_, None) => replies.done(&request, change(&request, session)),
        };
        done?;
    }
}

/// Why a request is not even tried.
fn refusal(request: &Request, session: &Session<'_>, size: u64) -> Option<(Errno, &'static str)> {
    use cmd_flag::{DF, FUA, NO_HOLE, REQ_ONE};
    let changes = matches!(
        request.command,
        Command::Write | Command::Trim | Command::WriteZeroes
    );
    let allowed = match request.command {
        Command::Read if session.structured => FUA | DF,
        Command::WriteZeroes => FUA | NO_HOLE,
        Command::BlockStatus => FUA | REQ_ONE,
        // FUA means nothing for the others; clients may send it all the same.
        _ => FUA,
    };
    if let Command::Other(_) | Command::Disc = request.command {
        return Some((Errno::Inval, "unknown command"));
    }
    if request.flags & !allowed != 0 {
        return Some((Errno::Inval, "unknown command flag"));
    }
    if request.command == Command::Flush {
        return None;
    }
    if changes && session.export.writer().is_none() {
        return Some((Errno::Perm, "export is read-only"));
    }
    if request.command == Command::BlockStatus && !session.allocation {
        return Some((Errno::Inval, "no metadata context was chosen"));
    }
    if request.command == Command::BlockStatus && request.len == 0 {
        return Some((Errno::Inval, "block status of an empty range"));
    }
    if request.command == Command::Read && request.len > PAYLOAD_MAX {
        return Some((Errno::Inval, "read is too long"));
    }
    let end = request.offset.checked_add(u64::from(request.len));
    if end.is_none_or(|end| end > size) {
        let errno = if changes && request.command != Command::Trim {
            Errno::NoSpc
        } else {
            Errno::Inval
        };
        return Some((errno, "range reaches past the end of the export"));
    }
    None
}

/// Takes a write's payload off the wire, and to `disk` if there is one. The inner result is the
/// disk's, the outer one the connection's.
fn write(
    mut stream: &Stream,
    request: &Request,
    disk: Option<&dyn DiskMut>,
    buffer: &mut Vec<u8>,
) -> Result<Result<()>> {
    let mut left = usize::try_from(request.len).unwrap_or(usize::MAX);
    let mut at = request.offset;
    let mut written = Ok(());
    // Ends because `left` shrinks by at least one byte a round.
    while left > 0 {
        let len = left.min(PIECE);
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let piece = buffer.get_mut(..len).unwrap_or_default();
        stream.read_exact(piece).map_err(lost)?;
        if let (Ok(()), Some(disk)) = (&written, disk) {
            written = disk.write_at(piece, at);
        }
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        left = left.saturating_sub(len);
    }
    if let (Ok(()), Some(disk), true) = (&written, disk, request.has(cmd_flag::FUA)) {
        written = disk.sync();
    }
    Ok(written)
}

/// Flush, trim and write-zeroes.
fn change(request: &Request, session: &Session<'_>) -> Result<()> {
    let Some(disk) = session.export.writer() else {
        // Only a flush gets here: nothing was written, so everything written is stable.
        return Ok(());
    };
    let len = u64::from(request.len);
    match request.command {
        Command::Flush => return disk.sync(),
        Command::WriteZeroes if request.has(cmd_flag::NO_HOLE) => {
            write_zeroes(disk, request.offset, len)?;
        }
        Command::WriteZeroes | Command::Trim => disk.zero_at(request.offset, len)?,
        _ => return Err(Error::internal("not a request that changes the disk")),
    }
    if request.has(cmd_flag::FUA) {
        disk.sync()?;
    }
    Ok(())
}

/// Stores zeroes as bytes: the client asked that space be reserved.
fn write_zeroes(disk: &dyn DiskMut, offset: u64, len: u64) -> Result<()> {
    let piece = usize::try_from(len).unwrap_or(PIECE).min(PIECE);
    let zeroes = vec![0; piece];
    let mut at = offset;
    let mut left = len;
    // Ends because `left` shrinks by at least one byte a round.
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(piece).min(piece);
        disk.write_at(zeroes.get(..part).unwrap_or_default(), at)?;
        let moved = u64::try_from(part).unwrap_or(u64::MAX);
        at = at.saturating_add(moved);
        left = left.saturating_sub(moved);
    }
    Ok(())
}

/// The protocol's number for a disk's error.
pub(crate) fn errno(error: &Error) -> Errno {
    match error.kind() {
        Kind::Usage => Errno::Inval,
        Kind::Unsupported => Errno::NotSup,
        _ => Errno::Io,
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::io("connection broke inside a request", error)
}
