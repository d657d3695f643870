//! Encrypted images, which qemu-img makes and fills.

use std::path::Path;
use std::process::Command;

use rehost_block::{Kind, Run, SameFolder};
use rehost_image::{Image, OpenOptions, Secret};

use crate::support::{have, noise};

const SIZE: usize = (3 << 20) + 512;
const SECRET: &str = "secret,id=key,data=geheim";

/// Makes `locked.qcow2`. qemu-img fails now and then where processor time is counted in coarse steps.
fn locked(folder: &Path, format: &str, options: &str) -> bool {
    let options = format!("encrypt.format={format},encrypt.key-secret=key{options}");
    for _ in 0..10 {
        let output = Command::new("qemu-img")
            .current_dir(folder)
            .args([
                "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", &options,
            ])
            .args(["locked.qcow2", &SIZE.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return true;
        }
        assert!(said.contains("CPU usage"), "{said}");
    }
    println!("skipped: qemu-img cannot measure its key derivation here");
    false
}

fn open(folder: &Path, key: Option<&Secret>) -> rehost_block::Result<Image> {
    let options = OpenOptions {
        key,
        ..OpenOptions::default()
    };
    Image::open_with(folder.join("locked.qcow2"), &options, &SameFolder)
}

#[test]
fn encrypted_images_are_refused_by_name_and_never_read_as_ciphertext() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("luks", ",encrypt.iter-time=10", "encrypted with LUKS"),
        ("aes", "", "encrypted with AES"),
    ];
    for (format, options, says) in cases {
        if !locked(folder.path(), format, options) {
            return;
        }
        let error = open(folder.path(), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_key_opens_what_qemu_img_encrypted_with_luks() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut content = noise(5, SIZE);
    content[1 << 20..2 << 20].fill(0);
    for cluster in ["512", "64K", "2M"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("plain.raw"), &content).unwrap();
        let options = format!(",encrypt.iter-time=10,cluster_size={cluster}");
        if !locked(folder, "luks", &options) {
            return;
        }
        let target = "driver=qcow2,encrypt.key-secret=key,file.filename=locked.qcow2";
        let filled = Command::new("qemu-img")
            .current_dir(folder)
            .args(["convert", "-n", "-f", "raw", "--object", SECRET])
            .args(["plain.raw", "--target-image-opts", target])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&filled.stderr);
        assert!(filled.status.success(), "{said}");

        let image = open(folder, Some(&Secret::passphrase("geheim"))).unwrap();
        let disk = image.disk();
        let mut found = vec![0; SIZE];
        disk.read_at(&mut found, 0).unwrap();
        assert!(found == content, "clusters of {cluster}");
        // From the middle of a sector, and run by run.
        let mut part = vec![0; 70_000];
        disk.read_at(&mut part, 300_001).unwrap();
        assert!(part == content[300_001..370_001]);
        let mut at = 0;
        while at < SIZE {
            let located = disk.locate(at as u64, (SIZE - at) as u64).unwrap();
            let len = usize::try_from(located.len).unwrap();
            match located.run {
                Run::Packed(packed) => {
                    let plain = packed.decode().unwrap();
                    let skip = usize::try_from(packed.skip).unwrap();
                    assert!(plain[skip..skip + len] == content[at..at + len], "at {at}");
                }
                Run::Zero => assert!(content[at..at + len].iter().all(|byte| *byte == 0)),
                other => panic!("{other:?} is no way to read an encrypted image"),
            }
            at += len;
        }

        let error = open(folder, Some(&Secret::passphrase("falsch"))).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    }
}
