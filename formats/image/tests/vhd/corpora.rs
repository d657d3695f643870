//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use std::fs;
use std::path::Path;

use rehost_block::{Kind, SameFolder};
use rehost_image::{Format, Image, VhdKind};

use crate::support::corpora::{assert_recorded, records, sha256};
use crate::{footer, in_memory, patch};

/// A parent of zeroes for the differencing disk `child`, whose own parent is not in the corpora.
fn stand_in(child: &Path, size: usize, to: &Path) {
    let child = fs::read(child).unwrap();
    let mut parent = in_memory(VhdKind::Fixed, &vec![0; size]);
    let end = footer(&parent);
    patch(&mut parent, end, 68, &child[512 + 40..512 + 56]);
    fs::write(to, parent).unwrap();
}

#[test]
fn every_vhd_of_the_corpora_has_the_recorded_content_or_a_named_error() {
    let Some(records) = records(|category| category == "image/vhd") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for record in &records {
        record.unpack(&folder.path().join(record.name()));
    }
    let (mut same, mut refused) = (0, 0);
    for record in &records {
        let name = record.name();
        let known = record.known["guest_sha256"].as_str();
        match Image::open(folder.path().join(&name), Some(Format::Vhd), &SameFolder) {
            Ok(image) => {
                assert_recorded(folder.path(), &name, &image, &record.known);
                same += 1;
            }
            // QEMU read it without its parent, as if that were zeroes.
            Err(error) => {
                println!("{name}: {error}");
                assert_eq!(name, "fat-differential.vhd", "{name}: {error}");
                assert_eq!(error.kind(), Kind::Io, "{name}: {error}");
                let (child, parent) = (folder.path().join(&name), "fat-parent.vhd");
                assert!(error.to_string().contains(parent), "{name}: {error}");
                stand_in(&child, 4 << 20, &folder.path().join(parent));
                let image = Image::open(&child, None, &SameFolder).unwrap();
                assert_eq!(Some(sha256(&*image.disk()).as_str()), known, "{name}");
                refused += 1;
            }
        }
    }
    println!("{same} images with the recorded content, {refused} refused by name");
    assert!(same >= 3 && refused >= 1, "{same} and {refused}");
}
