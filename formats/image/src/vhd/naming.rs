//! `Naming`: what a differencing disk is to say of its parent, as the header and the locators have
//! it.
//!
//! Specification 1.0, "Dynamic Disk Header Format" (parent unique id, time stamp and unicode name)
//! and "Parent Locator Entries". Two locators are written, as Hyper-V does: `W2ru`, the name
//! relative to the child, and `W2ku`, the absolute one. Paths have Windows' separators in them; an
//! absolute path of this machine keeps its root and has no drive.
//!
//! Leaves out on purpose: `MacX` locators, which say the same as `W2ru` in another encoding.

use rehost_block::{Error, Fields, Result};
use uuid::Uuid;

use super::SECTOR;
use super::footer::seal;
use super::header::{CHECKSUM_AT, LOCATOR_LEN, LOCATORS_AT, Parent, STRUCTURE};
use crate::Format;
use crate::create::TargetBacking;
use crate::details::Details;

/// UTF-16 units that the header has for the parent's name.
const NAME_UNITS: usize = 256;

/// What is written of a parent.
#[derive(Debug, Clone)]
pub(super) struct Naming {
    unique_id: [u8; 16],
    timestamp: u32,
    /// The parent's file name.
    name: String,
    /// Codes and names of the locators.
    locators: Vec<([u8; 4], Vec<u8>)>,
}

impl Naming {
    /// How a VHD names `backing`.
    ///
    /// # Errors
    /// Usage when it is no VHD, or has a name that cannot be stored.
    pub(super) fn of(backing: &TargetBacking) -> Result<Self> {
        let refused = |what: String| Error::usage(what).in_file(&backing.path);
        let Details::Vhd(details) = &backing.details else {
            return Err(
                refused(format!("{} cannot be the parent of a VHD", backing.format))
                    .mismatch(Format::Vhd, backing.format)
                    .hint("convert the parent, or write qcow2"),
            );
        };
        let unique_id = Uuid::parse_str(&details.unique_id)
            .map_err(|_| Error::internal("a unique id that is none"))?
            .into_bytes();
        let text = |path: &std::path::Path| {
            path.to_str()
                .filter(|name| !name.contains('\\'))
                .map(|name| name.replace('/', "\\"))
                .ok_or_else(|| {
                    refused("has a name that a VHD cannot store".to_owned())
                        .hint("rename it: only UTF-8 without backslashes will do")
                })
        };
        let wide =
            |name: &str| -> Vec<u8> { name.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let name = text(&backing.name)?;
        let locators = if backing.name.is_absolute() {
            vec![(*b"W2ku", wide(&name))]
        } else {
            let relative = if name.starts_with('.') {
                name
            } else {
                format!(".\\{name}")
            };
            vec![
                (*b"W2ru", wide(&relative)),
                (*b"W2ku", wide(&text(&backing.path)?)),
            ]
        };
        let file = backing.name.file_name().unwrap_or_default();
        Ok(Self {
            unique_id,
            timestamp: details.timestamp,
            name: file.to_string_lossy().into_owned(),
            locators,
        })
    }

    /// The bytes that the locators point to, each in whole sectors.
    pub(super) fn names(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (_, name) in &self.locators {
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes
    }

    /// Puts the parent into a dynamic disk header; its names will be at `at`.
    pub(super) fn describe(&self, header: &mut Vec<u8>, at: u64) {
        forget(header);
        set(header, 40, &self.unique_id);
        set(header, 56, &self.timestamp.to_be_bytes());
        let units = self.name.encode_utf16().take(NAME_UNITS.saturating_sub(1));
        let name: Vec<u8> = units.flat_map(u16::to_be_bytes).collect();
        set(header, 64, &name);
        let mut at = at;
        for (nth, (code, name)) in self.locators.iter().enumerate() {
            let len = u64::try_from(name.len()).unwrap_or(u64::MAX);
            let space = len.next_multiple_of(SECTOR);
            let mut entry = code.to_vec();
            // Bytes, as all products have it; the specification says sectors.
            for word in [space, len, 0] {
                entry.extend(u32::try_from(word).unwrap_or(u32::MAX).to_be_bytes());
            }
            entry.extend(at.to_be_bytes());
            set(
                header,
                LOCATORS_AT.saturating_add(nth.saturating_mul(LOCATOR_LEN)),
                &entry,
            );
            at = at.saturating_add(space);
        }
        *header = seal(std::mem::take(header), CHECKSUM_AT);
    }
}

/// The parent that `header`, which is at `at` of the file, describes.
///
/// # Errors
/// Corrupt when the header is too short.
pub(super) fn parsed(header: &[u8], at: u64) -> Result<Parent> {
    Parent::parse(&Fields::new(header, STRUCTURE, at))
}

/// Takes every word of a parent out of a dynamic disk header.
pub(super) fn forget(header: &mut Vec<u8>) {
    if let Some(place) = header.get_mut(40..768) {
        place.fill(0);
    }
    *header = seal(std::mem::take(header), CHECKSUM_AT);
}

/// Puts `value` at `at`.
pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}
