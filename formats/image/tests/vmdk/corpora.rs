//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use rehost_block::{Kind, SameFolder};
use rehost_image::{Format, Image};

use crate::support::corpora::{assert_recorded, records};

#[test]
fn every_vmdk_of_the_corpora_has_the_recorded_content_or_a_named_error() {
    let Some(records) = records(|category| category == "image/vmdk") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // Extents must lie beside their descriptors, under their own names.
    for record in &records {
        record.unpack(&folder.path().join(record.name()));
    }
    let (mut same, mut refused) = (0, 0);
    for record in &records {
        let name = record.name();
        let known = record.known["guest_sha256"].as_str();
        match Image::open(folder.path().join(&name), Some(Format::Vmdk), &SameFolder) {
            Ok(image) => {
                assert_recorded(folder.path(), &name, &image, &record.known);
                same += 1;
            }
            Err(error) => {
                println!("{name}: {error}");
                assert_eq!(known, None, "{name}: {error}");
                assert_ne!(error.kind(), Kind::Internal, "{name}: {error}");
                refused += 1;
            }
        }
    }
    println!("{same} images with the recorded content, {refused} refused by name");
    assert!(same >= 4 && refused >= 2, "{same} and {refused}");
}
