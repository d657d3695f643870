//! A VMDK changed in place: `monolithicSparse`, `twoGbMaxExtentSparse` and the flat kinds.
//!
//! The `CID` changes before the first byte of content does, so that children of this disk notice.
//!
//! Leaves out on purpose, refused by name: `streamOptimized` extents, the snapshots of ESX and ESXi,
//! writes to `RDONLY`, `NOACCESS` and `ZERO` extents, and sizes that would add an extent to a disk or
//! take one away.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Error, Layer, Located, Result, StorageMut};

use super::descriptor::Access;
use super::header::Grains;
use super::layer::Joined;
use super::lines::Lines;
use super::members::{self, Body, ExtentFile, Member, Members};
use super::open::join;
use super::sparse::Absent;
use super::sparse_edit::SparseEdit;
use super::text::{fresh_cid, parent_lines};
use super::{SECTOR, SPLIT, amount, cowd, length, se_sparse};
use crate::create::TargetBacking;
use crate::in_place::{Editing, LayerMut};

/// Bytes per unit of flat disks: a page, below which file systems have no holes.
const PAGE: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// A VMDK that can be changed.
#[derive(Debug)]
struct VmdkEdit {
    path: PathBuf,
    storage: Arc<dyn StorageMut>,
    members: Members,
    extents: Vec<ExtentEdit>,
    unit: NonZeroU64,
    absent: Absent,
    /// Whether the `CID` is a new one.
    noticed: bool,
    /// How the extents read; none after a change.
    joined: Mutex<Option<Arc<Joined>>>,
}

/// How an extent is changed.
#[derive(Debug)]
enum ExtentEdit {
    Flat(ExtentFile, Arc<dyn StorageMut>, u64),
    Sparse(Box<SparseEdit>),
    /// Not at all, in this line of the descriptor.
    Never(u64),
}

/// Opens a VMDK for changes.
///
/// # Errors
/// As [`open`](super::open::open); Unsupported for kinds that cannot be changed in place.
pub(crate) fn edit(editing: &Editing<'_>) -> Result<Box<dyn LayerMut>> {
    let members = members::open(&editing.opening())?;
    let absent = match members.descriptor.parent {
        Some(_) => Absent::Below,
        None => Absent::Zero,
    };
    let mut extents = Vec::new();
    let mut unit = PAGE;
    for (member, extent) in members.members.iter().zip(&members.descriptor.extents) {
        let open = |file: &ExtentFile| {
            if file.path == editing.path {
                Ok(Arc::clone(&editing.storage))
            } else {
                editing.files.open(&file.path)
            }
        };
        extents.push(match &member.body {
            Body::Zero | Body::Forbidden(_) => ExtentEdit::Never(extent.line),
            _ if extent.access != Access::ReadWrite => ExtentEdit::Never(extent.line),
            Body::Flat(file, offset) => ExtentEdit::Flat(file.clone(), open(file)?, *offset),
            Body::Sparse(file, header) => {
                refuse_kind(file, header)?;
                if header.grain > unit {
                    unit = header.grain;
                }
                let storage = open(file)?;
                ExtentEdit::Sparse(Box::new(SparseEdit::new(file.clone(), storage, *header)))
            }
        });
    }
    for member in &members.members {
        if let Body::Sparse(_, header) = &member.body
            && (header.grain > unit || unit.get() % header.grain != 0)
        {
            return Err(Error::unsupported(
                "extents with grains of different sizes cannot be changed in place",
            ));
        }
    }
    // Reads what is there before anything is changed: damage is an error now and not later.
    let joined = join(&members, absent)?;
    Ok(Box::new(VmdkEdit {
        path: editing.path.to_owned(),
        storage: Arc::clone(&editing.storage),
        members,
        extents,
        unit,
        absent,
        noticed: false,
        joined: Mutex::new(Some(Arc::new(joined))),
    }))
}

/// Refuses the kinds of sparse extents that cannot be changed in place.
fn refuse_kind(file: &ExtentFile, header: &super::header::Header) -> Result<()> {
    let mut magic = [0; 8];
    file.storage.read_at(&mut magic, 0)?;
    let kind = if header.grains == Grains::Compressed {
        "streamOptimized VMDKs"
    } else if magic.starts_with(cowd::MAGIC) {
        "vmfsSparse (COWD) snapshots"
    } else if u64::from_le_bytes(magic) == se_sparse::MAGIC {
        "seSparse snapshots"
    } else {
        return Ok(());
    };
    Err(
        Error::unsupported(format!("{kind} cannot be changed in place"))
            .in_file(&file.path)
            .hint("convert it into a new image instead"),
    )
}

impl VmdkEdit {
    /// The text of the descriptor, as lines.
    fn lines(&self) -> Result<Lines> {
        let text = &self.members.text;
        let mut bytes = vec![0; length(text.end.saturating_sub(text.start))?];
        self.storage.read_at(&mut bytes, text.start)?;
        Ok(Lines::new(&bytes))
    }

    /// Writes the descriptor.
    fn write(&mut self, lines: &Lines) -> Result<()> {
        let mut bytes = lines.encode();
        if self.members.embedded {
            let room = self
                .members
                .text
                .end
                .saturating_sub(self.members.text.start);
            if amount(bytes.len()) > room {
                return Err(
                    Error::usage("there is no room in the image for a longer descriptor")
                        .hint("choose a shorter name for the parent"),
                );
            }
            bytes.resize(length(room)?, 0);
            self.storage.write_at(&bytes, self.members.text.start)
        } else {
            let len = amount(bytes.len());
            self.storage.write_at(&bytes, 0)?;
            self.storage.set_size(len)?;
            self.members.text = 0..len;
            Ok(())
        }
    }

    /// What must happen before content changes.
    fn notice(&mut self) -> Result<()> {
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if !self.noticed {
            let mut lines = self.lines()?;
            lines.set("CID", &format!("{:08x}", fresh_cid()), "version")?;
            self.write(&lines)?;
            self.noticed = true;
        }
        Ok(())
    }

    /// The parts of `len` bytes from `offset`: the number of an extent, the offset in it, the
    /// length.
    fn parts(&self, offset: u64, len: u64) -> Result<Vec<(usize, u64, u64)>> {
        let end = offset.saturating_add(len);
        let whole = end == self.size() || end % self.unit == 0;
        if end > self.size() || offset % self.unit != 0 || !whole {
            return Err(Error::usage("range lies outside the disk or off its units").at(offset));
        }
        let mut parts = Vec::new();
        for (nth, Member { range, .. }) in self.members.members.iter().enumerate() {
            let from = range.start.max(offset);
            let to = range.end.min(end);
            if from < to {
                let within = from.saturating_sub(range.start);
                if within % self.unit != 0 {
                    return Err(Error::unsupported(
                        "extents that begin inside a grain cannot be changed in place",
                    )
                    .at(offset));
                }
                parts.push((nth, within, to.saturating_sub(from)));
            }
        }
        Ok(parts)
    }

    fn extent(&mut self, nth: usize) -> Result<&mut ExtentEdit> {
        let path = self.path.clone();
        match self.extents.get_mut(nth) {
            Some(ExtentEdit::Never(line)) => Err(Error::unsupported(format!(
                "the extent in line {line} of the descriptor cannot be written to"
            ))
            .in_file(path)
            .hint("convert it into a new image instead")),
            Some(extent) => Ok(extent),
            None => Err(Error::internal("a disk with an extent too few")),
        }
    }

    /// Takes over what `extent` says of itself, and another length of the last extent.
    fn renew(&mut self, nth: usize, end: Option<u64>) {
        let (Some(member), Some(extent)) =
            (self.members.members.get_mut(nth), self.extents.get(nth))
        else {
            return;
        };
        if let ExtentEdit::Sparse(sparse) = extent {
            member.body = Body::Sparse(sparse.file.clone(), sparse.header);
        }
        if let Some(end) = end {
            member.range.end = end;
        }
    }
}

impl Layer for VmdkEdit {
    fn size(&self) -> u64 {
        self.members.members.last().map_or(0, |last| last.range.end)
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = match &*joined {
            Some(disk) => Arc::clone(disk),
            None => Arc::clone(joined.insert(Arc::new(join(&self.members, self.absent)?))),
        };
        drop(joined);
        disk.locate(offset, want)
    }
}

impl LayerMut for VmdkEdit {
    fn unit(&self) -> NonZeroU64 {
        self.unit
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        let parts = self.parts(offset, amount(plain.len()))?;
        for (nth, ..) in &parts {
            self.extent(*nth)?;
        }
        self.notice()?;
        let mut rest = plain;
        for (nth, within, len) in parts {
            let (part, tail) = rest
                .split_at_checked(length(len)?)
                .ok_or_else(|| Error::internal("a payload shorter than its parts"))?;
            match self.extent(nth)? {
                ExtentEdit::Flat(_, storage, start) => {
                    storage.write_at(part, start.saturating_add(within))?;
                }
                ExtentEdit::Sparse(sparse) => sparse.put(within, part)?,
                ExtentEdit::Never(_) => {}
            }
            rest = tail;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let parts = self.parts(offset, len)?;
        for (nth, ..) in &parts {
            self.extent(*nth)?;
        }
        self.notice()?;
        let absent = self.absent;
        for (nth, within, len) in parts {
            match self.extent(nth)? {
                ExtentEdit::Flat(_, storage, start) => {
                    storage.zero_at(start.saturating_add(within), len)?;
                }
                ExtentEdit::Sparse(sparse) => sparse.zero(within, len, absent)?,
                ExtentEdit::Never(_) => {}
            }
            self.renew(nth, None);
        }
        Ok(())
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        if self.absent == Absent::Zero {
            return self.zero(offset, len);
        }
        let parts = self.parts(offset, len)?;
        for (nth, ..) in &parts {
            if !matches!(self.extent(*nth)?, ExtentEdit::Sparse(_)) {
                return Err(Error::unsupported(
                    "a flat extent has no parent to read from",
                ));
            }
        }
        self.notice()?;
        for (nth, within, len) in parts.into_iter().rev() {
            if let ExtentEdit::Sparse(sparse) = self.extent(nth)? {
                sparse.forget(within, len)?;
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        let size = size.next_multiple_of(SECTOR);
        let before = self.size();
        if size == before {
            return Ok(());
        }
        let last = self.extents.len().saturating_sub(1);
        let start = self
            .members
            .members
            .last()
            .map_or(0, |last| last.range.start);
        let kind = self.members.descriptor.create_type.to_ascii_lowercase();
        let longest = self.members.descriptor.extents.iter().map(|e| e.len).max();
        let most = if kind.contains("gbmaxextent") {
            longest.unwrap_or(0).max(SPLIT.get())
        } else {
            u64::MAX
        };
        let len = size.saturating_sub(start);
        if len == 0 || len > most {
            let what = if len == 0 {
                "take an extent away"
            } else {
                "add an extent"
            };
            return Err(Error::unsupported(format!(
                "the disk is split: this size would {what}, which is not done in place"
            ))
            .hint("convert it into a new image instead"));
        }
        self.refuse_shared_file(last)?;
        let absent = self.absent;
        let mut lines = self.lines()?;
        match self.extent(last)? {
            ExtentEdit::Flat(_, storage, offset) => {
                // What is cut off, or lies behind the disk, must not be seen when it grows.
                let kept = len.min(before.saturating_sub(start));
                storage.set_size(offset.saturating_add(kept))?;
                storage.set_size(offset.saturating_add(len))?;
            }
            ExtentEdit::Sparse(sparse) => sparse.resize(len, absent)?,
            ExtentEdit::Never(_) => {}
        }
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.renew(last, Some(size));
        if let Some(extent) = self.members.descriptor.extents.last_mut() {
            extent.len = len;
            lines.set_extent(extent.line, len / SECTOR);
        }
        lines.set_cylinders(size / SECTOR);
        self.write(&lines)
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        let sparse = |extent: &ExtentEdit| matches!(extent, ExtentEdit::Sparse(_));
        let mut lines = self.lines()?;
        match backing {
            None => {
                lines.set("parentCID", "ffffffff", "CID")?;
                lines.remove("parentFileNameHint");
            }
            Some(_) if !self.extents.iter().all(sparse) => {
                return Err(
                    Error::usage("VMDKs that are not sparse cannot have a backing file")
                        .hint("convert it into a monolithicSparse VMDK first"),
                );
            }
            Some(backing) => {
                let (cid, hint) = parent_lines(backing)?;
                let value = |line: &str| {
                    let (_, value) = line.trim_end().split_once('=').unwrap_or_default();
                    value.to_owned()
                };
                lines.set("parentCID", &value(&cid), "CID")?;
                lines.set("parentFileNameHint", &value(&hint), "createType")?;
            }
        }
        self.write(&lines)?;
        // The line of every extent behind it may be another one now.
        self.members.descriptor = self.parsed()?;
        self.absent = match backing {
            Some(_) => Absent::Below,
            None => Absent::Zero,
        };
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl VmdkEdit {
    /// Refuses to cut or grow a file in which another extent is too.
    fn refuse_shared_file(&self, nth: usize) -> Result<()> {
        let path = |extent: &ExtentEdit| match extent {
            ExtentEdit::Flat(file, ..) => Some(file.path.clone()),
            ExtentEdit::Sparse(sparse) => Some(sparse.file.path.clone()),
            ExtentEdit::Never(_) => None,
        };
        let own = self.extents.get(nth).and_then(path);
        let users = self.extents.iter().filter(|extent| path(extent) == own);
        if own.is_some() && users.count() > 1 {
            return Err(
                Error::unsupported("two extents are in one file, which cannot be resized")
                    .hint("convert it into a new image instead"),
            );
        }
        Ok(())
    }

    /// The descriptor as it is now.
    fn parsed(&self) -> Result<super::descriptor::Descriptor> {
        super::descriptor::Descriptor::parse(&self.lines()?.encode(), self.members.text.start)
    }
}
