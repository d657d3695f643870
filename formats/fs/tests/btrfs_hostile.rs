//! Btrfs images with flipped bytes, their checksums made right again or not: reading ends, with an answer or a
//! named error.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;
#[path = "support/btrfs.rs"]
mod volumes;

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut as _, Kind, Overlay};
use rehost_fs::Btrfs;
use support::*;
use volumes::*;

/// Bytes of a tree block of these images.
const NODE: usize = 4096;

/// An image, and the byte offsets of its superblock and tree blocks.
struct Image {
    disk: Arc<dyn Disk>,
    blocks: Vec<u64>,
}

fn image() -> &'static Image {
    static MADE: OnceLock<Image> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (from, image) = (folder.path().join("from"), folder.path().join("fs.raw"));
        std::fs::create_dir(&from).unwrap();
        fill_plain(&from);
        attribute(&from.join("small"), "user.colour", b"blue");
        mkfs(
            &image,
            &["-n", "4096", "-m", "single", "--rootdir", text(&from)],
        );
        let bytes = std::fs::read(&image).unwrap();
        let uuid = &bytes[0x1_0020..0x1_0030];
        let mut blocks: Vec<u64> = (0..bytes.len() / NODE)
            .map(|nth| nth * NODE)
            .filter(|at| &bytes[at + 32..at + 48] == uuid)
            .map(|at| at as u64)
            .collect();
        // Its second copy would be read instead.
        blocks.retain(|at| *at != 64 << 20);
        Image {
            disk: file_disk(&image),
            blocks,
        }
    })
}

/// Makes the checksum of a block right.
fn mend(view: &Overlay, at: u64) {
    let mut block = vec![0; NODE];
    view.read_at(&mut block, at).unwrap();
    let sum = crc32c::crc32c(&block[32..]);
    view.write_at(&sum.to_le_bytes(), at).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn flipped_bytes_never_panic_or_hang(
        mended in any::<bool>(),
        flips in prop::collection::vec((0..4u8, any::<u32>(), any::<u16>(), any::<u8>()), 1..8),
    ) {
        if !has(&["mkfs.btrfs"]) {
            return Ok(());
        }
        let image = image();
        let view = Overlay::in_memory(image.disk.clone());
        // The spare superblock must not save it.
        view.write_at(&[0; 4096], 64 << 20).unwrap();
        for (place, which, within, value) in flips {
            let block = image.blocks[which as usize % image.blocks.len()];
            let (block, at) = match place {
                0 => (65_536, u64::from(within) % 0x500),
                1 => (block, u64::from(within) % 101),
                2 => (block, u64::from(within) % 700),
                _ => (block, u64::from(within) % NODE as u64),
            };
            view.write_at(&[value], block + at).unwrap();
            if mended {
                mend(&view, block);
            }
        }
        match Btrfs::open(Arc::new(view)).and_then(|fs| fs.subvolumes().and_then(|_| tree(&fs))) {
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), Kind::Internal, "{error}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
