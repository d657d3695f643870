//! Images into a pipe or standard output: what is written there can never be gone back to.
//!
//! Two kinds of image can be written so: raw, zeroes included, and the streamOptimized VMDK, made for
//! it. Its beginning says nothing about its content, so it is taken from an empty one and sent ahead.
//! All others are refused by name: their tables lie before the data they are about.

use std::fmt;
use std::fs;
use std::io::{IsTerminal, Write};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Memory, Result, Storage, StorageMut};
use rehost_image::{
    OneFile, Order, Payload, Target, TargetOptions, TargetSpec, VmdkKind, Written, create,
};

/// Bytes before the first grain of a streamOptimized VMDK: header and descriptor.
const AHEAD: usize = 64 << 10;

/// Zeroes sent at a time.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Whether `name` is standard output (`-`) or a pipe.
#[must_use]
pub fn is_stream(name: &Path) -> bool {
    name == Path::new("-") || name.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Begins an image as `spec` asks for on the stream `name`.
pub(super) fn begin(name: &Path, spec: &TargetSpec) -> Result<Box<dyn Target>> {
    match &spec.options {
        // What ends a wrapped image is not known before all of it went through.
        TargetOptions::Raw(options) if options.wrap.is_some() => {
            Err(refused(name, "a wrapped image"))
        }
        TargetOptions::Raw(_) if spec.compression.is_none() => Ok(Box::new(RawStream {
            storage: open(name)?,
            size: spec.size,
            stored: Mutex::default(),
        })),
        TargetOptions::Vmdk(options) if options.kind == VmdkKind::StreamOptimized => {
            let mut spec = spec.clone();
            if name == Path::new("-") {
                "disk.vmdk".clone_into(&mut spec.name);
            }
            let empty = Arc::new(Memory::new("(empty image)", Vec::new()));
            let target = create(&spec, Arc::clone(&empty) as Arc<dyn StorageMut>, &OneFile)?;
            target.publish()?;
            let ahead = empty.to_vec();
            let ahead = ahead
                .get(..AHEAD)
                .ok_or_else(|| Error::internal("a streamOptimized VMDK without its beginning"))?;
            let storage = open(name)?;
            storage.send_ahead(ahead)?;
            create(&spec, storage, &OneFile).map_err(|error| error.in_file(name))
        }
        TargetOptions::Vmdk(_) => Err(refused(name, "a VMDK of this kind")),
        options => Err(refused(name, &format!("{}", options.format()))),
    }
}

fn refused(name: &Path, what: &str) -> Error {
    Error::unsupported(format!("{what} cannot be written to a pipe"))
        .in_file(name)
        .hint("write raw, or a VMDK with -o subformat=streamOptimized")
}

fn open(name: &Path) -> Result<Arc<Sequential>> {
    let failed = |error| Error::io("cannot open for writing", error).in_file(name);
    let out = if name == Path::new("-") {
        if std::io::stdout().is_terminal() {
            return Err(Error::usage("standard output is a terminal")
                .hint("send it to a file or a program"));
        }
        fs::File::from(
            std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(failed)?,
        )
    } else {
        fs::OpenOptions::new()
            .write(true)
            .open(name)
            .map_err(failed)?
    };
    Ok(Arc::new(Sequential {
        name: if name == Path::new("-") {
            PathBuf::from("(standard output)")
        } else {
            name.to_owned()
        },
        state: Mutex::new(State {
            out,
            at: 0,
            ahead: 0,
        }),
    }))
}

/// A storage that only goes forward.
struct Sequential {
    name: PathBuf,
    state: Mutex<State>,
}

struct State {
    out: fs::File,
    /// Everything before is sent.
    at: u64,
    /// Everything before was sent ahead: what is written there is there already.
    ahead: u64,
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Sequential {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_ahead(&self, bytes: &[u8]) -> Result<()> {
        self.write_at(bytes, 0)?;
        let state = &mut *self.state();
        state.ahead = state.at;
        Ok(())
    }

    fn send(&self, state: &mut State, bytes: &[u8]) -> Result<()> {
        state
            .out
            .write_all(bytes)
            .map_err(|error| Error::io("cannot write", error).in_file(&self.name))?;
        state.at += bytes.len() as u64;
        Ok(())
    }

    fn send_zeroes(&self, state: &mut State, to: u64) -> Result<()> {
        // Ends because `at` grows every round.
        while state.at < to {
            let len = usize::try_from(to - state.at).unwrap_or(ZEROES.len());
            self.send(state, &ZEROES[..len.min(ZEROES.len())])?;
        }
        Ok(())
    }
}

impl Storage for Sequential {
    fn name(&self) -> &Path {
        &self.name
    }

    fn size(&self) -> u64 {
        self.state().at
    }

    fn read_at(&self, _buf: &mut [u8], offset: u64) -> Result<()> {
        Err(Error::internal("a pipe was read back")
            .at(offset)
            .in_file(&self.name))
    }
}

impl StorageMut for Sequential {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let state = &mut *self.state();
        if data.is_empty() || offset + data.len() as u64 <= state.ahead {
            return Ok(());
        }
        if offset < state.at {
            return Err(Error::internal("a pipe takes bytes in ascending order")
                .at(offset)
                .in_file(&self.name));
        }
        self.send_zeroes(state, offset)?;
        self.send(state, data)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let state = &mut *self.state();
        if size < state.at && state.at > state.ahead {
            return Err(Error::internal("a pipe cannot be cut").in_file(&self.name));
        }
        self.send_zeroes(state, size)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        let state = &mut *self.state();
        let end = offset + len;
        if end <= state.ahead {
            return Ok(());
        }
        if offset < state.at {
            return Err(Error::internal("a pipe takes bytes in ascending order").at(offset));
        }
        self.send_zeroes(state, end)
    }

    fn reserve(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        // A file behind standard output can be flushed, a pipe cannot: whoever reads it has to.
        let _ = self.state().out.sync_data();
        Ok(())
    }
}

/// A raw image on a stream.
#[derive(Debug)]
struct RawStream {
    storage: Arc<Sequential>,
    size: u64,
    stored: Mutex<u64>,
}

impl Target for RawStream {
    fn unit(&self) -> NonZeroU64 {
        const { NonZeroU64::new(4096).unwrap() }
    }

    fn order(&self) -> Order {
        Order::Ascending
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let Payload::Plain(plain) = payload else {
            return Err(Error::internal("a raw stream takes plain bytes only").at(offset));
        };
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) += plain.len() as u64;
        self.storage.write_at(plain, offset)
    }

    fn publish(&self) -> Result<Written> {
        self.storage.set_size(self.size)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: *self.stored.lock().unwrap_or_else(PoisonError::into_inner),
            file_bytes: self.size,
        })
    }
}
