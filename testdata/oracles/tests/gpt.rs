//! The gpt crate writes tables that we read, in sectors of 512 and 4096 bytes, from either copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{EFI, LINUX_FS};
use rehost_block::{Disk, File, StorageDisk};
use rehost_volume::{Layout, Table, scan};

const SIZE: u64 = 64 << 20;

/// The active flag of a partition that an old BIOS may boot.
const LEGACY_BOOT: u64 = 1 << 2;

/// A disk that the crate divided, and what the crate says of it.
fn divided(path: &Path, sector: LogicalBlockSize) -> (String, Vec<gpt::partition::Partition>) {
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    let sectors = u32::try_from(SIZE / sector.as_u64() - 1).unwrap();
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut file)
        .unwrap();
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(sector)
        .create(path)
        .unwrap();
    table
        .add_partition("esp ünï", 4 << 20, EFI, 0, None)
        .unwrap();
    table
        .add_partition("root", 16 << 20, LINUX_FS, LEGACY_BOOT, None)
        .unwrap();
    table
        .add_partition("home", 8 << 20, LINUX_FS, 0, None)
        .unwrap();
    let id = table.guid().to_string();
    let partitions = table.partitions().values().cloned().collect();
    table.write().unwrap();
    (id, partitions)
}

fn read(path: &Path) -> Layout {
    let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(File::open(path).unwrap())));
    scan(&disk).unwrap()
}

fn agrees(sector: LogicalBlockSize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let (id, theirs) = divided(&path, sector);
    let ours = read(&path);
    assert_eq!(ours.table, Table::Gpt);
    assert_eq!(u64::from(ours.sector), sector.as_u64());
    assert_eq!(ours.id.as_deref(), Some(id.as_str()));
    assert!(ours.damage.is_empty(), "{:?}", ours.damage);
    assert_eq!(ours.volumes.len(), theirs.len());
    for (ours, theirs) in ours.volumes.iter().zip(&theirs) {
        let bytes = theirs.first_lba * sector.as_u64()..(theirs.last_lba + 1) * sector.as_u64();
        assert_eq!(ours.range, bytes);
        assert_eq!(ours.name.as_deref(), Some(theirs.name.as_str()));
        assert_eq!(
            ours.kind,
            theirs.part_type_guid.guid.to_string().to_lowercase()
        );
        assert_eq!(
            ours.partuuid.as_deref(),
            Some(theirs.part_guid.to_string().as_str())
        );
        assert_eq!(ours.bootable, theirs.flags & LEGACY_BOOT != 0);
    }

    // The backup alone says the same.
    let mut bytes = std::fs::read(&path).unwrap();
    let header = usize::try_from(sector.as_u64()).unwrap();
    bytes[header + 8] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let backup = read(&path);
    assert_eq!(backup.volumes, ours.volumes);
    assert_eq!(backup.damage.len(), 1);
}

#[test]
fn tables_of_512_byte_sectors_are_read_as_their_writer_meant_them() {
    agrees(LogicalBlockSize::Lb512);
}

#[test]
fn tables_of_4096_byte_sectors_are_read_as_their_writer_meant_them() {
    agrees(LogicalBlockSize::Lb4096);
}
