//! Unified kernel images with another initramfs or command line, judged by objdump and objcopy, and by systemd's own
//! stub as the program around.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;
use rehost_block::Kind;
use rehost_inject::unified::{Part, sealed, with_part};
use rehost_inspect::unified::Program;
use support::{ask, have};

/// Where Debian has systemd's stub.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

const TOOLS: &[&str] = &["objcopy", "objdump"];

/// Whether everything is there.
fn ready() -> bool {
    if !Path::new(STUB).exists() {
        println!("skipped: needs {STUB}");
        return false;
    }
    have(TOOLS)
}

/// The stub with these sections from `address` on, page by page.
fn image(folder: &Path, sections: &[(&str, &[u8])], mut address: u64) -> Vec<u8> {
    let mut arguments = Vec::new();
    for (name, content) in sections {
        let file = folder.join(format!("in{name}"));
        fs::write(&file, content).unwrap();
        arguments.push(format!("--add-section={name}={}", file.display()));
        arguments.push(format!("--change-section-vma={name}={address:#x}"));
        address = (address + content.len() as u64).next_multiple_of(0x1000);
    }
    let to = folder.join("image.efi");
    arguments.extend([STUB.to_owned(), to.to_str().unwrap().to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ask("objcopy", &arguments, b"");
    fs::read(to).unwrap()
}

/// A section's name, length and address.
type Listed = (String, u64, u64);

/// The sections as objdump lists them.
fn listed(folder: &Path, image: &[u8]) -> Vec<Listed> {
    let file = folder.join("listed.efi");
    fs::write(&file, image).unwrap();
    let said = ask("objdump", &["-h", file.to_str().unwrap()], b"");
    let number = |field: &str| u64::from_str_radix(field, 16).unwrap();
    String::from_utf8(said)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [index, name, size, address, ..] = fields[..] else {
                return None;
            };
            index.parse::<u32>().ok()?;
            Some((name.to_owned(), number(size), number(address)))
        })
        .collect()
}

/// The content of a section, as objcopy takes it out.
fn section(folder: &Path, image: &[u8], name: &str) -> Vec<u8> {
    let (file, out) = (folder.join("from.efi"), folder.join("out"));
    fs::write(&file, image).unwrap();
    let dump = format!("{name}={}", out.display());
    let null = folder.join("null");
    ask(
        "objcopy",
        &[
            "--dump-section",
            &dump,
            file.to_str().unwrap(),
            null.to_str().unwrap(),
        ],
        b"",
    );
    fs::read(out).unwrap()
}

/// No two sections share an address, and the image says how large it is in memory.
fn is_sound(image: &[u8], listed: &[Listed]) {
    let mut places: Vec<(u64, u64)> = listed
        .iter()
        .map(|(_, len, address)| (*address, address + len))
        .collect();
    let in_order = places.is_sorted();
    assert!(
        in_order,
        "the table is in the order of addresses: {listed:x?}"
    );
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{listed:x?}");
    }
    let field = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let optional = field(0x3c) as usize + 24;
    // objdump counts from ImageBase, which the stub has at 0.
    let size = u64::from(field(optional + 56));
    let end = places.last().unwrap().1;
    assert!(size >= end && size < end + 0x20_0000, "{size:#x} {end:#x}");
}

const KERNEL: &[u8] = &[b'k'; 5000];

fn parts(initrd: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".osrel", b"ID=debian\n".to_vec()),
        (".cmdline", b"root=UUID=1 ro\0".to_vec()),
        (".initrd", initrd.to_vec()),
        (".linux", KERNEL.to_vec()),
    ]
}

fn borrowed<'a>(parts: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'static str, &'a [u8])> {
    parts
        .iter()
        .map(|(name, content)| (*name, &content[..]))
        .collect()
}

/// The parts that can be replaced.
const REPLACED: [Part; 2] = [Part::Initramfs, Part::CommandLine];

#[test]
fn a_longer_part_moves_what_is_behind_it() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(&[b'i'; 3000]);
    let old = image(folder.path(), &borrowed(&parts), 0x3_0000);
    let stub = listed(folder.path(), &fs::read(STUB).unwrap());
    for (part, stored) in REPLACED.into_iter().zip([3072, 512]) {
        for len in [1usize, 15, 512, 513, 3000, 3073, 4096, 4097, 70_001] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let new = with_part(&old, part, &content).unwrap();
            let sections = listed(folder.path(), &new);
            is_sound(&new, &sections);
            for (name, old) in &parts {
                let expected = if *name == part.section() {
                    &content
                } else {
                    old
                };
                let found = section(folder.path(), &new, name);
                assert_eq!(&found, expected, "{name} {part:?} {len}");
            }
            // What the stub is made of stays where its code looks for it, and the rest on pages.
            for own in &stub {
                assert!(sections.contains(own), "{own:x?} in {sections:x?}");
            }
            for (name, _, address) in sections.iter().filter(|one| !stub.contains(one)) {
                assert_eq!(address % 4096, 0, "{name} {sections:x?}");
            }
            let fits = len <= stored;
            assert_eq!(new.len() == old.len(), fits, "{part:?} {len}");
            // Back again, from wherever the part is now.
            let (_, first) = parts.iter().find(|one| one.0 == part.section()).unwrap();
            let back = with_part(&new, part, first).unwrap();
            is_sound(&back, &listed(folder.path(), &back));
        }
    }
}

#[test]
fn both_parts_of_one_image_are_replaced_one_after_the_other() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(&[b'i'; 3000]);
    let old = image(folder.path(), &borrowed(&parts), 0x3_0000);
    let (initrd, line) = (vec![b'n'; 9000], vec![b'c'; 5000]);
    let one = with_part(&old, Part::Initramfs, &initrd).unwrap();
    let one = with_part(&one, Part::CommandLine, &line).unwrap();
    let other = with_part(&old, Part::CommandLine, &line).unwrap();
    let other = with_part(&other, Part::Initramfs, &initrd).unwrap();
    for new in [one, other] {
        is_sound(&new, &listed(folder.path(), &new));
        for (name, expected) in [
            (".initrd", &initrd[..]),
            (".cmdline", &line),
            (".linux", KERNEL),
            (".osrel", b"ID=debian\n"),
        ] {
            assert_eq!(section(folder.path(), &new, name), expected, "{name}");
        }
    }
}

#[test]
fn an_initramfs_below_program_code_is_mapped_behind_everything() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(&[b'i'; 3000]);
    // Another program's code behind it, which cannot be moved.
    parts.push((".code", vec![b'c'; 100]));
    let old = image(folder.path(), &borrowed(&parts), 0x3_0000);
    let initrd = vec![b'n'; 9000];
    let new = with_part(&old, Part::Initramfs, &initrd).unwrap();
    let sections = listed(folder.path(), &new);
    is_sound(&new, &sections);
    assert_eq!(sections.last().unwrap().0, ".initrd");
    let before = listed(folder.path(), &old);
    for name in [".code", ".linux"] {
        let of = |list: &[Listed]| list.iter().find(|one| one.0 == name).cloned();
        assert_eq!(of(&before), of(&sections));
    }
    assert_eq!(section(folder.path(), &new, ".initrd"), initrd);
    assert_eq!(section(folder.path(), &new, ".code"), [b'c'; 100]);
}

#[test]
fn images_that_must_stay_are_refused_by_name() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut measured = parts(b"i");
    measured.push((".pcrsig", b"{}".to_vec()));
    let file = image(folder.path(), &borrowed(&measured), 0x3_0000);
    let error = with_part(&file, Part::Initramfs, b"n")
        .unwrap_err()
        .to_string();
    assert!(error.contains(".pcrsig"), "{error}");
    assert!(sealed(&Program::parse(&file[..]).unwrap()).is_some());

    let without = [(".linux", KERNEL)];
    let file = image(folder.path(), &without, 0x3_0000);
    let error = with_part(&file, Part::Initramfs, b"n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no initramfs"), "{error}");
    let error = with_part(&file, Part::CommandLine, b"ro").unwrap_err();
    assert!(error.to_string().contains("has no command line"), "{error}");

    // One for each of two profiles.
    let mut parts = parts(b"i");
    parts.push((".cmdlinf", b"single".to_vec()));
    let mut file = image(folder.path(), &borrowed(&parts), 0x3_0000);
    let at = header(&file, ".cmdlinf");
    file[at..at + 8].copy_from_slice(b".cmdline");
    let error = with_part(&file, Part::CommandLine, b"ro").unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("profiles"), "{error}");
}

/// A sound image, made once.
fn sample() -> Option<&'static [u8]> {
    static SAMPLE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let made = SAMPLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(&[b'i'; 3000]);
        ready().then(|| image(folder.path(), &borrowed(&parts), 0x3_0000))
    });
    made.as_deref()
}

/// Where the header of the section called `name` is.
fn header(file: &[u8], name: &str) -> usize {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(8, 0);
    let at = file.windows(8).position(|window| window == padded);
    at.unwrap()
}

#[test]
fn a_part_stored_beyond_the_end_is_refused() {
    let Some(sample) = sample() else { return };
    for part in REPLACED {
        let at = header(sample, part.section());
        for stored in [0xffff_fe00u32, 0x4000_0000, sample.len() as u32] {
            let mut file = sample.to_vec();
            file[at + 16..at + 20].copy_from_slice(&stored.to_le_bytes());
            let error = with_part(&file, part, &[b'n'; 5000]).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains("beyond the end"), "{error}");
        }
    }
}

#[test]
fn a_length_that_is_not_aligned_keeps_what_is_behind_aligned() {
    let Some(sample) = sample() else { return };
    let at = header(sample, ".initrd");
    let mut file = sample.to_vec();
    file[at + 16..at + 20].copy_from_slice(&3000u32.to_le_bytes());
    let place = |file: &[u8], name: &str| {
        let at = header(file, name) + 20;
        u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
    };
    let new = with_part(&file, Part::Initramfs, &[b'n'; 3000]).unwrap();
    assert_eq!(new.len(), file.len(), "it fits where the old one was");
    let new = with_part(&file, Part::Initramfs, &[b'n'; 3001]).unwrap();
    for name in [".linux", ".initrd"] {
        assert_eq!(place(&new, name) % 512, 0, "{name}");
    }
    assert!(place(&new, ".linux") > place(&file, ".linux"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_images_never_panic(
        part in prop::sample::select(REPLACED.to_vec()),
        at in 0usize..0x400,
        byte: u8,
        cut in 0usize..0x3000,
    ) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut file = sample.to_vec();
        file[at] = byte;
        file.truncate(file.len() - cut);
        let _ = with_part(&file, part, &[b'n'; 5000]);
    }

    #[test]
    fn damaged_headers_of_a_part_never_panic(
        part in prop::sample::select(REPLACED.to_vec()),
        field in prop::sample::select(vec![8usize, 12, 16, 20]),
        value: u32,
        len in 0usize..6000,
    ) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut file = sample.to_vec();
        let at = header(sample, part.section()) + field;
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if let Ok(new) = with_part(&file, part, &vec![b'n'; len]) {
            prop_assert!(new.len() <= file.len() + 0x1_0000, "{:#x}", new.len());
        }
    }
}
