//! Feature bits by name, and which of them this program reads and writes.
//!
//! Names are those of `mke2fs -O` and `dumpe2fs`. Source: Linux `Documentation/filesystems/ext4/super.rst`.

use rehost_block::{Error, Result};

/// One feature word of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

pub(super) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const DIR_INDEX: u32 = 0x20;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
    pub(crate) const EXT_ATTR: u32 = 0x8;
}

pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEV: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BIT64: u32 = 0x80;
    pub(crate) const MMP: u32 = 0x100;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const EA_INODE: u32 = 0x400;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGE_DIR: u32 = 0x4000;
    pub(crate) const INLINE_DATA: u32 = 0x8000;
    pub(crate) const ENCRYPT: u32 = 0x1_0000;
    pub(crate) const CASEFOLD: u32 = 0x2_0000;
}

pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const LARGE_FILE: u32 = 0x2;
    pub(crate) const BTREE_DIR: u32 = 0x4;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const DIR_NLINK: u32 = 0x20;
    pub(crate) const EXTRA_ISIZE: u32 = 0x40;
    pub(crate) const BIGALLOC: u32 = 0x200;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const PROJECT: u32 = 0x2000;
    pub(crate) const VERITY: u32 = 0x8000;
    pub(crate) const ORPHAN_PRESENT: u32 = 0x1_0000;
}

const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x80, "exclude_inode"),
    (0x100, "snapshot_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

const RO_COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "has_snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// Incompatible features that reading knows. `encrypt` and `casefold` are refused where a file
/// uses them; `needs_recovery` is replayed.
const READ_INCOMPAT: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::META_BG
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGE_DIR
    | incompat::INLINE_DATA
    | incompat::ENCRYPT
    | incompat::CASEFOLD;

/// Compatible features that change nothing a writer does, or that the writer keeps.
/// `imagic_inodes`, `lazy_bg` and the snapshot ones are not among them.
const WRITE_COMPAT: u32 = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000;

/// Read-only compatible features that writing knows.
const WRITE_RO_COMPAT: u32 = ro_compat::SPARSE_SUPER
    | ro_compat::LARGE_FILE
    | ro_compat::BTREE_DIR
    | ro_compat::HUGE_FILE
    | ro_compat::GDT_CSUM
    | ro_compat::DIR_NLINK
    | ro_compat::EXTRA_ISIZE
    | ro_compat::METADATA_CSUM
    | ro_compat::PROJECT
    | ro_compat::VERITY
    | ro_compat::ORPHAN_PRESENT;

impl Features {
    pub(super) const fn compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(super) const fn incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(super) const fn ro_compat(self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    /// Refuses what cannot be read, by name.
    pub(super) fn check_readable(self, at: u64) -> Result<()> {
        if self.incompat(incompat::JOURNAL_DEV) {
            return Err(Error::unsupported(
                "is an external journal, not a filesystem",
            ));
        }
        refuse("read", INCOMPAT_NAMES, self.incompat & !READ_INCOMPAT)
            .map_err(|error| error.in_structure("superblock").at(at))
    }

    /// Refuses what cannot be written, by name.
    pub(super) fn check_writable(self) -> Result<()> {
        let all = [
            (COMPAT_NAMES, self.compat & !WRITE_COMPAT),
            (INCOMPAT_NAMES, self.incompat & !READ_INCOMPAT),
            (RO_COMPAT_NAMES, self.ro_compat & !WRITE_RO_COMPAT),
        ];
        for (names, bits) in all {
            refuse("written", names, bits).map_err(|error| error.in_structure("superblock"))?;
        }
        Ok(())
    }

    /// `ext2`, `ext3` or `ext4`, by the rule blkid uses.
    pub(super) const fn kind(self) -> &'static str {
        let old_ro = ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
        let old_incompat = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        if self.ro_compat & !old_ro != 0 || self.incompat & !old_incompat != 0 {
            "ext4"
        } else if self.compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }
}

fn refuse(done: &str, names: &[(u32, &str)], bits: u32) -> Result<()> {
    if bits == 0 {
        return Ok(());
    }
    let listed: Vec<String> = (0..32u32)
        .map(|bit| 1u32.wrapping_shl(bit))
        .filter(|bit| bits & bit != 0)
        .map(|bit| {
            names.iter().find(|(known, _)| *known == bit).map_or_else(
                || format!("unknown bit {bit:#x}"),
                |(_, name)| (*name).into(),
            )
        })
        .collect();
    Err(Error::unsupported(format!(
        "feature {} cannot be {done}",
        listed.join(", ")
    )))
}
