//! Ctrl-C: a flag that the long steps look at, so that a stopped run can clear up after itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rehost_block::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that SIGINT and SIGTERM set. A second signal ends the process at once.
///
/// # Errors
/// Io when the signals cannot be caught.
pub fn flag() -> Result<&'static AtomicBool> {
    if let Some(flag) = FLAG.get() {
        return Ok(flag);
    }
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and only sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map_err(|error| Error::io("cannot catch signals", error))?;
    }
    Ok(flag)
}

/// Gives up when the flag is set.
///
/// # Errors
/// Usage when it is.
pub fn check(flag: &AtomicBool) -> Result<()> {
    if flag.load(Ordering::Relaxed) {
        Err(Error::usage("interrupted").hint("nothing unfinished was left behind"))
    } else {
        Ok(())
    }
}
