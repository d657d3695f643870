//! Volumes made by cryptsetup: its keys, its headers, and its data as qemu-img reads it.

use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, File, Kind, Memory};
use rehost_luks::{Secret, Version, parse};

use crate::support::{have, noise, open, open_mut, read_all, run, try_run};

fn format(folder: &Path, name: &str, args: &[&str]) {
    std::fs::write(folder.join("key"), "swordfish").unwrap();
    let file = std::fs::File::create(folder.join(name)).unwrap();
    file.set_len(20 << 20).unwrap();
    let mut all = vec!["luksFormat", "-q"];
    all.extend(args);
    all.extend([name, "key"]);
    run(folder, "cryptsetup", &all);
}

fn secret() -> Secret {
    Secret::passphrase("swordfish")
}

/// The volume key as cryptsetup prints it.
fn dumped(folder: &Path, name: &str) -> Vec<u8> {
    let args = [
        "luksDump",
        "-q",
        "--dump-volume-key",
        "--key-file",
        "key",
        name,
    ];
    let text = run(folder, "cryptsetup", &args);
    let hex = text.split_once("MK dump:").unwrap().1;
    hex.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

const QUICK: [&str; 5] = [
    "--type",
    "luks2",
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf",
];

#[test]
fn every_kind_of_header_gives_the_key_that_cryptsetup_prints() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let luks1 = ["--type", "luks1", "--pbkdf-force-iterations", "1000"];
    let argon2id = [&QUICK[..], &["argon2id", "--pbkdf-memory", "32768"]].concat();
    let argon2i = [&QUICK[..], &["argon2i", "--pbkdf-memory", "40000"]].concat();
    let pbkdf2 = [
        "--type",
        "luks2",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ];
    let cases: [(&[&str], &[&str]); 9] = [
        (&luks1, &[]),
        (&luks1, &["--hash", "sha512", "-s", "256"]),
        (
            &luks1,
            &["-c", "aes-cbc-essiv:sha256", "-s", "256", "--hash", "sha1"],
        ),
        (&argon2id, &["--pbkdf-parallel", "2"]),
        (&argon2id, &["--sector-size", "4096", "--label", "vault"]),
        (
            &argon2i,
            &[
                "--pbkdf-parallel",
                "1",
                "-c",
                "aes-cbc-essiv:sha256",
                "-s",
                "192",
            ],
        ),
        (&pbkdf2, &["--hash", "sha512", "-s", "256"]),
        (&pbkdf2, &["-c", "aes-cbc-plain64", "-s", "128"]),
        (
            &pbkdf2,
            &[
                "--luks2-metadata-size",
                "64k",
                "--luks2-keyslots-size",
                "1m",
            ],
        ),
    ];
    for (kind, options) in cases {
        let args = [kind, options].concat();
        format(folder, "volume", &args);
        let (disk, key) = open(&folder.join("volume"), &secret()).unwrap();
        assert!(key.expose() == dumped(folder, "volume"), "{args:?}");
        assert!(disk.size() > 0 && disk.size() < 20 << 20, "{args:?}");
        let header = parse(&File::open(folder.join("volume")).unwrap()).unwrap();
        let uuid = run(folder, "cryptsetup", &["luksUUID", "volume"]);
        assert_eq!(header.uuid(), uuid.trim());
        let label = options.contains(&"--label").then_some("vault");
        assert_eq!(header.label(), label);
        let error = open(&folder.join("volume"), &Secret::passphrase("wrong")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    }
}

#[test]
fn a_part_of_a_key_file_opens_its_keyslot() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [&QUICK[..], &["argon2id", "--pbkdf-memory", "32768"]].concat();
    format(folder, "volume", &args);
    let file = noise(6, 10_000);
    std::fs::write(folder.join("file"), &file).unwrap();
    let mut args = vec!["luksAddKey", "-q", "--key-file", "key", "--key-slot", "5"];
    args.extend(["--new-keyfile-offset", "123", "--new-keyfile-size", "4000"]);
    args.extend(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    args.extend(["volume", "file"]);
    run(folder, "cryptsetup", &args);
    run(
        folder,
        "cryptsetup",
        &[
            "config",
            "--key-slot",
            "5",
            "--priority",
            "prefer",
            "volume",
        ],
    );
    let secret = Secret::key_file(folder.join("file"), 123, Some(4000)).unwrap();
    let (_, key) = open(&folder.join("volume"), &secret).unwrap();
    assert_eq!(key.keyslot(), 5);
    assert!(key.expose() == dumped(folder, "volume"));
    let secret = Secret::key_file(folder.join("file"), 123, None).unwrap();
    let error = open(&folder.join("volume"), &secret).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("keyslot 5 tried, keyslot 0 tried"),
        "the preferred one first: {text}"
    );
}

/// What a LUKS2 volume of 512-byte sectors holds is judged by qemu-img, which knows LUKS1 only:
/// the same key and the same encrypted sectors under a LUKS1 header of cryptsetup's.
#[test]
fn qemu_img_reads_the_data_of_luks2_under_a_luks1_header() {
    if !have(&["cryptsetup", "qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [&QUICK[..], &["argon2id", "--pbkdf-memory", "32768"]].concat();
    let args = [&args[..], &["--sector-size", "512"]].concat();
    format(folder, "volume", &args);
    let memory = Memory::new("volume", std::fs::read(folder.join("volume")).unwrap());
    let memory = Arc::new(memory);
    let disk = open_mut(&memory, &secret());
    let content = noise(7, usize::try_from(disk.size()).unwrap());
    rehost_block::DiskMut::write_at(&disk, &content, 0).unwrap();
    let data = memory.to_vec().split_off(16 << 20);
    assert_eq!(data.len(), content.len());

    std::fs::write(folder.join("master"), dumped(folder, "volume")).unwrap();
    let args = [
        "--type",
        "luks1",
        "-s",
        "512",
        "--volume-key-file",
        "master",
        "--pbkdf-force-iterations",
        "1000",
    ];
    format(folder, "judge", &args);
    let header = parse(&File::open(folder.join("judge")).unwrap()).unwrap();
    assert_eq!(header.version(), Version::Luks1);
    let mut judge = std::fs::read(folder.join("judge")).unwrap();
    judge.truncate(2 << 20);
    judge.extend_from_slice(&data);
    std::fs::write(folder.join("judge"), judge).unwrap();
    let args = [
        "convert",
        "--object",
        "secret,id=key,data=swordfish",
        "--image-opts",
        "driver=luks,key-secret=key,file.filename=judge",
        "-O",
        "raw",
        "judged",
    ];
    run(folder, "qemu-img", &args);
    assert!(std::fs::read(folder.join("judged")).unwrap() == content);
    let (disk, _) = open(&folder.join("judge"), &secret()).unwrap();
    assert!(read_all(&disk, 1 << 20) == content);
}

#[test]
fn a_damaged_first_header_is_read_from_the_second() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [
        "--type",
        "luks2",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ];
    format(folder, "volume", &args);
    let key = dumped(folder, "volume");
    let path = folder.join("volume");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    assert!(parse(&File::open(&path).unwrap()).unwrap().is_second_copy());
    assert!(open(&path, &secret()).unwrap().1.expose() == key);
}

#[test]
fn a_volume_in_reencryption_is_refused_by_name() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = [
        "--type",
        "luks2",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ];
    format(folder, "volume", &args);
    let args = [
        "reencrypt",
        "-q",
        "--init-only",
        "--key-file",
        "key",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "volume",
    ];
    let output = try_run(folder, "cryptsetup", &args);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("skipped: cryptsetup cannot begin a reencryption here: {said}");
        return;
    }
    let error = open(&folder.join("volume"), &secret()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("reencrypt"), "{error}");
}
