//! Going through all files below a directory of a guest, for `tree` and `du`.

use std::collections::HashSet;

use rehost_block::{Error, Kind};
use rehost_fs::{FileKind, Inode};
use rehost_inspect::model::FilesystemRef;

use crate::browse::{Browse, Entry, Found, Listing};

/// Directories inside one another that are gone into. Linux's own longest path has fewer.
pub(super) const DEEPEST: usize = 2048;

/// A walk on its way: it goes into no directory twice, so it ends on any filesystem.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    browse: &'a Browse,
    seen: HashSet<(FilesystemRef, Inode)>,
    /// What could not be read.
    pub(super) failed: Vec<Error>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(browse: &'a Browse) -> Self {
        Self {
            browse,
            seen: HashSet::new(),
            failed: Vec::new(),
        }
    }

    /// What is in a directory `depth` levels down; nothing where it cannot be read, or was gone into.
    ///
    /// # Errors
    /// Only where reading a disk fails.
    pub(super) fn go_into(&mut self, directory: &Found, depth: usize) -> Result<Vec<Entry>, Error> {
        let key = (directory.at.clone(), directory.inode);
        let listing = if depth > DEEPEST {
            Err(Error::corrupt("directories are nested without end"))
        } else if !self.seen.insert(key) {
            Err(Error::corrupt(
                "a directory is inside itself, or in two places",
            ))
        } else {
            self.browse.children(directory)
        };
        match listing {
            Ok(Listing { entries, failed }) => {
                self.failed.extend(failed);
                Ok(entries)
            }
            Err(error) if error.kind() == Kind::Io => Err(error),
            Err(error) => {
                let path = String::from_utf8_lossy(&directory.path).into_owned();
                self.failed.push(error.in_file(path));
                Ok(Vec::new())
            }
        }
    }

    /// Whether a file was met before under another name.
    pub(super) fn is_again(&mut self, entry: &Entry) -> bool {
        entry.attributes.links > 1
            && entry.attributes.kind != FileKind::Directory
            && !self
                .seen
                .insert((entry.found.at.clone(), entry.found.inode))
    }

    /// Says what could not be read, the first of it as the error that ends the command.
    pub(super) fn end(self) -> anyhow::Result<()> {
        tell(self.failed)
    }
}

/// Errors that did not keep the rest from being shown: the last of them ends the command.
pub(super) fn tell(mut failed: Vec<Error>) -> anyhow::Result<()> {
    let last = failed.pop();
    for error in failed {
        eprintln!("rehost: {}", crate::voice::plain(&error.to_string()));
    }
    last.map_or(Ok(()), |error| Err(error.into()))
}

/// A number of bytes as `ls -h` shows it: `512`, `4.0K`, `17M`, rounded up.
pub(super) fn human(count: u64) -> String {
    if count < 1024 {
        return count.to_string();
    }
    let mut unit = 1u128;
    let count = u128::from(count);
    for name in ["K", "M", "G", "T", "P", "E"] {
        unit *= 1024;
        let tenths = (count * 10).div_ceil(unit);
        if tenths < 100 {
            return format!("{}.{}{name}", tenths / 10, tenths % 10);
        }
        let whole = count.div_ceil(unit);
        if whole < 1024 {
            return format!("{whole}{name}");
        }
    }
    format!("{}E", count.div_ceil(1 << 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_look_as_coreutils_show_them() {
        // What `numfmt --to=iec --round=up` prints.
        for (count, shown) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10_239, "10K"),
            (1_048_575, "1.0M"),
            (17 << 20, "17M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(count), shown, "{count}");
        }
    }
}
