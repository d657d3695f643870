//! The memory that a file may cost: a counting allocator that says no.
//!
//! It counts what Rust allocates. What C libraries do (zstd, lzma) is bounded by the limit that the
//! fuzzer sets to the whole process.

use std::alloc::System;
use std::sync::{Mutex, PoisonError};

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What every file may cost, in bytes: caches and buffers of a few units.
const ALWAYS: usize = 64 << 20;

/// What each byte of a file may cost besides.
const PER_BYTE: usize = 16;

/// Takes the limit away however the body ends.
struct Limited;

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = MEMORY.set_limit(usize::MAX);
    }
}

/// Runs `body` within the means of a file of `len` bytes: an allocation beyond them fails, which ends
/// the process. One body at a time.
pub(crate) fn within(len: usize, body: impl FnOnce()) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let means = len.saturating_mul(PER_BYTE).saturating_add(ALWAYS);
    let _limited = Limited;
    MEMORY
        .set_limit(MEMORY.allocated().saturating_add(means))
        .expect("a limit above what is allocated");
    body();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_a_files_means_is_refused() {
        within(1000, || {
            let mut bytes: Vec<u8> = Vec::new();
            assert!(bytes.try_reserve_exact(ALWAYS).is_ok());
            assert!(Vec::<u8>::new().try_reserve_exact(1 << 20).is_err());
        });
        assert!(Vec::<u8>::new().try_reserve_exact(2 * ALWAYS).is_ok());
    }
}
