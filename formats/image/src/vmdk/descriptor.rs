//! The VMDK descriptor: the text that names a disk's extents, its identity and its parent.
//!
//! VMware "Virtual Disk Format 5.0", "The Descriptor File". A line is a comment, an assignment, an
//! extent or blank, each judged by itself: blank lines and comments may stand anywhere, and
//! QEMU 7.2 counts an extent twice when a blank line comes before it.
//!
//! Leaves out on purpose: the change tracking file (`changeTrackPath`), and character sets other
//! than UTF-8 for anything but file names, which are taken byte for byte.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rehost_block::{Error, Result};

use super::SECTOR;

/// The longest descriptor that is read. Ours: a disk of 62 TiB in extents of 2 GB has 32,000
/// extent lines, about 1.5 MiB.
pub(super) const MAX_DESCRIPTOR: u64 = 4 << 20;

/// The name errors use.
const STRUCTURE: &str = "descriptor";

/// The first line of every descriptor.
const SIGNATURE: &[u8] = b"# Disk DescriptorFile";

/// `parentCID` of a disk without a parent.
const NO_PARENT: u32 = u32::MAX;

/// A parsed descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// `CID`: changes whenever the content does.
    pub(super) cid: u32,
    /// `createType`, as written.
    pub(super) create_type: String,
    /// The parent, for a snapshot or linked clone.
    pub(super) parent: Option<Parent>,
    /// The extents, in the order in which they make up the disk.
    pub(super) extents: Vec<Extent>,
    /// `ddb.adapterType`: the controller that the disk hung on.
    pub(super) adapter: Option<String>,
}

/// What a descriptor says of its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    /// `parentCID`: the `CID` that the parent had when the child was made.
    pub(super) cid: u32,
    /// `parentFileNameHint`.
    pub(super) hint: PathBuf,
}

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// Whether the guest may use it.
    pub(super) access: Access,
    /// Guest-visible length in bytes: a multiple of 512 and not 0.
    pub(super) len: u64,
    /// How its bytes are stored, and where.
    pub(super) kind: ExtentKind,
    /// The line's number in the descriptor, from 1.
    pub(super) line: u64,
}

/// The first word of an extent line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The guest reads and writes it.
    ReadWrite,
    /// The guest reads it.
    ReadOnly,
    /// The guest gets an error whenever it touches it.
    None,
}

/// The third word of an extent line, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// `FLAT`, `VMFS`, `VMFSRDM` and `VMFSRAW`: bytes as they are, from `offset` (in bytes) of
    /// `file`, which may be a device or the map of one.
    Flat {
        /// The file, as written.
        file: PathBuf,
        /// Where in it the extent begins, in bytes.
        offset: u64,
    },
    /// `SPARSE`, `VMFSSPARSE` and `SESPARSE`: a file with grain tables, which says of what kind it
    /// is.
    Sparse {
        /// The file, as written.
        file: PathBuf,
    },
    /// `ZERO`: zeroes, without a file.
    Zero,
}

impl Descriptor {
    /// Parses the descriptor `text`, which lies at byte `base` of its file and may be padded with
    /// NUL bytes.
    ///
    /// # Errors
    /// Corrupt where a line breaks the grammar; Unsupported for extents of a kind that is not read.
    pub(super) fn parse(text: &[u8], base: u64) -> Result<Self> {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        if !text.starts_with(SIGNATURE) {
            return Err(corrupt("does not begin with \"# Disk DescriptorFile\"").at(base));
        }
        let mut lines = Lines::default();
        let mut at = base;
        // Ends because `split` walks over a text of finite length.
        for (number, line) in (1u64..).zip(text.split(|byte| *byte == b'\n')) {
            lines
                .take(line.trim_ascii(), number)
                .map_err(|error| error.in_structure(STRUCTURE).at(at))?;
            at = at
                .saturating_add(1)
                .saturating_add(super::amount(line.len()));
        }
        lines.finish().map_err(|error| error.at(base))
    }

    /// Guest-visible size in bytes.
    ///
    /// # Errors
    /// Corrupt when the extents add up to more than 64 bits can count.
    pub(super) fn size(&self) -> Result<u64> {
        self.extents.iter().try_fold(0u64, |sum, extent| {
            sum.checked_add(extent.len)
                .ok_or_else(|| corrupt("extents add up to more than 2^64 bytes"))
        })
    }
}

/// What the lines so far have said.
#[derive(Debug, Default)]
struct Lines {
    version: Option<u32>,
    cid: Option<u32>,
    parent_cid: Option<u32>,
    hint: Option<PathBuf>,
    create_type: Option<String>,
    adapter: Option<String>,
    extents: Vec<Extent>,
}

impl Lines {
    fn take(&mut self, line: &[u8], number: u64) -> Result<()> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let first = line
            .split(|byte| byte.is_ascii_whitespace() || *byte == b'=')
            .next()
            .unwrap_or_default();
        let access = match first {
            b"RW" => Access::ReadWrite,
            b"RDONLY" => Access::ReadOnly,
            b"NOACCESS" => Access::None,
            _ => return self.assign(line),
        };
        let rest = line.get(first.len()..).unwrap_or_default();
        self.extents.push(extent(access, rest, number)?);
        Ok(())
    }

    fn assign(&mut self, line: &[u8]) -> Result<()> {
        let split = line.iter().position(|byte| *byte == b'=').ok_or_else(|| {
            corrupt("line is neither a comment, an assignment nor an extent")
                .mismatch("KEY=VALUE", quoted(line))
        })?;
        let (key, value) = line.split_at(split);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .unwrap_or(value);
        let text = || String::from_utf8_lossy(value).into_owned();
        // VMware's own tools accept the keys in any case.
        match key.trim_ascii().to_ascii_lowercase().as_slice() {
            b"version" => self.version = Some(decimal("version", value)?),
            b"cid" => self.cid = Some(hexadecimal("CID", value)?),
            b"parentcid" => self.parent_cid = Some(hexadecimal("parentCID", value)?),
            b"parentfilenamehint" => self.hint = Some(PathBuf::from(OsStr::from_bytes(value))),
            b"createtype" => self.create_type = Some(text()),
            b"ddb.adaptertype" => self.adapter = Some(text()),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Descriptor> {
        let missing = |key| corrupt(format!("has no {key}"));
        // 1: Virtual Disk Format 1.1 and 5.0. 2 and 3 (encryption, ESX 5.5 and later) change
        // nothing that is read here, and QEMU and libyal read them as well.
        match self.version {
            None | Some(1..=4) => {}
            Some(other) => {
                return Err(Error::unsupported("descriptor version is not known")
                    .in_structure(STRUCTURE)
                    .mismatch("1 to 4", other));
            }
        }
        let parent = match self.parent_cid {
            None | Some(NO_PARENT) => None,
            Some(cid) => Some(Parent {
                cid,
                hint: self.hint.ok_or_else(|| missing("parentFileNameHint"))?,
            }),
        };
        if self.extents.is_empty() {
            return Err(missing("extents"));
        }
        Ok(Descriptor {
            cid: self.cid.ok_or_else(|| missing("CID"))?,
            create_type: self.create_type.ok_or_else(|| missing("createType"))?,
            parent,
            extents: self.extents,
            adapter: self.adapter,
        })
    }
}

/// The part of an extent line after its access word:
/// `SECTORS TYPE ["FILE" [OFFSET [partition UUID, device]]]`.
fn extent(access: Access, rest: &[u8], line: u64) -> Result<Extent> {
    let (sectors, rest) = word(rest);
    let (kind, rest) = word(rest);
    let len = number::<u64>("extent size", sectors, 10)?
        .checked_mul(SECTOR)
        .filter(|len| *len > 0)
        .ok_or_else(|| {
            corrupt("extent size is no count of sectors").mismatch("1 or more", quoted(sectors))
        })?;
    let kind = match kind {
        b"ZERO" => ExtentKind::Zero,
        b"FLAT" | b"VMFS" | b"VMFSRDM" | b"VMFSRAW" => {
            let (file, rest) = name(rest)?;
            let (offset, _) = word(rest);
            let offset = if offset.is_empty() {
                0
            } else {
                number::<u64>("extent offset", offset, 10)?
                    .checked_mul(SECTOR)
                    .ok_or_else(|| corrupt("extent offset is past any file's end"))?
            };
            ExtentKind::Flat { file, offset }
        }
        b"SPARSE" | b"VMFSSPARSE" | b"SESPARSE" => ExtentKind::Sparse {
            file: name(rest)?.0,
        },
        other => return Err(unread(other)),
    };
    Ok(Extent {
        access,
        len,
        kind,
        line,
    })
}

/// The error for extent types that are not read, by name.
fn unread(kind: &[u8]) -> Error {
    let what = match kind {
        b"VSANSPARSE" => "extent is a VSANSPARSE delta, which lives in a vSAN object",
        _ => {
            return corrupt("extent type is not known").mismatch(
                "FLAT, VMFS, VMFSRDM, VMFSRAW, SPARSE, VMFSSPARSE, SESPARSE or ZERO",
                quoted(kind),
            );
        }
    };
    Error::unsupported(what)
        .in_structure(STRUCTURE)
        .hint("consolidate or clone the disk on its host, then try again")
}

/// The next word, and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let end = text
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A file name in double quotes, and what follows it.
fn name(text: &[u8]) -> Result<(PathBuf, &[u8])> {
    let broken =
        || corrupt("extent has no file name").mismatch("a name in double quotes", quoted(text));
    let inner = text
        .trim_ascii_start()
        .strip_prefix(b"\"")
        .ok_or_else(broken)?;
    let end = inner
        .iter()
        .position(|byte| *byte == b'"')
        .filter(|end| *end > 0)
        .ok_or_else(broken)?;
    let (name, rest) = inner.split_at(end);
    Ok((
        PathBuf::from(OsStr::from_bytes(name)),
        rest.get(1..).unwrap_or_default(),
    ))
}

fn decimal(key: &'static str, value: &[u8]) -> Result<u32> {
    number(key, value, 10)
}

fn hexadecimal(key: &'static str, value: &[u8]) -> Result<u32> {
    number(key, value, 16)
}

/// A number in ASCII digits alone: Rust's own parser would take a sign too.
fn number<N: TryFrom<u64>>(key: &'static str, value: &[u8], radix: u32) -> Result<N> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.starts_with(|first: char| first.is_ascii_hexdigit()))
        .and_then(|text| u64::from_str_radix(text, radix).ok())
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| corrupt(format!("{key} is no number")).mismatch("digits", quoted(value)))
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::corrupt(what).in_structure(STRUCTURE)
}

/// Untrusted text, short enough for a message.
fn quoted(text: &[u8]) -> String {
    let shown = text.get(..64).unwrap_or(text);
    format!("{:?}", String::from_utf8_lossy(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rehost_block::Kind;

    fn with(extents: &str) -> String {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
             createType=\"custom\"\n\n# Extent description\n{extents}\n#DDB\n\
             ddb.adapterType = \"lsilogic\"\n"
        )
    }

    #[test]
    fn blank_lines_and_zero_extents_count_once_each() {
        let text = with(
            "RW 8 ZERO\n\n\nRW 16 FLAT \"a b-f001.vmdk\" 7\r\n\n\tRDONLY 24 SPARSE \"c.vmdk\"\n\nNOACCESS 32 ZERO\n",
        );
        let parsed = Descriptor::parse(text.as_bytes(), 0).unwrap();
        assert_eq!(parsed.size().unwrap(), 80 * 512);
        let kinds: Vec<_> = parsed.extents.iter().map(|e| e.kind.clone()).collect();
        assert_eq!(
            kinds,
            [
                ExtentKind::Zero,
                ExtentKind::Flat {
                    file: "a b-f001.vmdk".into(),
                    offset: 3584
                },
                ExtentKind::Sparse {
                    file: "c.vmdk".into()
                },
                ExtentKind::Zero
            ]
        );
        assert_eq!(parsed.extents[2].access, Access::ReadOnly);
        assert_eq!(parsed.adapter.as_deref(), Some("lsilogic"));
    }

    #[test]
    fn a_parent_needs_its_name() {
        let text = with("RW 8 ZERO").replace("parentCID=ffffffff", "parentCID=1234abcd");
        let error = Descriptor::parse(text.as_bytes(), 512).unwrap_err();
        assert!(error.to_string().contains("parentFileNameHint"), "{error}");
        let text = text.replace("createType", "parentFileNameHint=\"base.vmdk\"\ncreateType");
        let parent = Descriptor::parse(text.as_bytes(), 512).unwrap().parent;
        assert_eq!(
            parent,
            Some(Parent {
                cid: 0x1234_abcd,
                hint: "base.vmdk".into()
            })
        );
    }

    #[test]
    fn broken_lines_are_named_with_their_offset() {
        for (line, kind) in [
            ("RW 0 ZERO", Kind::Corrupt),
            ("RW -8 ZERO", Kind::Corrupt),
            ("RW +8 ZERO", Kind::Corrupt),
            ("RW 99999999999999999999 ZERO", Kind::Corrupt),
            ("RW 36028797018963968 ZERO", Kind::Corrupt),
            ("RW 8 FLAT noquotes", Kind::Corrupt),
            ("RW 8 FLAT \"open", Kind::Corrupt),
            ("RW 8 SPARSE \"\"", Kind::Corrupt),
            ("RW 8 NOSUCH \"x\"", Kind::Corrupt),
            ("some words", Kind::Corrupt),
            ("RW 8 VSANSPARSE \"x\"", Kind::Unsupported),
        ] {
            let text = with(line);
            let error = Descriptor::parse(text.as_bytes(), 512).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let place = 512 + text.find(line).unwrap() as u64;
            assert_eq!(error.offset(), Some(place), "{error}");
        }
    }

    #[test]
    fn extents_of_more_than_64_bits_are_refused() {
        let text = with("RW 36028797018963967 ZERO\nRW 8 ZERO");
        let parsed = Descriptor::parse(text.as_bytes(), 0).unwrap();
        assert_eq!(parsed.size().unwrap_err().kind(), Kind::Corrupt);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut text = with("RW 8 ZERO").into_bytes();
            text.extend(tail);
            let _ = Descriptor::parse(&text, 0);
        }
    }
}
