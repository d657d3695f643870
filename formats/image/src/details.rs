//! What each format tells of an image beyond what all of them tell: plain values for reports.

use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

/// What only one format has.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Details {
    /// Raw images have nothing more to tell.
    Raw,
    /// Of a qcow2 image.
    Qcow2(Qcow2Details),
    /// Of a VMDK.
    Vmdk(VmdkDetails),
    /// Of a VHD.
    Vhd(VhdDetails),
    /// Of a VDI.
    Vdi(VdiDetails),
    /// Of a VHDX.
    Vhdx(VhdxDetails),
    /// Of a Parallels image or disk folder.
    Parallels(ParallelsDetails),
    /// Of a QED.
    Qed(QedDetails),
    /// Of a QCOW, version 1.
    Qcow(QcowDetails),
}

/// What `qemu-img info` calls format specific information.
#[derive(Debug, Clone, Serialize)]
pub struct Qcow2Details {
    /// `0.10` for version 2, `1.1` for version 3.
    pub compat: &'static str,
    /// Bits per refcount.
    pub refcount_bits: u32,
    /// Whether refcounts may be stale (harmless to readers).
    pub dirty: bool,
    /// Whether a writer found the image damaged. What can be read of it is still checked.
    pub corrupt: bool,
    /// Whether the writer kept refcounts lazily.
    pub lazy_refcounts: bool,
    /// Whether clusters are divided into 32 subclusters.
    pub extended_l2: bool,
    /// The external data file, as written in the image.
    pub data_file: Option<PathBuf>,
    /// Whether the external data file is also a valid raw image.
    pub data_file_raw: bool,
    /// Internal snapshots. They are not read.
    pub snapshots: u32,
    /// Persistent bitmaps. They are not read.
    pub bitmaps: u32,
}

/// What a VMDK descriptor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmdkDetails {
    /// `createType`, as written.
    pub create_type: String,
    /// `CID`, which changes with the content.
    pub cid: u32,
    /// `ddb.adapterType`, as written: the controller that the disk hung on.
    pub adapter: Option<String>,
    /// Extents that make up the disk.
    pub extents: usize,
}

/// What a VHD's footer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VhdDetails {
    /// `fixed`, `dynamic` or `differencing`.
    pub disk_type: &'static str,
    /// The program that made it, four characters, trailing blanks cut.
    pub creator: String,
    /// Which field of the footer the size is taken from, by creator: `current_size` (exact) or
    /// `geometry` (what guests of Virtual PC, Virtual Server and old QEMU saw).
    pub size_from: &'static str,
    /// The disk's unique id.
    pub unique_id: String,
    /// Seconds from 2000 to when the disk was made or last changed: a child remembers it.
    pub timestamp: u32,
    /// Whether the footer at the end is damaged or missing and its copy was taken.
    pub footer_from_copy: bool,
}

/// What a VDI's header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VdiDetails {
    /// `dynamic`, `static` or `differencing`.
    pub image_type: &'static str,
    /// The disk's UUID.
    pub uuid: String,
    /// Another one, which changes with the content.
    pub modified: String,
    /// The UUID of the disk that a differencing image lies over.
    pub parent: Option<String>,
    /// Blocks that are stored.
    pub blocks_stored: u64,
}

/// The kinds of VHDX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VhdxKind {
    /// All blocks are in the file.
    Fixed,
    /// Blocks come as they are written.
    Dynamic,
    /// What differs from a parent.
    Differencing,
}

/// What a VHDX says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VhdxDetails {
    /// Fixed, dynamic or differencing.
    pub kind: VhdxKind,
    /// Bytes per sector that the guest sees.
    pub logical_sector: u32,
    /// Bytes per sector of the disk that it stands for.
    pub physical_sector: u32,
    /// The disk's identity, as SCSI inquiry page 83 gives it.
    pub disk_id: Uuid,
    /// `DataWriteGuid`, which changes with the content.
    pub data_write_guid: Uuid,
    /// Log entries that had to be replayed, in memory: more than 0 after a crash.
    pub replayed: usize,
}

/// What a Parallels image or the descriptor of a disk folder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParallelsDetails {
    /// `WithoutFreeSpace` or `WithouFreSpacExt` for an image, `DiskDescriptor.xml` for a folder.
    pub kind: &'static str,
    /// Whether an image was not closed after it was last written.
    pub in_use: bool,
    /// Images that are read: 1, or those of a folder that the top snapshot needs.
    pub images: usize,
    /// The folder's top snapshot, which is what is read.
    pub snapshot: Option<Uuid>,
    /// Dirty bitmaps. Their bits are not read.
    pub bitmaps: Vec<ParallelsBitmap>,
}

/// A dirty bitmap in a Parallels image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParallelsBitmap {
    /// Its identifier.
    pub id: Uuid,
    /// Guest bytes per bit.
    pub granularity: u64,
}

/// What a QED's header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QedDetails {
    /// Clusters per table.
    pub table_clusters: u32,
    /// Whether it was not closed after it was last written, and its tables were checked here.
    pub need_check: bool,
}

/// What the header of a QCOW, version 1, says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QcowDetails {
    /// Entries per L2 table.
    pub l2_entries: u64,
    /// When the backing file was last changed, in seconds since 1970; 0 where nobody noted it.
    pub backing_modified: u32,
}
