//! qemu-img writes LUKS1, as a format of its own and inside qcow2: both ways, byte for byte.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut, DiskStorage, File, Storage, StorageDisk, Window};
use rehost_luks::{Limits, LuksDisk, LuksDiskMut, Secret, parse};

use crate::support::{Raw, decode_all, have, noise, open, open_mut, read_all, run, try_run};
use crate::writing::{apply, step};

const SIZE: usize = 3 << 20;
const SECRET: [&str; 2] = ["--object", "secret,id=key,data=swordfish"];

fn secret() -> Secret {
    Secret::passphrase("swordfish")
}

/// Ciphers judged in volumes of [`crate::made`]: qemu-img takes seconds to make one, because it
/// measures what its key derivation may cost. Cipher, mode with iv generator, hash and key length in bytes.
const MADE_HERE: [(&str, &str, &str, usize); 10] = [
    ("aes", "xts-plain64", "sha256", 32),
    ("aes", "xts-plain", "sha512", 64),
    ("aes", "cbc-plain", "ripemd160", 16),
    ("aes", "cbc-plain64", "sha224", 32),
    ("aes", "cbc-essiv:sha256", "sha384", 16),
    ("serpent", "xts-plain64", "sha1", 64),
    ("serpent", "cbc-essiv:sha256", "sha256", 32),
    ("serpent", "cbc-plain64", "sha256", 16),
    ("twofish", "cbc-plain64", "sha512", 16),
    ("twofish", "cbc-essiv:sha256", "sha256", 32),
];

/// Whether this qemu-img was built without what it was asked for.
fn lacks(what: &str, said: &str) -> bool {
    let lacks = said.contains("not supported") || said.contains("nsupported");
    if lacks {
        println!("skipped: qemu-img has no {what}: {said}");
    }
    lacks
}

/// Makes a volume; false where this qemu-img cannot.
fn create(folder: &Path) -> bool {
    let size = SIZE.to_string();
    let mut args = vec!["create", "-q", "-f", "luks"];
    args.extend(SECRET);
    args.extend(["-o", "key-secret=key,iter-time=10", "volume", &size]);
    made(folder, &args)
}

/// Runs qemu-img until it has made a volume: it fails now and then where processor time is counted
/// in coarse steps.
fn made(folder: &Path, args: &[&str]) -> bool {
    for _ in 0..10 {
        let output = try_run(folder, "qemu-img", args);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return true;
        }
        assert!(said.contains("CPU usage"), "{said}");
    }
    println!("skipped: qemu-img cannot measure its key derivation here");
    false
}

const VOLUME: &str = "driver=luks,key-secret=key,file.filename=volume";

/// What qemu-img reads of the file `volume`.
fn judged(folder: &Path, what: &str) -> Option<Vec<u8>> {
    let mut args = vec!["convert", "--image-opts"];
    args.extend(SECRET);
    args.extend([VOLUME, "-O", "raw", "judged"]);
    let output = try_run(folder, "qemu-img", &args);
    let said = String::from_utf8_lossy(&output.stderr);
    if lacks(what, &said) {
        return None;
    }
    assert!(output.status.success(), "{what}: {said}");
    Some(std::fs::read(folder.join("judged")).unwrap())
}

/// Writes all over the volume and gives what it then holds.
fn write_over(path: &Path) -> Vec<u8> {
    let file = Arc::new(File::open_mut(path).unwrap());
    let header = parse(&*file).unwrap();
    let key = header
        .unlock(&*file, &secret(), &Limits::default())
        .unwrap();
    let container: Arc<dyn DiskMut> = Arc::new(Raw(file));
    let disk: LuksDiskMut = LuksDisk::new("volume", container, &header, &key).unwrap();
    let mut content = noise(4, usize::try_from(disk.size()).unwrap());
    disk.write_at(&content, 0).unwrap();
    for (number, at) in (0..content.len() - 5000).step_by(123_457).enumerate() {
        let piece = noise(at as u64, 300 * number % 5000);
        disk.write_at(&piece, at as u64).unwrap();
        content[at..at + piece.len()].copy_from_slice(&piece);
    }
    disk.zero_at(100_001, 70_000).unwrap();
    content[100_001..170_001].fill(0);
    disk.sync().unwrap();
    content
}

#[test]
fn what_qemu_img_wrote_is_read_and_the_other_way_round() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut content = noise(3, SIZE);
    content[100_000..900_000].fill(0);
    std::fs::write(folder.path().join("plain"), &content).unwrap();
    let path = folder.path().join("volume");
    // What it makes unless it is told otherwise: AES-256 in XTS mode.
    if !create(folder.path()) {
        return;
    }
    let mut args = vec!["convert", "-n", "-f", "raw", "plain", "--target-image-opts"];
    args.extend(SECRET);
    args.push(VOLUME);
    run(folder.path(), "qemu-img", &args);
    let header = parse(&File::open(&path).unwrap()).unwrap();
    assert_eq!(header.encryption(), Some("aes-xts-plain64"));
    let (disk, _) = open(&path, &secret()).unwrap();
    assert!(read_all(&disk, 100_001) == content);
    assert!(decode_all(&disk) == content);
    let written = write_over(&path);
    assert!(judged(folder.path(), "AES").unwrap() == written);
}

#[test]
fn qemu_img_reads_what_was_written_with_every_cipher() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    for (cipher, mode, hash, key) in MADE_HERE {
        let what = format!("{cipher}-{mode} with {hash} and {key} bytes");
        let volume = crate::made::Luks1 {
            cipher,
            mode,
            hash,
            key,
            stripes: 4000,
            passphrase: "swordfish",
        };
        std::fs::write(&path, volume.build()).unwrap();
        let written = write_over(&path);
        if let Some(judged) = judged(folder.path(), &what) {
            assert!(judged == written, "{what}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn random_writes_are_what_qemu_img_reads(
        steps in proptest::collection::vec(step(crate::made::DATA), 1..10),
    ) {
        if !have(&["qemu-img"]) {
            return Ok(());
        }
        let folder = tempfile::tempdir().unwrap();
        let volume = crate::made::Luks1 {
            stripes: 4000,
            passphrase: "swordfish",
            ..crate::made::Luks1::default()
        };
        let memory = crate::made::memory(volume.build());
        let disk = open_mut(&memory, &secret());
        let mut model = read_all(&disk, 1 << 20);
        apply(&disk, &mut model, &steps);
        std::fs::write(folder.path().join("volume"), memory.to_vec()).unwrap();
        prop_assert!(judged(folder.path(), "AES").unwrap() == model);
    }
}

#[test]
fn clusters_of_an_encrypted_qcow2_decrypt_by_their_place_in_the_file() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let content = noise(5, SIZE);
    std::fs::write(folder.path().join("plain"), &content).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
    args.extend(SECRET);
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    args.extend(["-o", options, "plain", "disk"]);
    if !made(folder.path(), &args) {
        return;
    }

    let bytes = std::fs::read(folder.path().join("disk")).unwrap();
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let at = |offset: u64| usize::try_from(offset).unwrap();
    // The header extension that says where the LUKS header is.
    let mut extension = u32_at(100) as usize;
    while u32_at(extension) != 0x0537_be77 {
        assert_ne!(u32_at(extension), 0, "no encryption header");
        extension += 8 + (u32_at(extension + 4) as usize).next_multiple_of(8);
    }
    let (start, len) = (u64_at(extension + 8), u64_at(extension + 16));

    let file: Arc<dyn Storage> = Arc::new(File::open(folder.path().join("disk")).unwrap());
    let whole: Arc<dyn Disk> = Arc::new(StorageDisk::new(file));
    let part = Window::new(whole, start, len).unwrap();
    let storage = DiskStorage::new("disk", Arc::new(part));
    let header = parse(&storage).unwrap();
    let key = header
        .unlock(&storage, &secret(), &Limits::default())
        .unwrap();
    let cipher = header.sector_cipher(&key).unwrap();

    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let table = u64_at(at(u64_at(40))) & OFFSET;
    for (number, plain) in content.chunks(65536).enumerate() {
        let host = u64_at(at(table) + number * 8) & OFFSET;
        let mut cluster = bytes[at(host)..at(host) + plain.len()].to_vec();
        cipher.decrypt(&mut cluster, host / 512).unwrap();
        assert!(cluster == plain, "cluster {number}");
        cipher.encrypt(&mut cluster, host / 512).unwrap();
        assert!(cluster == bytes[at(host)..at(host) + plain.len()]);
    }
}
