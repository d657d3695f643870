//! Images made by others, with the answers that others' tools gave (`REHOST_CORPORA`).

use rehost_block::SameFolder;
use rehost_image::{Format, Image};

use crate::support::corpora::{assert_recorded, records};

#[test]
fn the_corpora_have_the_recorded_content() {
    let Some(records) = records(|category| category.starts_with("image/")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut formats = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let format = match record.known["qemu_info"]["format"].as_str() {
            Some("parallels") => Format::Parallels,
            Some("qcow") => Format::Qcow,
            Some("qed") => Format::Qed,
            _ => continue,
        };
        let name = format!("{number}.img");
        record.unpack(&folder.path().join(&name));
        let image = Image::open(folder.path().join(&name), None, &SameFolder).unwrap();
        assert_eq!(image.format(), format, "{}", record.stored());
        assert_recorded(folder.path(), &name, &image, &record.known);
        formats.push(format);
    }
    println!("{} images with the recorded content", formats.len());
    assert!(formats.contains(&Format::Parallels) && formats.contains(&Format::Qcow));
}
