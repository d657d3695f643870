//! How each disk is divided, what is on its partitions, and whose boot code it has.

use std::sync::Arc;

use rehost_block::{Disk, Kind, Result};
use rehost_volume::stack::{self, Use};
use rehost_volume::{Layout, Table};

use super::Volumes;
use crate::model::{Content, DiskFound, FilesystemFound, VolumeFound};

impl Volumes {
    /// How a disk is divided, and what is on its partitions.
    pub(super) fn add_disk(&mut self, number: usize, disk: &Arc<dyn Disk>) -> Result<()> {
        let on_disk = |volume: &&VolumeFound| volume.at.disk == number && volume.at.name.is_none();
        let itself = self
            .found
            .iter()
            .filter(on_disk)
            .find(|volume| volume.kind == stack::Kind::Disk);
        let usage = itself.and_then(|volume| volume.usage);
        // A partition table that is in view belongs to what lies on the disk.
        let layout = match (usage, rehost_volume::scan(disk)) {
            (Some(Use::Mbr | Use::Gpt) | None, Ok(layout)) => layout,
            (_, Err(error)) if error.kind() == Kind::Io => return Err(error),
            (Some(Use::Mbr | Use::Gpt) | None, Err(_)) => undivided(Vec::new()),
            (Some(_), _) => undivided(vec![rehost_volume::Volume {
                number: 0,
                range: 0..disk.size(),
                kind: String::new(),
                partuuid: None,
                name: None,
                bootable: false,
            }]),
        };
        let filesystems = layout.volumes.iter().map(|volume| FilesystemFound {
            volume: volume.number,
            content: self
                .found
                .iter()
                .filter(on_disk)
                .find(|found| {
                    let is_part = found.kind == stack::Kind::Part;
                    found.at.volume == volume.number && is_part == (layout.table != Table::None)
                })
                .map_or(Content::Unknown, |found| found.content.clone()),
        });
        self.disks.push(DiskFound {
            size: disk.size(),
            boot_code: boot_code(disk)?,
            filesystems: filesystems.collect(),
            layout,
        });
        Ok(())
    }
}

/// The disk's only partition, or none: no table was found.
const fn undivided(volumes: Vec<rehost_volume::Volume>) -> Layout {
    Layout {
        table: Table::None,
        id: None,
        sector: 512,
        volumes,
        damage: Vec::new(),
    }
}

/// Whose code is in sector 0, by the text that its authors left in it.
fn boot_code(disk: &Arc<dyn Disk>) -> Result<Option<&'static str>> {
    const TEXTS: [(&[u8], &str); 6] = [
        (b"GRUB", "GRUB"),
        (b"LILO", "LILO"),
        (b"isolinux", "SYSLINUX"),
        (b"SYSLINUX", "SYSLINUX"),
        (b"Missing operating system.", "SYSLINUX"),
        (b"Invalid partition table", "Windows"),
    ];
    if disk.size() < 512 {
        return Ok(None);
    }
    let mut sector = [0; 440];
    disk.read_at(&mut sector, 0)?;
    Ok(TEXTS
        .iter()
        .find(|(text, _)| sector.windows(text.len()).any(|part| part == *text))
        .map(|(_, name)| *name))
}
