//! `Replies`: the half of a connection that writes.
//!
//! A reply is written whole under one lock. Structured reads go out as data and hole chunks in
//! pieces, between which replies to other requests may be sent.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use rehost_block::{Disk, Error, Result, Run};

use crate::stream::Stream;
use crate::transmit::{PIECE, errno};
use crate::wire::{Errno, Request, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, cmd_flag};

/// Shortest run of zeroes worth a hole chunk of its own (the chunk and the split cost more below).
const HOLE_MIN: u64 = 4096;
/// Bytes of a chunk's header.
const CHUNK_HEADER: usize = 20;
/// Bytes of a simple reply's header.
const SIMPLE_HEADER: usize = 16;

/// What a stretch of a read is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Data,
    Hole,
}

/// Sends replies; many threads may.
pub(crate) struct Replies<'a> {
    stream: &'a Stream,
    sending: Mutex<()>,
    structured: bool,
    report: &'a (dyn Fn(Error) + Sync),
}

impl<'a> Replies<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        structured: bool,
        report: &'a (dyn Fn(Error) + Sync),
    ) -> Self {
        Self {
            stream,
            sending: Mutex::new(()),
            structured,
            report,
        }
    }

    /// Ends the connection, so that whoever waits for the client wakes up.
    pub(crate) fn hang_up(&self) {
        self.stream.shutdown();
    }

    /// The request was carried out, or failed on the disk.
    pub(crate) fn done(&self, request: &Request, outcome: Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => self.send(&simple(request, 0)),
            Err(error) => self.failed(request, error),
        }
    }

    /// The disk failed: the client gets an error, the server's owner the reason.
    pub(crate) fn failed(&self, request: &Request, error: Error) -> Result<()> {
        let sent = self.refuse(request, errno(&error), &error.to_string());
        (self.report)(error);
        sent
    }

    /// The request was not tried.
    pub(crate) fn refuse(&self, request: &Request, errno: Errno, why: &str) -> Result<()> {
        if !self.structured {
            return self.send(&simple(request, errno.number()));
        }
        // The protocol's limit for strings; a cut inside a character would not be UTF-8.
        let why: String = why.chars().take(1000).collect();
        let mut payload = errno.number().to_be_bytes().to_vec();
        payload.extend_from_slice(&u16::try_from(why.len()).unwrap_or(0).to_be_bytes());
        payload.extend_from_slice(why.as_bytes());
        self.send_chunk(request, chunk::ERROR, chunk::DONE, &payload)
    }

    /// One chunk of a structured reply.
    pub(crate) fn send_chunk(
        &self,
        request: &Request,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<()> {
        let mut bytes = chunk_header(request, kind, flags, payload.len());
        bytes.extend_from_slice(payload);
        self.send(&bytes)
    }

    /// Answers a read, whose range has been checked.
    pub(crate) fn read(&self, request: &Request, disk: &dyn Disk) -> Result<()> {
        if !self.structured {
            self.read_simple(request, disk)
        } else if request.has(cmd_flag::DF) {
            self.read_unsplit(request, disk)
        } else {
            self.read_structured(request, disk)
        }
    }

    fn read_structured(&self, request: &Request, disk: &dyn Disk) -> Result<()> {
        let mut at = request.offset;
        let end = at.saturating_add(u64::from(request.len));
        // Ends because every stretch is at least one byte long.
        while at < end {
            let (stretch, len) = match next_stretch(disk, at, end) {
                Ok(found) => found,
                Err(error) => return self.failed(request, error),
            };
            let length = usize::try_from(len).unwrap_or(PIECE);
            if stretch == Stretch::Hole {
                let mut payload = at.to_be_bytes().to_vec();
                payload.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
                self.send_chunk(request, chunk::OFFSET_HOLE, 0, &payload)?;
            } else {
                match data_chunk(request, disk, at, length, 0) {
                    Ok(bytes) => self.send(&bytes)?,
                    Err(error) => return self.failed(request, error),
                }
            }
            at = at.saturating_add(len);
        }
        self.send_chunk(request, chunk::NONE, chunk::DONE, &[])
    }

    /// `NBD_CMD_FLAG_DF`: all in one chunk, or not at all.
    fn read_unsplit(&self, request: &Request, disk: &dyn Disk) -> Result<()> {
        let len = usize::try_from(request.len).unwrap_or(usize::MAX);
        if len > PIECE {
            return self.refuse(request, Errno::Overflow, "too long for one chunk");
        }
        match data_chunk(request, disk, request.offset, len, chunk::DONE) {
            Ok(bytes) => self.send(&bytes),
            Err(error) => self.failed(request, error),
        }
    }

    /// A simple reply has no place for an error after its header, so the first piece is read
    /// before the header goes out, and a failure after it ends the connection.
    fn read_simple(&self, request: &Request, disk: &dyn Disk) -> Result<()> {
        let mut left = usize::try_from(request.len).unwrap_or(usize::MAX);
        let mut at = request.offset;
        let first = left.min(PIECE);
        let mut bytes = simple(request, 0);
        if let Err(error) = append(&mut bytes, disk, at, first) {
            return self.failed(request, error);
        }
        let guard = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&bytes)?;
        left = left.saturating_sub(first);
        at = advance(at, first);
        // Ends because `left` shrinks by at least one byte a round.
        while left > 0 {
            let len = left.min(PIECE);
            bytes.clear();
            if let Err(error) = append(&mut bytes, disk, at, len) {
                self.hang_up();
                (self.report)(error);
                return Ok(());
            }
            self.write(&bytes)?;
            left = left.saturating_sub(len);
            at = advance(at, len);
        }
        drop(guard);
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let _guard = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut stream = self.stream;
        stream
            .write_all(bytes)
            .map_err(|error| Error::io("client went away before its reply", error))
    }
}

/// What lies at `at`: a hole, or data up to the next hole worth a chunk, at most a piece.
fn next_stretch(disk: &dyn Disk, at: u64, end: u64) -> Result<(Stretch, u64)> {
    let piece = u64::try_from(PIECE).unwrap_or(u64::MAX);
    let mut len = 0u64;
    // Ends because every run but an error is at least one byte long.
    while at.saturating_add(len) < end {
        let here = at.saturating_add(len);
        let located = disk.locate(here, end.saturating_sub(here))?;
        if located.len == 0 {
            return Err(Error::internal("locate answered with an empty run").at(here));
        }
        let whole = located.len.min(end.saturating_sub(here));
        if matches!(located.run, Run::Zero) && whole >= HOLE_MIN {
            if len == 0 {
                return Ok((Stretch::Hole, whole));
            }
            break;
        }
        len = len.saturating_add(whole);
        if len >= piece {
            break;
        }
    }
    Ok((Stretch::Data, len.min(piece)))
}

/// A data chunk with `len` bytes at `at`.
fn data_chunk(
    request: &Request,
    disk: &dyn Disk,
    at: u64,
    len: usize,
    flags: u16,
) -> Result<Vec<u8>> {
    let payload = len.saturating_add(8);
    let mut bytes = chunk_header(request, chunk::OFFSET_DATA, flags, payload);
    bytes.reserve_exact(payload);
    bytes.extend_from_slice(&at.to_be_bytes());
    append(&mut bytes, disk, at, len)?;
    Ok(bytes)
}

/// Appends `len` bytes of the disk.
fn append(bytes: &mut Vec<u8>, disk: &dyn Disk, at: u64, len: usize) -> Result<()> {
    let from = bytes.len();
    bytes.resize(from.saturating_add(len), 0);
    disk.read_at(bytes.get_mut(from..).unwrap_or_default(), at)
}

fn chunk_header(request: &Request, kind: u16, flags: u16, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHUNK_HEADER.saturating_add(payload));
    bytes.extend_from_slice(&STRUCTURED_REPLY.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&request.cookie.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

fn simple(request: &Request, errno: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIMPLE_HEADER);
    bytes.extend_from_slice(&SIMPLE_REPLY.to_be_bytes());
    bytes.extend_from_slice(&errno.to_be_bytes());
    bytes.extend_from_slice(&request.cookie.to_be_bytes());
    bytes
}

fn advance(at: u64, len: usize) -> u64 {
    at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX))
}
