//! Encrypted clusters: a LUKS header in the image, and sectors encrypted where they lie.
//!
//! QEMU `docs/interop/qcow2.txt`, "Full disk encryption header pointer" and "LUKS": tables are plain,
//! guest clusters are encrypted, and a sector's number is its offset in the file that holds it, in units
//! of 512 bytes. Compressed clusters are not encrypted (QEMU makes none in such images).
//!
//! Left out on purpose: the old AES method, which QEMU itself refuses to use in a machine.

use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Disk, DiskStorage, Error, Packed, Result, Run, Storage, StorageDisk, Window};
use rehost_luks::{EncryptedSectors, Limits, Secret, SectorCipher, parse};

use super::header::{Header, past_end};

/// Bytes decrypted at a time, where a run is longer.
const PIECE: u64 = 64 << 10;

/// What decrypts the clusters of the image, if they are encrypted.
///
/// # Errors
/// Unsupported without a key or for the AES method; Usage for a wrong key; as rehost-luks.
pub(super) fn unlock(
    header: &Header,
    storage: &Arc<dyn Storage>,
    key: Option<&Secret>,
) -> Result<Option<Arc<SectorCipher>>> {
    if !header.areas.is_luks() {
        header.areas.refuse_encryption()?;
        return Ok(None);
    }
    let Some(key) = key else {
        return Err(
            Error::unsupported("image is encrypted with LUKS, and no key is given")
                .in_structure("header")
                .at(32)
                .hint("give the file that holds the passphrase with --key-file FILE"),
        );
    };
    let area = header.areas.encryption_header.ok_or_else(|| {
        Error::corrupt("says that it is encrypted with LUKS, and has no LUKS header")
            .in_structure("header extension")
    })?;
    let end = area.offset.saturating_add(area.len);
    if end > storage.size() {
        let error = Error::corrupt("LUKS header lies outside the file").at(area.offset);
        return Err(past_end(error, end, storage.size()));
    }
    let whole: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::clone(storage)));
    let window: Arc<dyn Disk> = Arc::new(Window::new(whole, area.offset, area.len)?);
    let luks: DiskStorage = DiskStorage::new(storage.name(), window);
    let parsed = parse(&luks)?;
    let key = parsed.unlock(&luks, key, &Limits::default())?;
    parsed
        .sector_cipher(&key)
        .map(|cipher| Some(Arc::new(cipher)))
}

/// The run of `len` encrypted bytes at `host` of `storage`, from a sector's start as far as it is
/// decrypted in one piece; gives its length too.
pub(super) fn run(
    cipher: &Arc<SectorCipher>,
    storage: &Arc<dyn Storage>,
    host: u64,
    len: u64,
) -> (Run, u64) {
    // Clusters begin at multiples of 512, the size of the sectors in a qcow2 image.
    let skip = host % 512;
    let start = host.saturating_sub(skip);
    let unit = len
        .saturating_add(skip)
        .checked_next_multiple_of(512)
        .unwrap_or(PIECE)
        .min(PIECE);
    let packed = Packed {
        storage: Arc::clone(storage),
        offset: start,
        len: unit,
        codec: Arc::new(EncryptedSectors::new(Arc::clone(cipher), start / 512)),
        unit: NonZeroU64::new(unit).unwrap_or(NonZeroU64::MIN),
        skip,
    };
    (Run::Packed(packed), len.min(unit.saturating_sub(skip)))
}
