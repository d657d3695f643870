//! The content of a file, piece after piece.
//!
//! Where it is of several pieces, they are read by several threads, checked and unpacked there, and taken
//! in their order: what reads a stream otherwise waits for one processor that copies, sums and inflates.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rehost_block::Error;

use super::Found;
use crate::turn::{Turnstile, in_parallel};

/// Bytes read at a time: what stays in a processor's own cache until it is written.
const PIECE: usize = 128 << 10;

/// Pieces below which one thread reads alone: starting others takes as long as reading some MiB.
const FEW: u64 = 32;

/// Threads at most: more than so many only wait for whoever takes the pieces.
const MOST_THREADS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

impl Found {
    /// Gives the content of a regular file in order, a piece at a time.
    ///
    /// # Errors
    /// As [`FileSystem::read_at`](rehost_fs::FileSystem::read_at), and whatever `take` gives, which is not
    /// called again then.
    pub fn read_in_pieces<E: From<Error> + Send>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let pieces = self.fs.attributes(self.inode)?.size.div_ceil(PIECE as u64);
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        if pieces >= FEW && threads > NonZeroUsize::MIN {
            return self.in_turns(pieces, threads.min(MOST_THREADS), take);
        }
        let mut piece = vec![0; PIECE];
        let mut at = 0u64;
        // Ends because the filesystem gives no bytes at the end of the file.
        loop {
            let len = self.fs.read_at(self.inode, &mut piece, at)?;
            if len == 0 {
                return Ok(());
            }
            take(&piece[..len])?;
            at += len as u64;
        }
    }

    fn in_turns<E: From<Error> + Send>(
        &self,
        pieces: u64,
        threads: NonZeroUsize,
        take: impl FnMut(&[u8]) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let next = AtomicU64::new(0);
        let turns = Turnstile::default();
        // Only whose turn it is locks it: nobody waits here.
        let ends = Mutex::new((take, Ok(())));
        in_parallel(threads, || {
            let _guard = turns.stop_on_panic();
            let mut piece = vec![0; PIECE];
            // Ends because the pieces are counted.
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pieces || turns.stopped() {
                    return;
                }
                let read = self
                    .fs
                    .read_at(self.inode, &mut piece, number * PIECE as u64);
                let Some(turn) = turns.wait_for(number) else {
                    return;
                };
                let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                let (take, end) = &mut *ends;
                // The next one may have its turn before everybody is stopped.
                if end.is_ok() {
                    *end = read.map_err(E::from).and_then(|len| take(&piece[..len]));
                }
                let failed = end.is_err();
                drop(ends);
                drop(turn);
                if failed {
                    turns.stop();
                }
            }
        })?;
        ends.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}
