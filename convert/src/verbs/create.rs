//! `create`: an image without content, or a child that is its parent still.

use std::path::Path;

use rehost_block::{Error, Result};
use rehost_image::{Written, create as begin};

use crate::unfinished::UnfinishedFiles;
use crate::write::{Writing, spec};

/// Makes the image `name` of `size` guest bytes. Every file gets its name only when it is whole.
///
/// # Errors
/// Usage when the format cannot do what is asked for, the name is taken, or it is a device; Io when a
/// file cannot be written.
pub fn create(name: &Path, size: u64, writing: &Writing<'_>) -> Result<Written> {
    if name.metadata().is_ok_and(|there| !there.is_file()) {
        return Err(Error::usage("is no file that could be made")
            .in_file(name)
            .hint("choose another name"));
    }
    let parents = writing.parent.map_or(&[][..], |parent| parent.files());
    let (files, file) = UnfinishedFiles::create(name, writing.existing, parents)?;
    let target =
        begin(&spec(size, name, writing), file, &files).map_err(|error| error.in_file(name))?;
    let written = target.publish()?;
    drop(target);
    files.finish()?;
    Ok(written)
}
