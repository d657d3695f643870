//! Where an image keeps what reading its guest bytes does not need: refcounts, snapshots, bitmaps,
//! the encryption header; and its header extensions as they are, for writing them again.
//!
//! QEMU `docs/interop/qcow2.txt`, "Header", "Header extensions", "Bitmaps extension" and "Full disk
//! encryption header pointer".

use rehost_block::{Error, Fields, Result};

use super::extension;

/// Header bits that say what a writer kept up to date.
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// Autoclear: the data file is a valid raw image.
pub(super) const AUTOCLEAR_RAW: u64 = 1 << 1;

pub(super) const BITMAPS: u32 = 0x2385_2875;
const FULL_ENCRYPTION: u32 = 0x0537_be77;

/// One header extension, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) body: Vec<u8>,
}

/// How clusters are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Aes,
    Luks,
}

/// A byte range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Where bitmaps are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitmapDirectory {
    pub(super) count: u32,
    pub(super) area: Area,
}

/// What only writers and checks look at.
#[derive(Debug, Clone)]
pub(super) struct Areas {
    pub(super) refcount_table: u64,
    pub(super) refcount_clusters: u32,
    /// Refcounts have `1 << refcount_order` bits.
    pub(super) refcount_order: u32,
    pub(super) snapshots: u64,
    pub(super) encryption: Option<Encryption>,
    /// The LUKS header.
    pub(super) encryption_header: Option<Area>,
    pub(super) incompatible: u64,
    pub(super) autoclear: u64,
    pub(super) header_length: usize,
    pub(super) backing_offset: u64,
    pub(super) extensions: Vec<Extension>,
}

impl Areas {
    /// From the first cluster; extensions lie between `header_length` and `end`.
    pub(super) fn parse(
        fields: &Fields<'_>,
        version: u32,
        header_length: usize,
        end: usize,
    ) -> Result<Self> {
        let (incompatible, autoclear, refcount_order) = if version == 2 {
            (0, 0, 4)
        } else {
            (fields.u64_be(72)?, fields.u64_be(88)?, fields.u32_be(96)?)
        };
        let extensions = extension::list(fields, header_length, end)?;
        let encryption = match fields.u32_be(32)? {
            0 => None,
            1 => Some(Encryption::Aes),
            2 => Some(Encryption::Luks),
            other => {
                return Err(fields
                    .corrupt(32, "crypt_method is out of range")
                    .mismatch("0, 1 or 2", other));
            }
        };
        let encryption_header = extensions
            .iter()
            .find(|extension| extension.kind == FULL_ENCRYPTION)
            .map(|extension| {
                let fields = Fields::new(&extension.body, "header extension", 0);
                Ok::<_, Error>(Area {
                    offset: fields.u64_be(0)?,
                    len: fields.u64_be(8)?,
                })
            })
            .transpose()?;
        Ok(Self {
            refcount_table: fields.u64_be(48)?,
            refcount_clusters: fields.u32_be(56)?,
            refcount_order,
            snapshots: fields.u64_be(64)?,
            encryption,
            encryption_header,
            incompatible,
            autoclear,
            header_length,
            backing_offset: fields.u64_be(8)?,
            extensions,
        })
    }

    /// The bitmap directory, if there is one and its writer vouches for it: without the autoclear
    /// bit, "the bitmaps extension data must be considered inconsistent".
    pub(super) fn bitmap_directory(&self) -> Result<Option<BitmapDirectory>> {
        if self.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Ok(None);
        }
        let Some(extension) = self.extensions.iter().find(|x| x.kind == BITMAPS) else {
            return Ok(None);
        };
        let fields = Fields::new(&extension.body, "bitmaps extension", 0);
        Ok(Some(BitmapDirectory {
            count: fields.u32_be(0)?,
            area: Area {
                len: fields.u64_be(8)?,
                offset: fields.u64_be(16)?,
            },
        }))
    }

    /// Forgets bitmaps that nothing vouches for; tells whether there were any.
    pub(super) fn drop_stale_bitmaps(&mut self) -> bool {
        let before = self.extensions.len();
        if self.autoclear & AUTOCLEAR_BITMAPS == 0 {
            self.extensions.retain(|x| x.kind != BITMAPS);
        }
        self.extensions.len() != before
    }

    /// Whether clusters are encrypted with LUKS.
    pub(super) const fn is_luks(&self) -> bool {
        matches!(self.encryption, Some(Encryption::Luks))
    }

    /// Refuses an image whose clusters are encrypted.
    pub(super) fn refuse_encryption(&self) -> Result<()> {
        let method = match self.encryption {
            None => return Ok(()),
            Some(Encryption::Aes) => "AES",
            Some(Encryption::Luks) => "LUKS",
        };
        Err(
            Error::unsupported(format!("image is encrypted with {method}"))
                .in_structure("header")
                .at(32)
                .hint("decrypt a copy with qemu-img convert and use that"),
        )
    }
}
