//! Rock Ridge: what POSIX wants to know of a file.
//!
//! Source: IEEE P1282 (Rock Ridge Interchange Protocol) 1.12, section 4.

use rehost_block::{Error, Result};

use super::record::Record;
use super::susp::Entry;
use super::time;
use crate::number::index;
use crate::{FileKind, Inode};

/// The longest name (Linux's `NAME_MAX`).
const MOST_NAME: usize = 255;

/// The longest target of a symbolic link (Linux's `PATH_MAX`).
const MOST_TARGET: usize = 4096;

/// The identifiers under which Rock Ridge announces itself.
const EXTENSIONS: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];

/// What the entries of one record say.
#[derive(Debug, Clone, Default)]
pub(super) struct Rock {
    pub(super) mode: Option<u16>,
    pub(super) kind: Option<FileKind>,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: Option<(u32, u32)>,
    pub(super) modified: Option<i64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    /// The block at which the directory is that this record stands for.
    pub(super) moved_to: Option<u32>,
    /// Whether this is the new place of a directory that belongs elsewhere.
    pub(super) moved_here: bool,
    /// Length of the content before it was compressed (zisofs).
    pub(super) unpacked: Option<u32>,
}

/// Whether the root's entries say that the tree has Rock Ridge.
pub(super) fn announced(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| match &entry.signature {
        b"ER" => {
            let f = entry.fields();
            let id = f.u8(0).and_then(|len| f.bytes(4, usize::from(len)));
            id.is_ok_and(|id| EXTENSIONS.contains(&id))
        }
        b"PX" | b"RR" => true,
        _ => false,
    })
}

impl Rock {
    /// Puts together what `entries` say of the file of `record`.
    pub(super) fn parse(entries: &[Entry], record: &Record) -> Result<Self> {
        let mut rock = Self {
            links: 1,
            ..Self::default()
        };
        let mut name = Text::new(MOST_NAME);
        let mut target = Target::new();
        for entry in entries {
            let f = entry.fields();
            match &entry.signature {
                b"PX" => {
                    let mode = f.u32_le(0)?;
                    rock.kind = Some(kind_of(mode).ok_or_else(|| {
                        f.corrupt(0, "unknown file type")
                            .mismatch("a file type", format!("{:#x}", mode & 0xf000))
                    })?);
                    let [low, high, ..] = (mode & 0xfff).to_le_bytes();
                    rock.mode = Some(u16::from_le_bytes([low, high]));
                    rock.links = f.u32_le(8)?;
                    rock.uid = f.u32_le(16)?;
                    rock.gid = f.u32_le(24)?;
                }
                b"PN" => rock.device = Some(device(f.u32_le(0)?, f.u32_le(8)?)),
                b"NM" => {
                    let flags = f.u8(0)?;
                    // Names of the directory itself and of its parent are not looked at.
                    if flags & 6 == 0 {
                        name.push(f.bytes(1, f.len().saturating_sub(1))?, record)?;
                        rock.name = Some(Vec::new());
                    }
                }
                b"SL" => {
                    target.push(entry, record)?;
                    rock.target = Some(Vec::new());
                }
                b"TF" => rock.modified = modified(entry)?.or(rock.modified),
                b"CL" => rock.moved_to = Some(f.u32_le(0)?),
                b"RE" => rock.moved_here = true,
                b"ZF" if f.bytes(0, 2)? == b"pz" => rock.unpacked = Some(f.u32_le(4)?),
                _ => {}
            }
        }
        rock.name = rock.name.map(|_| name.bytes);
        rock.target = rock.target.map(|_| target.text.bytes);
        Ok(rock)
    }

    /// The inode of the directory that this record stands for.
    pub(super) fn child(&self, block: u32) -> Option<Inode> {
        let first = u64::from(self.moved_to?);
        Some(Inode(first.saturating_mul(u64::from(block))))
    }
}

fn kind_of(mode: u32) -> Option<FileKind> {
    Some(match mode & 0xf000 {
        0x1000 => FileKind::Fifo,
        0x2000 => FileKind::CharDevice,
        0x4000 => FileKind::Directory,
        0x6000 => FileKind::BlockDevice,
        0x8000 => FileKind::Regular,
        0xa000 => FileKind::Symlink,
        0xc000 => FileKind::Socket,
        _ => return None,
    })
}

/// A device number in two halves; systems whose numbers fit into 32 bits put all of it in the low
/// one, in the old form of 8 bits each (as Linux reads it).
const fn device(high: u32, low: u32) -> (u32, u32) {
    if high == 0 && low > 0xff {
        (low >> 8, low & 0xff)
    } else {
        (high, low)
    }
}

/// The time of the last change of content, in one of two forms.
fn modified(entry: &Entry) -> Result<Option<i64>> {
    let f = entry.fields();
    let flags = f.u8(0)?;
    if flags & 2 == 0 {
        return Ok(None);
    }
    // The time of creation comes before it, where there is one.
    let before = usize::from(flags & 1 != 0);
    Ok(Some(if flags & 0x80 == 0 {
        let at = before.saturating_mul(7).saturating_add(1);
        time::short(f.bytes(at, 7)?)
    } else {
        let at = before.saturating_mul(17).saturating_add(1);
        time::long(f.bytes(at, 17)?)
    }))
}

/// Text that is put together of pieces, up to a length.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    most: usize,
}

impl Text {
    const fn new(most: usize) -> Self {
        Self {
            bytes: Vec::new(),
            most,
        }
    }

    fn push(&mut self, piece: &[u8], record: &Record) -> Result<()> {
        if self.bytes.len().saturating_add(piece.len()) > self.most {
            return Err(too_long(record, self.most));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

fn too_long(record: &Record, most: usize) -> Error {
    record
        .corrupt("a name or target is too long")
        .mismatch(format!("at most {most} bytes"), "more")
}

/// The target of a symbolic link: components in pieces.
#[derive(Debug)]
struct Target {
    text: Text,
    /// Whether the next component begins with a slash before it.
    divided: bool,
}

impl Target {
    const fn new() -> Self {
        Self {
            text: Text::new(MOST_TARGET),
            divided: false,
        }
    }

    fn push(&mut self, entry: &Entry, record: &Record) -> Result<()> {
        let f = entry.fields();
        let mut at = 1usize;
        // Ends because every component takes at least two bytes.
        while at < f.len() {
            let (flags, len) = (f.u8(at)?, f.u8(at.saturating_add(1))?);
            let piece = f.bytes(at.saturating_add(2), index(u32::from(len)))?;
            if self.divided {
                self.text.push(b"/", record)?;
            }
            // What continues goes on without a slash, and after the root there is one already.
            self.divided = flags & 1 == 0;
            match flags & !1 {
                0 => self.text.push(piece, record)?,
                2 => self.text.push(b".", record)?,
                4 => self.text.push(b"..", record)?,
                8 => {
                    self.text.push(b"/", record)?;
                    self.divided = false;
                }
                other => {
                    return Err(f
                        .unsupported(at, "component of a symbolic link")
                        .mismatch("flags 0, 2, 4 or 8", other));
                }
            }
            at = at.saturating_add(2).saturating_add(usize::from(len));
        }
        Ok(())
    }
}
