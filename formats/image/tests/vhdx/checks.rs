//! `check` and `repair`: one damaged field, one finding that names it.

use rehost_image::{Format, Severity};

use crate::bytes::{BAT, HEADERS, TABLES, image_of, put, spec};
use crate::reading::make;
use crate::support::changing::{assert_clean, check_bytes, repaired};
use crate::support::{have, open_bytes, patchwork, read_all};

#[test]
fn what_qemu_img_makes_is_clean() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for options in [
        "subformat=dynamic",
        "subformat=fixed",
        "block_size=2M,log_size=3M",
    ] {
        make(
            folder.path(),
            "a.vhdx",
            &patchwork((9 << 20) + 512),
            options,
        );
        assert_clean(&folder.path().join("a.vhdx"), Format::Vhdx);
    }
}

#[test]
fn each_damage_is_found_and_what_is_safe_is_mended() {
    use Severity::{Corruption, Leak};
    let disk = patchwork(5 << 20);
    let whole = image_of(&disk, &spec(disk.len()));
    let clean = check_bytes(whole.clone(), Format::Vhdx).unwrap();
    assert!(clean.is_clean(), "{:?}", clean.findings);
    assert_eq!((clean.total_units, clean.allocated_units), (5, 5));
    assert_eq!(
        (clean.fragmented_units, clean.image_end),
        (0, whole.len() as u64)
    );
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Severity, Damage); 12] = [
        ("is damaged; the other one", Leak, |b| {
            b[HEADERS[0] + 20] ^= 1
        }),
        ("is damaged; the other one", Leak, |b| {
            b[HEADERS[1] + 20] ^= 1
        }),
        ("not the same as the other copy", Leak, |b| {
            b[TABLES[0] + 40] ^= 1
        }),
        ("not the same as the other copy", Leak, |b| {
            b[TABLES[1] + 40] ^= 1
        }),
        ("at the end are no block's", Leak, |b| {
            b.resize(b.len() + (3 << 20), 0)
        }),
        ("lies over what is at", Corruption, |b| {
            let first: [u8; 8] = b[BAT..BAT + 8].try_into().unwrap();
            put(b, BAT + 8, &first);
        }),
        ("lies over what is at", Corruption, |b| {
            put(b, BAT, &(2u64 << 20 | 6).to_le_bytes())
        }),
        ("past the end of the file", Corruption, |b| b[BAT + 5] = 1),
        ("reserved state 5", Corruption, |b| b[BAT] = 5),
        ("in a disk without a parent", Corruption, |b| b[BAT] = 7),
        ("reserved bits set", Corruption, |b| b[BAT + 1] = 1),
        ("ends at", Corruption, |b| {
            let len = b.len();
            b.truncate(len - 4096);
        }),
    ];
    for (named, severity, damage) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let check = check_bytes(bytes.clone(), Format::Vhdx).unwrap();
        let found = check
            .findings
            .iter()
            .find(|finding| finding.text.contains(named));
        let found = found.unwrap_or_else(|| panic!("{named}: {:?}", check.findings));
        assert_eq!(found.severity, severity, "{named}");
        assert_eq!(check.corruptions > 0, severity == Corruption, "{named}");
        let (bytes, after) = repaired(bytes, Format::Vhdx);
        assert_eq!(
            after.is_clean(),
            severity == Leak,
            "{named}: {:?}",
            after.findings
        );
        if severity == Leak {
            let image = open_bytes("a.vhdx", bytes.clone(), Some(Format::Vhdx)).unwrap();
            assert!(read_all(&*image.disk(), 1 << 20) == disk, "{named}");
            assert_eq!(bytes.len(), whole.len(), "{named}");
        }
    }
}
