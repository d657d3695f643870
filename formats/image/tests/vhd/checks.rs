//! `check` and `repair`: one damaged field, one finding that names it.

use rehost_image::{Format, Severity, VhdKind};

use crate::support::changing::{assert_clean, check_bytes, repaired};
use crate::support::{have, open_bytes, patchwork, read_all};
use crate::{COPY, HEADER, footer, in_memory, patch};

#[test]
fn what_qemu_img_makes_is_clean() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.raw"), patchwork((9 << 20) + 512)).unwrap();
    for kind in ["dynamic", "fixed"] {
        for size in ["force_size=on", "force_size=off"] {
            let options = format!("subformat={kind},{size}");
            let args = [
                "convert", "-f", "raw", "-O", "vpc", "-o", &options, "a.raw", "a.vhd",
            ];
            crate::support::run(folder.path(), "qemu-img", &args);
            assert_clean(&folder.path().join("a.vhd"), Format::Vhd);
        }
    }
}

#[test]
fn each_damage_is_found_and_what_is_safe_is_mended() {
    use Severity::{Corruption, Leak};
    let disk = patchwork(7 << 20);
    let whole = in_memory(VhdKind::Dynamic, &disk);
    let clean = check_bytes(whole.clone(), Format::Vhd).unwrap();
    assert!(clean.is_clean(), "{:?}", clean.findings);
    assert_eq!((clean.total_units, clean.allocated_units), (4, 4));
    assert_eq!(
        (clean.fragmented_units, clean.image_end),
        (0, whole.len() as u64)
    );
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Severity, u64, Damage); 7] = [
        ("copy at the beginning is damaged", Leak, 0, |b| b[200] ^= 1),
        ("says something else", Leak, 0, |b| {
            patch(b, COPY, 68, &[9; 16])
        }),
        ("missing or damaged at the end", Leak, 0, |b| {
            let at = b.len() - 300;
            b[at] ^= 1;
        }),
        ("lies over what is at", Corruption, 1, |b| {
            let first: [u8; 4] = b[1536..1540].try_into().unwrap();
            b[1540..1544].copy_from_slice(&first);
        }),
        ("lies over what is at", Corruption, 1, |b| {
            b[1536..1540].copy_from_slice(&[0; 4])
        }),
        ("past the end of the data", Corruption, 1, |b| {
            b[1536..1538].copy_from_slice(&[1; 2])
        }),
        ("are no block's", Leak, 0, |b| {
            let end = b.split_off(b.len() - 512);
            b.resize(b.len() + (4 << 20), 0);
            b.extend(end);
        }),
    ];
    for (named, severity, corruptions, damage) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let check = check_bytes(bytes.clone(), Format::Vhd).unwrap();
        let found = check
            .findings
            .iter()
            .find(|finding| finding.text.contains(named));
        let found = found.unwrap_or_else(|| panic!("{named}: {:?}", check.findings));
        assert_eq!(found.severity, severity, "{named}");
        assert_eq!(check.corruptions > 0, corruptions > 0, "{named}");
        let (bytes, after) = repaired(bytes, Format::Vhd);
        assert_eq!(
            after.is_clean(),
            severity == Leak,
            "{named}: {:?}",
            after.findings
        );
        if severity == Leak {
            let image = open_bytes("a.vhd", bytes.clone(), Some(Format::Vhd)).unwrap();
            assert!(read_all(&*image.disk(), 1 << 20) == disk, "{named}");
            assert_eq!(bytes.len(), whole.len(), "{named}");
            assert_eq!(bytes[..512], bytes[bytes.len() - 512..], "{named}");
        }
    }
}

#[test]
fn locators_that_lie_elsewhere_are_found() {
    let mut bytes = in_memory(VhdKind::Dynamic, &patchwork(3 << 20));
    let end = footer(&bytes);
    for place in [COPY, end] {
        patch(&mut bytes, place, 60, &4u32.to_be_bytes());
    }
    for (at, named) in [
        (1u64 << 40, "past the end of the file"),
        (600, "lies over the dynamic"),
    ] {
        patch(&mut bytes, HEADER, 576, b"W2ru");
        patch(&mut bytes, HEADER, 584, &64u32.to_be_bytes());
        patch(&mut bytes, HEADER, 592, &at.to_be_bytes());
        let check = check_bytes(bytes.clone(), Format::Vhd).unwrap();
        let found = check.findings.iter().any(|finding| {
            finding.structure == "parent locator entry" && finding.text.contains(named)
        });
        assert!(found, "{named}: {:?}", check.findings);
    }
}

#[test]
fn room_behind_a_fixed_disk_is_found() {
    let mut bytes = in_memory(VhdKind::Fixed, &patchwork(1 << 20));
    let end = bytes.split_off(1 << 20);
    bytes.resize(2 << 20, 0);
    bytes.extend(end);
    let check = check_bytes(bytes, Format::Vhd).unwrap();
    assert_eq!((check.leaks, check.corruptions), (1, 0));
}
