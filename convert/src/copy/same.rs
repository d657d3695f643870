//! Two disks side by side: what each has at a place, and whether that is the same without a look at
//! the bytes.

use std::sync::Arc;

use rehost_block::{Disk, Error, Located, Result, Run, Storage};

/// As [`Disk::locate`], with zeroes behind the disk's end.
///
/// # Errors
/// What the disk gives; Internal when it answers with nothing.
pub(crate) fn locate(disk: &dyn Disk, at: u64, want: u64) -> Result<Located> {
    if at >= disk.size() {
        return Ok(Located::new(Run::Zero, want));
    }
    let located = disk.locate(at, want)?;
    if located.len == 0 {
        return Err(Error::internal("locate answered with an empty run").at(at));
    }
    Ok(located)
}

/// When two storages are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SameStorage {
    /// When they were opened once.
    Opened,
    /// When they are called the same: right for image files only, each opened on its own.
    Named,
}

impl SameStorage {
    fn holds(self, a: &Arc<dyn Storage>, b: &Arc<dyn Storage>) -> bool {
        match self {
            Self::Opened => Arc::ptr_eq(a, b),
            Self::Named => a.name() == b.name(),
        }
    }

    /// Whether two runs read the same because they are the same bytes.
    pub(crate) fn place(self, a: &Run, b: &Run) -> bool {
        match (a, b) {
            (Run::Zero, Run::Zero) => true,
            (
                Run::At { storage, offset },
                Run::At {
                    storage: other,
                    offset: place,
                },
            ) => offset == place && self.holds(storage, other),
            (Run::Packed(a), Run::Packed(b)) => {
                (a.offset, a.skip) == (b.offset, b.skip) && self.holds(&a.storage, &b.storage)
            }
            _ => false,
        }
    }
}
