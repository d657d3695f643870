//! LUKS1 and LUKS2: an encrypted volume becomes a disk.
//!
//! Three steps, each usable alone: [`parse`] reads the header, [`Header::unlock`] finds the volume
//! key with a passphrase or key file, and [`LuksDisk`] (or [`LuksDiskMut`], written through) shows
//! the plain bytes. A format that keeps only a LUKS header and places the encrypted sectors
//! itself, as qcow2 does, takes a [`SectorCipher`] from [`Header::sector_cipher`] and an
//! [`EncryptedSectors`] codec for each of its runs.
//!
//! "LUKS On-Disk Format Specification", version 1.2.3 (LUKS1); "LUKS2 On-Disk Format
//! Specification", version 1.1.1; sector encryption as in the kernel's
//! `Documentation/admin-guide/device-mapper/dm-crypt.rst`.
//!
//! Left out on purpose, and refused by name: volumes in the middle of a reencryption, segments with
//! integrity tags (authenticated encryption), hardware encryption (OPAL), detached headers,
//! keyslots and digests of types other than `luks2` and `pbkdf2`, ciphers other than AES, Serpent
//! and Twofish in XTS or CBC mode, IV generators other than `plain`, `plain64`, `plain64be` and
//! `essiv`, hashes other than SHA-1, SHA-2 and RIPEMD-160. Tokens (TPM, FIDO2, Clevis) are named
//! and not used. Headers are not written.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod cipher;
mod disk;
mod hash;
mod header;
mod kdf;
mod keyslot;
mod luks1;
mod luks2;
mod modes;
mod secret;
mod segment;
mod split;
mod unlock;

pub use cipher::{CipherSpec, EncryptedSectors, SectorCipher, SectorSize};
pub use disk::{LuksDisk, LuksDiskMut};
pub use header::{Header, Keyslot, Token, Version, detect, parse};
pub use kdf::Limits;
pub use secret::Secret;
pub use unlock::VolumeKey;
