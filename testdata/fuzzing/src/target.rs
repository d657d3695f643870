//! `Target`: what hostile input can be given to.

use rehost_image::Format;

use crate::input::expand;
use crate::{guests, images, inspected, means, members, mend, talk, volumes};

/// A parser, or several that read the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// qcow2: read, checked, mended, changed.
    Qcow2,
    /// A VMDK's descriptor, or a hosted sparse extent with one.
    Vmdk,
    /// An ESX sparse extent, under a descriptor that is in order.
    Cowd,
    /// A space-efficient sparse extent, under a descriptor that is in order.
    SeSparse,
    /// VHD.
    Vhd,
    /// VHDX, its log too.
    Vhdx,
    /// VDI.
    Vdi,
    /// A Parallels image, or the descriptor of a disk folder.
    Parallels,
    /// QED.
    Qed,
    /// qcow version 1.
    Qcow,
    /// gzip, xz, zstd, bzip2 around an image.
    Wrapper,
    /// LUKS1 and LUKS2.
    Luks,
    /// MBR and GPT, and what is recognised in the partitions.
    Partitions,
    /// ext2, ext3, ext4: the whole tree is read, then changed.
    Ext4,
    /// XFS: the same.
    Xfs,
    /// Btrfs: the whole tree is read, then changed.
    Btrfs,
    /// ISO 9660: the whole tree is read.
    Iso9660,
    /// squashfs: the whole tree is read.
    Squashfs,
    /// FAT12, FAT16, FAT32: the whole tree is read, then changed.
    Fat,
    /// An ext filesystem whose journal must be replayed.
    Journal,
    /// Physical volumes of LVM2: the volumes are read and written.
    Lvm,
    /// The metadata of an LVM thin pool.
    Thin,
    /// Members of Linux RAID arrays: the arrays are read and written.
    Md,
    /// The disks of a machine: partitions, arrays, volumes, encryption on one another.
    Stack,
    /// An initramfs: archives, compressed or not.
    Initramfs,
    /// Lists of kernel modules, and depmod's index.
    Modules,
    /// The files of a guest that an inspection reads.
    Guest,
    /// An NBD server's side of a conversation.
    Nbd,
    /// A `.vmx`.
    Vmx,
    /// A libvirt domain.
    Domain,
    /// The deflate encoder: what it writes decodes to what it was given.
    Deflate,
    /// rpm's database: SQLite with its log, ndb, Berkeley DB.
    RpmDatabase,
    /// A unified kernel image: its headers and sections.
    Unified,
}

impl Target {
    /// All there are.
    pub const ALL: [Self; 33] = [
        Self::Qcow2,
        Self::Vmdk,
        Self::Cowd,
        Self::SeSparse,
        Self::Vhd,
        Self::Vhdx,
        Self::Vdi,
        Self::Parallels,
        Self::Qed,
        Self::Qcow,
        Self::Wrapper,
        Self::Luks,
        Self::Partitions,
        Self::Ext4,
        Self::Xfs,
        Self::Btrfs,
        Self::Iso9660,
        Self::Squashfs,
        Self::Fat,
        Self::Journal,
        Self::Lvm,
        Self::Thin,
        Self::Md,
        Self::Stack,
        Self::Initramfs,
        Self::Modules,
        Self::Guest,
        Self::Nbd,
        Self::Vmx,
        Self::Domain,
        Self::Deflate,
        Self::RpmDatabase,
        Self::Unified,
    ];

    /// Its name: of its program in `fuzz/`, of the folder with its regressions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Cowd => "cowd",
            Self::SeSparse => "sesparse",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Parallels => "parallels",
            Self::Qed => "qed",
            Self::Qcow => "qcow",
            Self::Wrapper => "wrapper",
            Self::Luks => "luks",
            Self::Partitions => "partitions",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Iso9660 => "iso9660",
            Self::Squashfs => "squashfs",
            Self::Fat => "fat",
            Self::Journal => "journal",
            Self::Lvm => "lvm",
            Self::Thin => "thin",
            Self::Md => "md",
            Self::Stack => "stack",
            Self::Initramfs => "initramfs",
            Self::Modules => "modules",
            Self::Guest => "guest",
            Self::Nbd => "nbd",
            Self::Vmx => "vmx",
            Self::Domain => "domain",
            Self::Deflate => "deflate",
            Self::RpmDatabase => "rpmdb",
            Self::Unified => "unified",
        }
    }

    /// The target called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Gives it `input`, which may be [packed](crate::pack); and once more with its checksums made
    /// right, where that is another input. Returns unless that is a finding.
    pub fn run(self, input: &[u8]) {
        let bytes = expand(input);
        means::within(bytes.len(), || self.take(&bytes));
        if let Some(mended) = mend::checksums(self, &bytes) {
            means::within(mended.len(), || self.take(&mended));
        }
    }

    fn take(self, bytes: &[u8]) {
        match self {
            Self::Qcow2 => images::image(Format::Qcow2, bytes),
            Self::Vmdk => images::image(Format::Vmdk, bytes),
            Self::Cowd => images::extent("vmfsSparse", "VMFSSPARSE", bytes),
            Self::SeSparse => images::extent("seSparse", "SESPARSE", bytes),
            Self::Vhd => images::image(Format::Vhd, bytes),
            Self::Vhdx => images::image(Format::Vhdx, bytes),
            Self::Vdi => images::image(Format::Vdi, bytes),
            Self::Parallels => images::image(Format::Parallels, bytes),
            Self::Qed => images::image(Format::Qed, bytes),
            Self::Qcow => images::image(Format::Qcow, bytes),
            Self::Wrapper => images::wrapped(bytes),
            Self::Luks => volumes::luks(bytes),
            Self::Partitions => volumes::partitions(bytes),
            Self::Ext4 => volumes::ext4(bytes),
            Self::Xfs => volumes::xfs(bytes),
            Self::Btrfs => volumes::btrfs(bytes),
            Self::Iso9660 => volumes::iso9660(bytes),
            Self::Squashfs => volumes::squashfs(bytes),
            Self::Fat => volumes::fat(bytes),
            Self::Journal => volumes::ext4(bytes),
            Self::Lvm => members::lvm(bytes),
            Self::Thin => members::thin(bytes),
            Self::Md => members::md(bytes),
            Self::Stack => members::stack(bytes),
            Self::Initramfs => inspected::initramfs(bytes),
            Self::Modules => inspected::modules(bytes),
            Self::Guest => inspected::guest(bytes),
            Self::Nbd => talk::nbd(bytes),
            #[cfg(feature = "machines")]
            Self::Vmx => talk::vmx(bytes),
            #[cfg(feature = "machines")]
            Self::Domain => talk::domain(bytes),
            #[cfg(not(feature = "machines"))]
            Self::Vmx | Self::Domain => panic!("built without the feature machines"),
            Self::Deflate => talk::deflate(bytes),
            Self::RpmDatabase => guests::rpm(bytes),
            Self::Unified => guests::unified(bytes),
        }
    }
}
