//! `DiskDescriptor.xml`: which images make up a disk, and which lies over which.
//!
//! `docs/interop/prl-xml.txt`. Elements that it does not name are not looked at.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::Event;
use rehost_block::{Error, Result, Storage};
use uuid::Uuid;

pub(super) const STRUCTURE: &str = "DiskDescriptor.xml";

/// Bytes of a descriptor. Ours: a disk of a hundred snapshots has some 50 KiB.
const MAX_LEN: u64 = 1 << 20;

/// Elements inside each other. Ours: the format has 5.
const MAX_DEPTH: usize = 32;

/// The image that the guest writes to, where `TopGUID` names no other.
const TOP: Uuid = Uuid::from_u128(0x5fba_abe3_6958_40ff_92a7_860e_329a_ab41);

/// How the bytes of an image lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// `Plain`.
    Plain,
    /// `Compressed`, which means expanding.
    Expanding,
}

/// One `Image` of a storage.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) guid: Uuid,
    pub(super) kind: Type,
    pub(super) file: PathBuf,
}

/// One `Storage`: a stretch of the disk, in sectors.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Sectors per cluster of its expanding images.
    pub(super) cluster: u64,
    pub(super) images: Vec<Image>,
}

/// A descriptor, its numbers and names parsed.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    pub(super) sectors: u64,
    pub(super) stretches: Vec<Stretch>,
    /// Each snapshot and what it lies over; nil for the root.
    shots: Vec<(Uuid, Uuid)>,
    top: Option<Uuid>,
}

/// What is known of an `Image` or a `Shot` before its end.
#[derive(Debug, Default)]
struct Draft {
    guid: Option<Uuid>,
    parent: Option<Uuid>,
    kind: Option<Type>,
    file: Option<PathBuf>,
}

impl Descriptor {
    /// The descriptor in `storage`.
    ///
    /// # Errors
    /// Corrupt when it is no well-formed descriptor; Unsupported, by name, for encryption and
    /// padding.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        if storage.size() > MAX_LEN {
            return Err(
                fault("is too long").mismatch(format!("at most {MAX_LEN} bytes"), storage.size())
            );
        }
        let mut bytes = vec![0; usize::try_from(storage.size()).unwrap_or(0)];
        storage.read_at(&mut bytes, 0)?;
        let text =
            String::from_utf8(bytes).map_err(|error| fault("is not UTF-8").because(error))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader::from_str(text);
        let mut found = Self::default();
        let mut path: Vec<String> = Vec::new();
        let mut words = String::new();
        let mut draft = Draft::default();
        // Ends because every event takes at least a byte of the text, and the last one is `Eof`.
        loop {
            let at = reader.buffer_position();
            let broken =
                |error: quick_xml::Error| fault("is no well-formed XML").at(at).because(error);
            match reader.read_event().map_err(broken)? {
                Event::Start(start) => {
                    if path.len() >= MAX_DEPTH {
                        return Err(fault("has too many elements inside each other").at(at));
                    }
                    let name = start.local_name();
                    path.push(name.as_ref().to_owned());
                    words.clear();
                    match path.last().map(String::as_str) {
                        Some("Storage") => found.stretches.push(Stretch::default()),
                        Some("Image" | "Shot") => draft = Draft::default(),
                        _ => {}
                    }
                }
                Event::End(_) => {
                    found
                        .close(&path, words.trim(), &mut draft)
                        .map_err(|error| error.at(at))?;
                    path.pop();
                    words.clear();
                }
                Event::Text(part) => words.push_str(&part),
                Event::CData(part) => words.push_str(&part),
                Event::GeneralRef(name) => words.push(entity(&name).map_err(|e| e.at(at))?),
                Event::Eof => break,
                Event::Empty(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_) => {}
            }
        }
        if !path.is_empty() {
            return Err(fault("ends inside an element").at(reader.buffer_position()));
        }
        Ok(found)
    }

    /// Takes what the element at `path` says, now that it ends.
    fn close(&mut self, path: &[String], words: &str, draft: &mut Draft) -> Result<()> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let [root, path @ ..] = path.as_slice() else {
            return Ok(());
        };
        if *root != "Parallels_disk_image" {
            return Err(fault("is no descriptor of a Parallels disk"));
        }
        match path {
            ["Disk_Parameters", "Disk_size"] => self.sectors = number(words)?,
            ["Disk_Parameters", "Padding"] if number(words)? != 0 => {
                return Err(
                    Error::unsupported("disk is padded, which is not read").in_structure(STRUCTURE)
                );
            }
            ["Disk_Parameters", "Encryption", "Engine"] if !guid(words)?.is_nil() => {
                return Err(Error::unsupported("disk is encrypted, which is not read")
                    .in_structure(STRUCTURE)
                    .hint("decrypt it with Parallels Desktop first"));
            }
            ["StorageData", "Storage", field] => {
                if let Some(stretch) = self.stretches.last_mut() {
                    match *field {
                        "Start" => stretch.start = number(words)?,
                        "End" => stretch.end = number(words)?,
                        "Blocksize" => stretch.cluster = number(words)?,
                        "Image" => stretch.images.push(draft.image()?),
                        _ => {}
                    }
                }
            }
            ["StorageData", "Storage", "Image", field] => match *field {
                "GUID" => draft.guid = Some(guid(words)?),
                "Type" => draft.kind = Some(kind(words)?),
                "File" => draft.file = Some(PathBuf::from(words)),
                _ => {}
            },
            ["Snapshots", "TopGUID"] => self.top = Some(guid(words)?),
            ["Snapshots", "Shot", "GUID"] => draft.guid = Some(guid(words)?),
            ["Snapshots", "Shot", "ParentGUID"] => draft.parent = Some(guid(words)?),
            ["Snapshots", "Shot"] => match (draft.guid, draft.parent) {
                (Some(guid), Some(parent)) => self.shots.push((guid, parent)),
                _ => return Err(fault("a snapshot has no GUID or names no parent")),
            },
            _ => {}
        }
        Ok(())
    }

    /// The snapshot that the guest last wrote to, then each that the one before lies over.
    ///
    /// # Errors
    /// Corrupt when one is not described, or lies over itself.
    pub(super) fn lineage(&self) -> Result<Vec<Uuid>> {
        let mut lineage = Vec::new();
        let mut next = self.top.unwrap_or(TOP);
        // Ends because no snapshot may come twice, and they are finitely many.
        while !next.is_nil() {
            if lineage.contains(&next) {
                return Err(fault(format!("snapshot {next} lies over itself")));
            }
            let shot = self.shots.iter().find(|(guid, _)| *guid == next);
            let Some((_, parent)) = shot else {
                return Err(fault(format!("snapshot {next} is not described")));
            };
            lineage.push(next);
            next = *parent;
        }
        Ok(lineage)
    }

    /// Whether the image in the file `name` lies over another one.
    pub(super) fn is_over_another(&self, name: &OsStr) -> bool {
        let images = self.stretches.iter().flat_map(|stretch| &stretch.images);
        images
            .filter(|image| image.file.file_name() == Some(name))
            .any(|image| {
                self.shots
                    .iter()
                    .any(|(guid, parent)| *guid == image.guid && !parent.is_nil())
            })
    }
}

impl Draft {
    fn image(&self) -> Result<Image> {
        let missing = |what: &str| fault(format!("an image has no {what}"));
        Ok(Image {
            guid: self.guid.ok_or_else(|| missing("GUID"))?,
            kind: self.kind.ok_or_else(|| missing("type"))?,
            file: self
                .file
                .clone()
                .filter(|file| file != Path::new(""))
                .ok_or_else(|| missing("file"))?,
        })
    }
}

/// An error of the descriptor.
pub(super) fn fault(what: impl Into<String>) -> Error {
    Error::corrupt(what).in_structure(STRUCTURE)
}

/// The character that an entity of XML 1.0 stands for.
fn entity(reference: &quick_xml::events::BytesRef<'_>) -> Result<char> {
    let unknown = || fault(format!("entity {:?} is unknown", &**reference));
    if let Some(character) = reference
        .resolve_char_ref()
        .map_err(|error| unknown().because(error))?
    {
        return Ok(character);
    }
    match &**reference {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(unknown()),
    }
}

fn number(words: &str) -> Result<u64> {
    words
        .parse()
        .map_err(|_| fault(format!("{words:?} is no number of sectors")))
}

fn guid(words: &str) -> Result<Uuid> {
    Uuid::try_parse(words).map_err(|error| fault(format!("{words:?} is no GUID")).because(error))
}

fn kind(words: &str) -> Result<Type> {
    match words {
        "Plain" => Ok(Type::Plain),
        "Compressed" => Ok(Type::Expanding),
        _ => Err(
            Error::unsupported(format!("image type {words:?} is unknown"))
                .in_structure(STRUCTURE)
                .mismatch("Plain or Compressed", words),
        ),
    }
}

/// Whether `head`, the first bytes of a file, are those of a descriptor.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let root = b"<Parallels_disk_image";
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    text.starts_with(b"<") && text.windows(root.len()).any(|part| part == root)
}
