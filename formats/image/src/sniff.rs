//! Telling the formats apart by content.

use rehost_block::{Result, Storage};

use crate::{Format, parallels, qcow, qed, vdi, vhd};

/// First bytes of a VMDK: a sparse extent, a descriptor, and the two kinds of extent that are
/// recognised to be refused by name (COWD, seSparse).
const VMDK_MAGICS: [&[u8]; 4] = [
    b"KDMV",
    b"# Disk DescriptorFile",
    b"COWD",
    b"\xbe\xba\xfe\xca\0\0\0\0",
];

impl Format {
    /// What a storage's first bytes say it is (a fixed VHD's last ones); raw when they say nothing.
    ///
    /// # Errors
    /// Io when these bytes cannot be read.
    pub fn sniff(storage: &dyn Storage) -> Result<Self> {
        let mut head = [0; 512];
        let len = usize::try_from(storage.size())
            .unwrap_or(head.len())
            .min(head.len());
        let head = head.get_mut(..len).unwrap_or_default();
        storage.read_at(head, 0)?;
        Ok(if qcow::is_qcow(head) {
            Self::Qcow
        } else if head.starts_with(b"QFI\xfb") {
            Self::Qcow2
        } else if VMDK_MAGICS.iter().any(|magic| head.starts_with(magic)) {
            Self::Vmdk
        } else if head.starts_with(b"vhdxfile") {
            Self::Vhdx
        } else if qed::is_qed(head) {
            Self::Qed
        } else if parallels::is_parallels(head) {
            Self::Parallels
        } else if vdi::is_vdi(head) {
            Self::Vdi
        } else if head.starts_with(vhd::COOKIE) || vhd::is_fixed(storage) {
            Self::Vhd
        } else {
            Self::Raw
        })
    }
}
