//! `Initramfs`: what the kernel would unpack from an initramfs file, in memory.
//!
//! Format: kernel documentation "initramfs buffer format", and what `init/initramfs.c` of Linux 5.10
//! to 6.12 does with it: any number of segments, each a raw cpio archive at a multiple of 4 bytes
//! (early microcode) or a compressed stream of archives, with zero bytes between and after them.
//! Later entries win.
//!
//! Left out on purpose, by name: lzo streams; the old binary and `odc` cpio formats, which the
//! kernel does not read either.

mod cpio;
mod tree;
mod unpack;

use std::borrow::Cow;
use std::ops::Range;

use rehost_block::{Error, Result};
use rehost_fs::FileKind;
use serde::Serialize;

use crate::modules::ModuleName;
pub use cpio::{Entry, MAGIC};
pub use tree::Node;
use tree::Tree;
pub use unpack::{Compression, unpack_module};

/// Most bytes that the segments of one file may unpack to together. Ours: real ones stay under
/// 300 MB, and a hostile one must not exhaust the host.
const MOST_UNPACKED: usize = 1 << 30;

/// Most entries in all archives. Ours: dracut's generic images have about 5,000.
const MOST_ENTRIES: usize = 1 << 18;

/// One archive or compressed stream of archives.
#[derive(Debug, Clone, Serialize)]
pub struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes of the file it takes, without the zero padding after it.
    pub len: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// What its archives hold, in order.
    #[serde(skip)]
    pub entries: Vec<Entry>,
    #[serde(skip)]
    plain: Plain,
}

#[derive(Debug, Clone)]
enum Plain {
    /// These bytes of the file.
    Stored(Range<usize>),
    /// Decompressed.
    Unpacked(Vec<u8>),
}

impl Plain {
    fn bytes<'a>(&'a self, file: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Stored(range) => file.get(range.clone()).unwrap_or_default(),
            Self::Unpacked(plain) => plain,
        }
    }
}

/// A module file in an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedModule {
    /// Its name.
    pub name: ModuleName,
    /// Its path in the archive, symbolic links in directories resolved, without a leading `/`.
    pub path: String,
}

/// A parsed initramfs file.
#[derive(Debug)]
pub struct Initramfs {
    file: Vec<u8>,
    segments: Vec<Segment>,
    garbage: Option<u64>,
    tree: Tree,
}

impl Initramfs {
    /// Parses `file` and unpacks it in memory.
    ///
    /// # Errors
    /// Corrupt, with the byte offset, when it does not begin with an archive or a compressed one,
    /// or one contradicts itself; Unsupported for lzo, and for more than 1 GiB or 262,144
    /// entries.
    pub fn parse(file: Vec<u8>) -> Result<Self> {
        Self::parse_within(file, MOST_UNPACKED)
    }

    /// As [`Initramfs::parse`], with another limit, in bytes, for what it unpacks to.
    ///
    /// # Errors
    /// As [`Initramfs::parse`].
    pub fn parse_within(file: Vec<u8>, most_unpacked: usize) -> Result<Self> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut garbage = None;
        let mut room = most_unpacked;
        let mut left = MOST_ENTRIES;
        let mut at = 0usize;
        // Ends because every round moves `at` forward: over a zero byte or a segment of at least
        // its magic's length.
        while let Some(first) = file.get(at) {
            if *first == 0 {
                at = at.saturating_add(1);
                continue;
            }
            let rest = file.get(at..).unwrap_or_default();
            let Some(compression) = Compression::identify(rest) else {
                if segments.is_empty() {
                    return Err(
                        Error::corrupt("neither a cpio archive nor a compressed one")
                            .in_structure("initramfs")
                            .at(amount(at))
                            .hint("is this an initramfs? its kernel would not unpack it"),
                    );
                }
                // The kernel complains ("invalid magic") and goes on with what it has unpacked.
                garbage = Some(amount(at));
                break;
            };
            let segment = if compression == Compression::None {
                if !at.is_multiple_of(4) {
                    // Linux: "broken padding", and nothing of it is unpacked.
                    garbage = Some(amount(at));
                    break;
                }
                let (entries, len) = cpio::read_archive(&file, at, &mut left)?;
                Segment {
                    offset: amount(at),
                    len: amount(len),
                    compression,
                    entries,
                    plain: Plain::Stored(at..at.saturating_add(len)),
                }
            } else {
                let (plain, len) = unpack::unpack(compression, rest, room)
                    .map_err(|error| error.at(amount(at)))?;
                room = room.saturating_sub(plain.len());
                let entries = cpio::read_stream(&plain, &mut left).map_err(|error| {
                    // Offsets below a compressed stream are of its plain bytes.
                    Error::corrupt(format!(
                        "the {} stream unpacks to a broken archive",
                        compression.name()
                    ))
                    .in_structure("initramfs")
                    .at(amount(at))
                    .because(error)
                })?;
                Segment {
                    offset: amount(at),
                    len: amount(len),
                    compression,
                    entries,
                    plain: Plain::Unpacked(plain),
                }
            };
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX).max(1);
            at = at.saturating_add(len);
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(Error::corrupt("holds nothing but zero bytes").in_structure("initramfs"));
        }
        let tree = Tree::build(&file, &segments);
        Ok(Self {
            file,
            segments,
            garbage,
            tree,
        })
    }

    /// The segments, in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole file, as it was given.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// Where bytes begin that the kernel would call garbage and not unpack.
    #[must_use]
    pub fn garbage(&self) -> Option<u64> {
        self.garbage
    }

    /// The unpacked bytes of segment `index`: one or more cpio archives.
    #[must_use]
    pub fn plain(&self, index: usize) -> &[u8] {
        self.segments
            .get(index)
            .map_or(&[], |segment| segment.plain.bytes(&self.file))
    }

    /// Everything that exists after unpacking, by path without a leading `/`, in byte order.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.tree.files()
    }

    /// What is at `path`, links in its directories followed, a link at its end not.
    #[must_use]
    pub fn node(&self, path: &[u8]) -> Option<&Node> {
        self.tree.find(path, rehost_fs::path::LastLink::Keep)
    }

    /// Whether `path` is a directory, links followed.
    #[must_use]
    pub fn is_directory(&self, path: &[u8]) -> bool {
        self.tree
            .find(path, rehost_fs::path::LastLink::Follow)
            .is_some_and(|node| node.kind == FileKind::Directory)
    }

    /// `path` with the links in its directories resolved, whether or not its last component exists;
    /// `None` when a directory on the way is missing.
    #[must_use]
    pub fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.tree.place(path)
    }

    /// The content of the regular file at `path`, links followed.
    #[must_use]
    pub fn read(&self, path: &[u8]) -> Option<&[u8]> {
        let node = self.tree.find(path, rehost_fs::path::LastLink::Follow)?;
        if node.kind != FileKind::Regular {
            return None;
        }
        self.content(node)
    }

    /// The content of a regular file, or the target of a symbolic link.
    #[must_use]
    pub fn content(&self, node: &Node) -> Option<&[u8]> {
        match self.tree.content(node) {
            Some((segment, range)) => self.plain(segment).get(range),
            None => Some(&[]),
        }
    }

    /// The text at `path`, links followed; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        self.read(path.as_bytes()).map(String::from_utf8_lossy)
    }

    /// The directory of the modules of kernel `version`, as the archive calls it
    /// (`usr/lib/modules/V` or `lib/modules/V`), where there is one.
    #[must_use]
    pub fn module_directory(&self, version: &str) -> Option<String> {
        let asked = format!("lib/modules/{version}");
        ["lib", "usr/lib"]
            .iter()
            .map(|lib| format!("{lib}/modules/{version}"))
            .chain(std::iter::once(asked))
            .find_map(|path| {
                let node = self
                    .tree
                    .find(path.as_bytes(), rehost_fs::path::LastLink::Follow)?;
                (node.kind == FileKind::Directory)
                    .then(|| self.tree.place(path.as_bytes()))
                    .flatten()
            })
            .map(|path| String::from_utf8_lossy(&path).into_owned())
    }

    /// Kernel versions that the archive has module directories for.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        let mut versions: Vec<String> = self
            .files()
            .filter(|(_, node)| node.kind == FileKind::Directory)
            .filter_map(|(path, _)| {
                let path = std::str::from_utf8(path).ok()?;
                let rest = path.strip_prefix("usr/").unwrap_or(path);
                let version = rest.strip_prefix("lib/modules/")?;
                (!version.contains('/')).then(|| version.to_owned())
            })
            .collect();
        versions.sort();
        versions.dedup();
        versions
    }

    /// The module files of kernel `version`, in path order.
    #[must_use]
    pub fn modules(&self, version: &str) -> Vec<PackedModule> {
        let Some(directory) = self.module_directory(version) else {
            return Vec::new();
        };
        let prefix = format!("{directory}/");
        self.files()
            .filter(|(_, node)| node.kind == FileKind::Regular)
            .filter_map(|(path, _)| std::str::from_utf8(path).ok())
            .filter(|path| path.starts_with(&prefix))
            .filter_map(|path| {
                Some(PackedModule {
                    name: ModuleName::of_file(path)?,
                    path: path.to_owned(),
                })
            })
            .collect()
    }
}

/// A position as an offset for messages. Lossless: `usize` is at most 64 bits wide here.
fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One newc entry, as `cpio -H newc` writes it.
    pub(super) fn entry(name: &str, mode: u32, body: &[u8]) -> Vec<u8> {
        linked(name, mode, body, 1, 1)
    }

    pub(super) fn linked(name: &str, mode: u32, body: &[u8], ino: u32, links: u32) -> Vec<u8> {
        let fields = [
            ino,
            mode,
            0,
            0,
            links,
            0,
            body.len() as u32,
            8,
            1,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        let mut bytes = b"070701".to_vec();
        for field in fields {
            bytes.extend(format!("{field:08X}").bytes());
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    pub(super) fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(name, mode, body)| entry(name, *mode, body))
            .collect();
        bytes.extend(entry("TRAILER!!!", 0, b""));
        bytes
    }

    const DIR: u32 = 0o040_755;
    const FILE: u32 = 0o100_644;
    const LINK: u32 = 0o120_777;

    #[test]
    fn later_archive_wins_and_linked_directories_are_followed() {
        let mut file = archive(&[
            ("usr", DIR, b""),
            ("usr/lib", DIR, b""),
            ("lib", LINK, b"usr/lib"),
            ("usr/lib/a", FILE, b"old and long"),
        ]);
        file.resize(file.len() + 512, 0);
        file.extend(
            zstd::encode_all(
                &archive(&[("lib/a", FILE, b"new"), ("no/x", FILE, b"lost")])[..],
                3,
            )
            .unwrap(),
        );
        let parsed = Initramfs::parse(file).unwrap();
        assert_eq!(parsed.segments().len(), 2);
        assert_eq!(parsed.segments()[1].compression, Compression::Zstd);
        assert_eq!(parsed.read(b"/usr/lib/a"), Some(&b"new"[..]));
        assert_eq!(parsed.read(b"lib/a"), Some(&b"new"[..]));
        assert_eq!(parsed.read(b"no/x"), None, "the kernel makes no parents");
    }

    #[test]
    fn a_directory_over_a_link_replaces_it_as_in_the_kernel() {
        let file = archive(&[
            ("usr", DIR, b""),
            ("usr/lib", DIR, b""),
            ("usr/lib/a", FILE, b"a"),
            ("lib", LINK, b"usr/lib"),
            ("lib", DIR, b""),
        ]);
        let parsed = Initramfs::parse(file).unwrap();
        assert_eq!(parsed.read(b"lib/a"), None);
        assert_eq!(parsed.read(b"usr/lib/a"), Some(&b"a"[..]));
    }

    #[test]
    fn hard_links_share_the_one_body() {
        let mut file = linked("a", FILE, b"", 7, 2);
        file.extend(linked("b", FILE, b"body", 7, 2));
        file.extend(entry("TRAILER!!!", 0, b""));
        let parsed = Initramfs::parse(file).unwrap();
        assert_eq!(parsed.read(b"a"), Some(&b"body"[..]));
        assert_eq!(parsed.read(b"b"), Some(&b"body"[..]));
    }

    #[test]
    fn a_bomb_is_refused_before_it_fills_the_memory() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        let zeroes = vec![0u8; 1 << 20];
        for _ in 0..1100 {
            std::io::Write::write_all(&mut encoder, &zeroes).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 1 << 20);
        let error = Initramfs::parse(bomb).unwrap_err();
        assert!(
            error.to_string().contains("unpacks to more than"),
            "{error}"
        );
    }

    #[test]
    fn garbage_at_the_start_is_an_error_and_at_the_end_is_noted() {
        let error = Initramfs::parse(b"MZ this is no initramfs".to_vec()).unwrap_err();
        assert_eq!(error.offset(), Some(0));
        let mut file = archive(&[("a", FILE, b"a")]);
        let end = file.len() as u64;
        file.extend(b"junk");
        assert_eq!(Initramfs::parse(file).unwrap().garbage(), Some(end));
    }

    #[test]
    fn module_directory_is_named_as_the_archive_names_it() {
        let file = archive(&[
            ("usr", DIR, b""),
            ("usr/lib", DIR, b""),
            ("lib", LINK, b"usr/lib"),
            ("usr/lib/modules", DIR, b""),
            ("usr/lib/modules/6.1", DIR, b""),
            ("usr/lib/modules/6.1/virtio-blk.ko.xz", FILE, b"x"),
        ]);
        let parsed = Initramfs::parse(file).unwrap();
        assert_eq!(
            parsed.module_directory("6.1").as_deref(),
            Some("usr/lib/modules/6.1")
        );
        assert_eq!(parsed.versions(), ["6.1"]);
        let modules = parsed.modules("6.1");
        assert_eq!(modules[0].name.as_str(), "virtio_blk");
        assert!(parsed.modules("5.0").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn mutilated_files_never_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            kind in 0..3,
        ) {
            let plain = archive(&[
                ("d", DIR, b""), ("d/l", LINK, b"../d"), ("d/l/f", FILE, b"content"), ("g", FILE, b"g"),
            ]);
            let mut file = match kind {
                0 => plain,
                1 => zstd::encode_all(&plain[..], 1).unwrap(),
                _ => {
                    let mut xz = liblzma::read::XzEncoder::new(&plain[..], 0);
                    let mut out = Vec::new();
                    std::io::Read::read_to_end(&mut xz, &mut out).unwrap();
                    out
                }
            };
            for (at, byte) in flips {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file.truncate(cut.index(file.len() + 1));
            if let Ok(parsed) = Initramfs::parse(file) {
                for (path, node) in parsed.files() {
                    let _ = (parsed.read(path), parsed.content(node));
                }
            }
        }
    }
}
