//! One file of a chain: what a format's `open` takes and gives, and what is told of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Layer, Opener, Storage};
use rehost_luks::Secret;
use serde::Serialize;

use crate::Format;
use crate::details::Details;
use crate::wrapper::Wrapping;

/// What is known of one image file: what `qemu-img info` would show.
#[derive(Debug, Clone, Serialize)]
pub struct LayerDescription {
    /// The file, links followed.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Whether the format was told apart by content, neither given nor named by the child.
    pub sniffed: bool,
    /// What the file is wrapped in; its format and everything else is of the image inside.
    pub wrapper: Option<Wrapping>,
    /// Guest-visible size in bytes.
    pub virtual_size: u64,
    /// Length of the file (and its extents or data file) in bytes.
    pub file_size: u64,
    /// Bytes per allocation unit (cluster, grain), where the format has one.
    pub unit: Option<u64>,
    /// The codec of compressed units, where the format allows them.
    pub compression: Option<&'static str>,
    /// The parent it names.
    pub backing: Option<Backing>,
    /// What only this format has.
    pub details: Details,
}

/// A parent as its child names it.
#[derive(Debug, Clone, Serialize)]
pub struct Backing {
    /// The name as written in the child.
    pub name: PathBuf,
    /// The format as written in the child; without it the parent's content decides.
    pub format: Option<Format>,
}

/// One file of a chain on its way to be opened: what each format's `open` takes.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// Where the file is.
    pub(crate) path: &'a Path,
    /// Its bytes.
    pub(crate) storage: Arc<dyn Storage>,
    /// The gate for every further file.
    pub(crate) opener: &'a dyn Opener,
    /// The internal snapshot to open it as of, by name or id; its own disk without one.
    pub(crate) snapshot: Option<&'a str>,
    /// What opens it if it is encrypted.
    pub(crate) key: Option<&'a Secret>,
}

/// One opened file of a chain: what each format's `open` gives. The parent, where
/// `description.backing` names one, is opened by [`Image`](crate::Image).
#[derive(Debug)]
pub(crate) struct OpenedLayer {
    /// Where the guest bytes are.
    pub(crate) layer: Arc<dyn Layer>,
    /// `sniffed` is overwritten by [`Image`](crate::Image), which knows.
    pub(crate) description: LayerDescription,
    /// Files opened besides the image itself (extents, data file), parents excluded.
    pub(crate) files: Vec<PathBuf>,
}
