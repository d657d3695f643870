//! Decoding a stream without an index, once, into a temporary file that has no name.
//!
//! Blocks of zeroes become holes, so a wrapped disk takes the room of its data. The file goes when
//! the image is closed, however the process ends.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use liblzma::stream::{CONCATENATED, Stream};
use rehost_block::{Error, File, Presence, Result, Storage, StorageMut, is_zero};

use super::{Unpacking, Wrapper, xz};

/// Bytes per read, of the file and of the decoder.
const BUFFER: usize = 1 << 20;

/// Zeroes that become a hole: a page.
const PAGE: usize = 4096;

/// log2 of the largest zstd window (128 MiB): what `zstd -d` accepts too.
const MAX_WINDOW: u32 = 27;

/// The temporary file, under the name of the wrapped one.
#[derive(Debug)]
pub(super) struct Spool {
    name: PathBuf,
    file: File,
    size: u64,
}

/// Decodes all of `storage`.
///
/// # Errors
/// Corrupt when the stream is damaged, cut, or followed by anything else; Unsupported when it is
/// longer than `unpacking` allows or needs more memory than is given to it; Io when the temporary
/// file cannot be written.
pub(super) fn unpack(
    storage: Arc<dyn Storage>,
    wrapper: Wrapper,
    unpacking: &Unpacking,
) -> Result<Spool> {
    let file = File::temporary(&unpacking.folder)?;
    let name = storage.name().to_owned();
    let failed = Rc::default();
    let packed = BufReader::with_capacity(
        BUFFER,
        Bytes {
            storage,
            at: 0,
            failed: Rc::clone(&failed),
        },
    );
    let size = decode(packed, wrapper, &file, unpacking).map_err(|error| {
        // The fault of the file below is told, not what the decoder made of it.
        let below: Option<Error> = failed.borrow_mut().take();
        below.unwrap_or(error).in_file(&name)
    })?;
    Ok(Spool { name, file, size })
}

fn decode(
    mut packed: BufReader<Bytes>,
    wrapper: Wrapper,
    file: &File,
    unpacking: &Unpacking,
) -> Result<u64> {
    let mut plain: Box<dyn Read + '_> = match wrapper {
        Wrapper::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut packed)),
        Wrapper::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(&mut packed)),
        Wrapper::Xz => {
            let stream = Stream::new_stream_decoder(xz::MEMORY, CONCATENATED)
                .map_err(|error| Error::internal("no xz decoder").because(error))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(&mut packed, stream))
        }
        Wrapper::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut packed)
                .map_err(|error| Error::internal("no zstd decoder").because(error))?;
            decoder
                .window_log_max(MAX_WINDOW)
                .map_err(|error| Error::internal("no zstd decoder").because(error))?;
            Box::new(decoder)
        }
    };
    let mut buffer = vec![0; BUFFER];
    let mut at = 0u64;
    // Ends because the stream does, or the limit is reached.
    loop {
        let len = fill(&mut *plain, &mut buffer).map_err(|error| damaged(wrapper, error))?;
        if len == 0 {
            break;
        }
        let part = buffer.get(..len).unwrap_or_default();
        let end = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        if end > unpacking.most {
            return Err(Error::unsupported("wrapped image is larger than allowed")
                .mismatch(format!("at most {} bytes", unpacking.most), "more")
                .hint("allow more: set REHOST_UNPACK_LIMIT to a size"));
        }
        store(file, part, at)?;
        at = end;
    }
    drop(plain);
    let rest = packed
        .fill_buf()
        .map_err(|error| damaged(wrapper, error))?
        .len();
    if rest != 0 {
        return Err(Error::corrupt(format!("bytes follow the {wrapper} stream")));
    }
    file.set_size(at)?;
    Ok(at)
}

fn damaged(wrapper: Wrapper, error: std::io::Error) -> Error {
    let text = error.to_string();
    if text.contains("memory") {
        return Error::unsupported(format!("{wrapper} stream needs too much memory"))
            .because(error)
            .hint("unpack it with the program that made it");
    }
    Error::corrupt(format!("{wrapper} stream is damaged or cut"))
        .because(error)
        .hint("the file is truncated or damaged: copy it again from its origin")
}

/// Fills the buffer, or as much of it as there is.
fn fill(plain: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    // Ends because every round takes a byte at least, or is the last.
    while let Some(room) = buffer.get_mut(len..).filter(|room| !room.is_empty()) {
        match plain.read(room) {
            Ok(0) => break,
            Ok(more) => len = len.saturating_add(more),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Writes what is not zero of `part`, neighbours together.
fn store(file: &File, part: &[u8], at: u64) -> Result<()> {
    let mut begin = None;
    let mut place = 0usize;
    let write = |from: usize, to: usize| {
        let bytes = part.get(from..to).unwrap_or_default();
        file.write_at(
            bytes,
            at.saturating_add(u64::try_from(from).unwrap_or(u64::MAX)),
        )
    };
    for page in part.chunks(PAGE) {
        match (is_zero(page), begin) {
            (true, Some(from)) => {
                write(from, place)?;
                begin = None;
            }
            (false, None) => begin = Some(place),
            _ => {}
        }
        place = place.saturating_add(page.len());
    }
    match begin {
        Some(from) => write(from, place),
        None => Ok(()),
    }
}

/// A storage from its first byte to its last.
struct Bytes {
    storage: Arc<dyn Storage>,
    at: u64,
    failed: Rc<RefCell<Option<Error>>>,
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = self.storage.size().saturating_sub(self.at);
        let len = usize::try_from(left).unwrap_or(buf.len()).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        if let Err(error) = self.storage.read_at(part, self.at) {
            let told = std::io::Error::other(error.to_string());
            *self.failed.borrow_mut() = Some(error);
            return Err(told);
        }
        self.at = self
            .at
            .saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        Ok(len)
    }
}

impl Storage for Spool {
    fn name(&self) -> &Path {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buf, offset)
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.file.presence(offset, want)
    }

    fn as_file(&self) -> Option<&std::fs::File> {
        self.file.as_file()
    }
}
