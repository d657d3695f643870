//! The image commands as a user runs them, judged by qemu-img.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{hash, have, judge, ran, rehost, run, sample_raw};

const SIZE: u64 = 24 << 20;

/// Without it qemu-img rounds a VHD up to its geometry.
const EXACT_SIZE: [&str; 2] = ["-o", "force_size=on"];

#[track_caller]
fn same_for_qemu(a: &Path, a_format: &str, b: &Path, b_format: &str) {
    judge(
        Command::new("qemu-img")
            .args(["compare", "-f", a_format, "-F", b_format])
            .arg(a)
            .arg(b),
    );
}

#[test]
fn every_pair_of_formats_converts_and_qemu_img_agrees() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let before = hash(&raw);
    let sources = [
        ("raw", raw.clone()),
        ("qcow2", "b.qcow2".into()),
        ("vmdk", "c.vmdk".into()),
        ("vpc", "d.vhd".into()),
        ("vdi", "e.vdi".into()),
        ("vhdx", "f.vhdx".into()),
    ];
    for (format, name) in &sources[1..] {
        let path = folder.path().join(name);
        judge(
            Command::new("qemu-img")
                .args(["convert", "-O", format])
                .args(EXACT_SIZE.iter().filter(|_| *format == "vpc"))
                .arg(&raw)
                .arg(&path),
        );
    }
    for (from, source) in &sources {
        let source = folder.path().join(source);
        let untouched = hash(&source);
        for (to, compress) in [
            ("raw", None),
            ("qcow2", None),
            ("qcow2", Some("zlib")),
            ("qcow2", Some("zstd:1")),
            ("vmdk", None),
            ("vmdk", Some("zlib:1")),
            ("vpc", None),
            ("vdi", None),
            ("vhdx", None),
        ] {
            let target = folder
                .path()
                .join(format!("{from}-{}.{to}", compress.unwrap_or("plain")));
            let mut command = rehost();
            command.arg("convert").arg(&source).arg(&target);
            if let Some(codec) = compress {
                command.args(["--compress", codec]);
            }
            ran(command.output().unwrap()).exits(0);
            same_for_qemu(&raw, "raw", &target, to);
            if to == "qcow2" {
                judge(
                    Command::new("qemu-img")
                        .args(["check", "-f", "qcow2"])
                        .arg(&target),
                );
            }
            run(["compare".as_ref(), source.as_os_str(), target.as_os_str()]).exits(0);
        }
        assert_eq!(hash(&source), untouched, "{from} source");
    }
    assert_eq!(hash(&raw), before);
}

#[test]
fn a_hole_in_the_source_is_a_hole_in_the_target() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let (raw, copy) = (folder.path().join("a.raw"), folder.path().join("b.raw"));
    fs::File::create(&raw).unwrap().set_len(1 << 40).unwrap();
    run(["convert".as_ref(), raw.as_os_str(), copy.as_os_str()]).exits(0);
    let meta = copy.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}

#[test]
fn a_difference_is_exit_code_1_and_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.raw"), folder.path().join("b.raw"));
    sample_raw(&a, SIZE);
    let mut bytes = fs::read(&a).unwrap();
    bytes[7_654_321] ^= 1;
    fs::write(&b, bytes).unwrap();
    let ran = run([
        "compare".as_ref(),
        a.as_os_str(),
        b.as_os_str(),
        "--json".as_ref(),
    ])
    .exits(1);
    assert_eq!(ran.json()["first_difference"], 7_654_321);
    assert_eq!(ran.json()["same"], false);
}

#[test]
fn an_existing_target_is_kept_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.raw"), folder.path().join("b.qcow2"));
    sample_raw(&a, SIZE);
    fs::write(&b, b"precious").unwrap();
    let args = ["convert".as_ref(), a.as_os_str(), b.as_os_str()];
    run(args)
        .exits(2)
        .says(&["b.qcow2", "exists already", "--force"]);
    assert_eq!(fs::read(&b).unwrap(), b"precious");
    run(args.into_iter().chain(["--force".as_ref()])).exits(0);
    assert!(fs::read(&b).unwrap().starts_with(b"QFI\xfb"));
}

#[test]
fn an_unknown_suffix_asks_for_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.raw"), folder.path().join("b.xyz"));
    sample_raw(&a, SIZE);
    let args = ["convert".as_ref(), a.as_os_str(), b.as_os_str()];
    run(args).exits(2).says(&["b.xyz", "--to"]);
    run(args.into_iter().chain(["--to".as_ref(), "qcow2".as_ref()])).exits(0);
}

#[test]
fn a_truncated_image_is_an_error_with_its_offset_and_no_target() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    for format in ["qcow2", "vmdk"] {
        let image = folder.path().join(format!("cut.{format}"));
        judge(
            Command::new("qemu-img")
                .args(["convert", "-O", format])
                .arg(&raw)
                .arg(&image),
        );
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.set_len(file.metadata().unwrap().len() * 2 / 3)
            .unwrap();
        let before = hash(&image);
        let target = folder.path().join("out.raw");
        run(["convert".as_ref(), image.as_os_str(), target.as_os_str()])
            .exits(2)
            .says(&[image.to_str().unwrap(), "at byte"]);
        assert!(!target.exists());
        assert!(!target.with_extension("raw.partial").exists());
        assert_eq!(hash(&image), before);
    }
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_no_target() {
    if !have("unshare") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$1\" || exit 77; \
                  \"$2\" convert \"$3\" \"$1/out.qcow2\"; code=$?; ls \"$1\"; exit $code";
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_rehost"))
        .arg(&raw)
        .output()
        .unwrap();
    let ran = ran(output);
    if ran.code == 77 || ran.stderr.contains("unshare") {
        println!("skipped: needs user namespaces that may mount a tmpfs");
        return;
    }
    let ran = ran
        .exits(2)
        .says(&["out.qcow2", "No space left", "free some space"]);
    assert_eq!(ran.stdout.trim(), "", "something was left behind");
}

#[test]
fn a_killed_conversion_leaves_nothing_that_looks_finished() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, 400 << 20);
    for format in ["qcow2", "vmdk", "raw"] {
        let target = folder.path().join(format!("out.{format}"));
        let partial = folder.path().join(format!("out.{format}.partial"));
        let mut child = rehost()
            .args(["convert", "--threads", "1"])
            .arg(&raw)
            .arg(&target)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Some bytes are there, not all: kill it then.
        let mut seen = false;
        while child.try_wait().unwrap().is_none() {
            if partial.metadata().is_ok_and(|meta| meta.len() > 1 << 20) {
                child.kill().unwrap();
                seen = true;
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        child.wait().unwrap();
        if !seen {
            println!("{format}: finished before it could be killed");
            fs::remove_file(&target).unwrap();
            continue;
        }
        assert!(!target.exists(), "{format}");
        if format != "raw" {
            let kind = run(["info".as_ref(), partial.as_os_str(), "--json".as_ref()]);
            let sniffed_as_image = kind.code == 0 && kind.json()["layers"][0]["format"] != "raw";
            assert!(
                !sniffed_as_image,
                "{format}: a partial file is taken for an image"
            );
        }
        // The next run is not in its way.
        run(["convert".as_ref(), raw.as_os_str(), target.as_os_str()]).exits(0);
        assert!(!partial.exists());
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn an_interrupted_conversion_clears_up_after_itself() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, 400 << 20);
    let target = folder.path().join("out.qcow2");
    let partial = folder.path().join("out.qcow2.partial");
    let mut child = rehost()
        .args(["convert", "--threads", "1", "--compress", "zstd:19"])
        .arg(&raw)
        .arg(&target)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !partial.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    judge(Command::new("kill").arg("-INT").arg(child.id().to_string()));
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(!target.exists() && !partial.exists());
}

#[test]
fn a_parent_outside_the_images_folder_is_refused_by_name_unless_allowed() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let parent = away.path().join("base.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["create", "-qf", "qcow2"])
            .arg(&parent)
            .arg("1M"),
    );
    let child = folder.path().join("child.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["create", "-qf", "qcow2", "-F", "qcow2", "-b"])
            .arg(&parent)
            .arg(&child),
    );
    let args = ["info".as_ref(), child.as_os_str()];
    run(args)
        .exits(2)
        .says(&["base.qcow2", "outside", "--allow-path"]);
    run(args
        .into_iter()
        .chain(["--allow-path".as_ref(), away.path().as_os_str()]))
    .exits(0);
}

#[test]
fn info_and_map_say_what_qemu_img_says() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let image = folder.path().join("a.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .arg(&raw)
            .arg(&image),
    );
    let ours = run(["info".as_ref(), image.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    let theirs: serde_json::Value = serde_json::from_str(&judge(
        Command::new("qemu-img")
            .args(["info", "--output=json"])
            .arg(&image),
    ))
    .unwrap();
    assert_eq!(ours["virtual_size"], theirs["virtual-size"]);
    assert_eq!(ours["layers"][0]["format"], theirs["format"]);
    assert_eq!(ours["layers"][0]["unit"], theirs["cluster-size"]);

    let ours = run(["map".as_ref(), image.as_os_str(), "--json".as_ref()])
        .exits(0)
        .json();
    let theirs: serde_json::Value = serde_json::from_str(&judge(
        Command::new("qemu-img")
            .args(["map", "--output=json"])
            .arg(&image),
    ))
    .unwrap();
    let data = |map: &serde_json::Value, wanted: &dyn Fn(&serde_json::Value) -> bool| -> u64 {
        let extents = map.as_array().unwrap().iter();
        extents
            .filter(|extent| wanted(extent))
            .map(|e| e["length"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(
        data(&ours, &|extent| extent["kind"] == "data"),
        data(&theirs, &|extent| extent["data"] == true),
    );
}

#[test]
fn output_into_a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, 400 << 20);
    let script = "set -o pipefail; \"$1\" map \"$2\" | head -n 1";
    let output = Command::new("bash")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_rehost")])
        .arg(&raw)
        .output()
        .unwrap();
    let ran = ran(output).exits(0);
    assert!(ran.stdout.contains("start"));
    assert_eq!(ran.stderr, "");
}

#[test]
fn output_that_cannot_be_written_is_one_error() {
    for args in [&["completions", "bash"][..], &["reference"]] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        ran(rehost().args(args).stdout(full).output().unwrap())
            .exits(2)
            .says(&["No space left"]);
    }
}

#[test]
fn garbage_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("bad.qcow2");
    let mut bytes = b"QFI\xfb".to_vec();
    bytes.extend([0xff; 508]);
    fs::write(&image, bytes).unwrap();
    let ran = run(["info".as_ref(), image.as_os_str()])
        .exits(2)
        .says(&["bad.qcow2"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn no_file_of_the_source_is_written_over_even_when_forced() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.raw");
    sample_raw(&base, SIZE);
    let top = folder.path().join("out.qcow2.partial");
    judge(
        Command::new("qemu-img")
            .args(["create", "-qf", "qcow2", "-F", "raw", "-b"])
            .arg(&base)
            .arg(&top),
    );
    let link = folder.path().join("link.raw");
    fs::hard_link(&base, &link).unwrap();
    let before = (hash(&base), hash(&top));
    // The top under its own name, as the partial file of the target, and its parent twice.
    for target in ["out.qcow2.partial", "out.qcow2", "base.raw", "link.raw"] {
        let target = folder.path().join(target);
        let args = ["convert", "--force", "--to", "qcow2"].map(AsRef::as_ref);
        run(args
            .into_iter()
            .chain([top.as_os_str(), target.as_os_str()]))
        .exits(2)
        .says(&["belongs to the source", "another name"]);
    }
    assert_eq!((hash(&base), hash(&top)), before);
}

#[test]
fn a_pipe_and_a_vmx_are_refused_as_disk_images() {
    if !have("mkfifo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.raw");
    judge(Command::new("mkfifo").arg(&pipe));
    run(["info".as_ref(), pipe.as_os_str()])
        .exits(2)
        .says(&["pipe.raw", "neither a file nor a block device"]);
    let vmx = folder.path().join("guest.vmx");
    judge(Command::new("mkfifo").arg(&vmx));
    run(["inspect".as_ref(), vmx.as_os_str()])
        .exits(2)
        .says(&["guest.vmx", "is no file"]);
    fs::remove_file(&vmx).unwrap();
    fs::write(&vmx, "numvcpus = \"1\"\n").unwrap();
    run(["info".as_ref(), vmx.as_os_str()])
        .exits(2)
        .says(&["guest.vmx", "is a VMX file"]);
}

#[test]
fn a_link_in_the_target_folder_leads_no_copied_file_elsewhere() {
    if !have("mke2fs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("out/deep")).unwrap();
    fs::write(root.join("out/deep/file"), b"planted").unwrap();
    let image = folder.path().join("disk.raw");
    judge(
        Command::new("mke2fs")
            .args(["-qt", "ext4", "-d"])
            .arg(&root)
            .arg(&image)
            .arg("4M"),
    );
    let away = folder.path().join("away");
    let target = folder.path().join("target");
    fs::create_dir(&away).unwrap();
    fs::create_dir_all(target.join("out")).unwrap();
    std::os::unix::fs::symlink(&away, target.join("out/deep")).unwrap();
    let mut source = image.into_os_string();
    source.push(":/out");
    for force in [None, Some("--force")] {
        let args = ["cp", "-r"].into_iter().chain(force).map(AsRef::as_ref);
        run(args.chain([source.as_os_str(), target.as_os_str()]))
            .exits(2)
            .says(&["out/deep", "in the way"]);
    }
    assert_eq!(fs::read_dir(&away).unwrap().count(), 0);
    fs::remove_file(target.join("out/deep")).unwrap();
    run([
        "cp".as_ref(),
        "-r".as_ref(),
        source.as_os_str(),
        target.as_os_str(),
    ])
    .exits(0);
    assert_eq!(fs::read(target.join("out/deep/file")).unwrap(), b"planted");
}

#[test]
fn an_image_that_is_served_reads_the_same_and_stays_as_it_is() {
    if !have("qemu-img") || !have("qemu-io") || !have("nbdinfo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    sample_raw(&raw, SIZE);
    let image = folder.path().join("a.vmdk");
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "vmdk"])
            .arg(&raw)
            .arg(&image),
    );
    let before = hash(&image);
    let socket = folder.path().join("nbd.sock");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    for overlay in [false, true] {
        let mut command = rehost();
        command
            .arg("serve")
            .arg(&image)
            .arg("--socket")
            .arg(&socket);
        if overlay {
            command.arg("--overlay");
        }
        let mut server = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !socket.exists() && server.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        judge(Command::new("nbdinfo").arg(&uri));
        judge(
            Command::new("qemu-img")
                .args(["compare", "-f", "raw", "-F", "raw"])
                .arg(&raw)
                .arg(&uri),
        );
        let written = Command::new("qemu-io")
            .args([
                "-f",
                "raw",
                "-c",
                "write -P 7 0 64k",
                "-c",
                "read -P 7 0 64k",
            ])
            .arg(&uri)
            .output()
            .unwrap();
        assert_eq!(written.status.success(), overlay, "{written:?}");
        judge(
            Command::new("kill")
                .arg("-INT")
                .arg(server.id().to_string()),
        );
        assert_eq!(server.wait().unwrap().code(), Some(0));
        assert!(!socket.exists(), "the socket was left behind");
    }
    assert_eq!(hash(&image), before);
}

#[test]
fn compare_takes_one_format_for_both_and_can_keep_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, byte: u8| {
        let path = folder.path().join(name);
        fs::write(&path, vec![byte; 1 << 16]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, same, other) = (write("one", 1), write("same", 1), write("other", 2));
    let quiet = |left: &str, right: &str| run(["compare", "-q", "--from", "raw", left, right]);
    for (ran, code) in [(quiet(&one, &same), 0), (quiet(&one, &other), 1)] {
        let ran = ran.exits(code);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    }
    run(["compare", "--from", "qcow2", &one, &same]).exits(2);
}

#[test]
fn an_image_that_its_writer_marked_corrupt_is_converted_with_a_warning() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("a.qcow2");
    judge(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&image)
            .arg("1M"),
    );
    let target = folder.path().join("b.raw");
    let said = run(["convert".as_ref(), image.as_os_str(), target.as_os_str()]).exits(0);
    assert!(!said.stderr.contains("marked corrupt"), "{}", said.stderr);
    let mut bytes = fs::read(&image).unwrap();
    bytes[79] |= 2;
    fs::write(&image, bytes).unwrap();
    let arguments = [image.as_os_str(), target.as_os_str()];
    let said = run([&["convert".as_ref(), "--force".as_ref()], &arguments[..]].concat()).exits(0);
    assert!(said.stderr.contains("marked corrupt"), "{}", said.stderr);
}

#[test]
fn snapshots_of_a_format_without_any_are_refused_and_none_are_said() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("a.raw");
    fs::write(&raw, vec![0; 1 << 16]).unwrap();
    run(["snapshot".as_ref(), raw.as_os_str()])
        .exits(2)
        .says(&["a.raw", "no internal snapshots"]);
    let image = common::images::image(&raw, "qcow2", "a.qcow2");
    let none = run(["snapshot".as_ref(), image.as_os_str()]).exits(0);
    assert!(none.stderr.contains("no snapshots"), "{}", none.stderr);
}

#[test]
fn a_line_feed_in_a_files_name_makes_no_line_of_info() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\nformat: none");
    fs::write(&path, vec![0; 1 << 16]).unwrap();
    let info = run(["info".as_ref(), path.as_os_str()]).exits(0).stdout;
    assert!(info.contains("a\\nformat: none"), "{info}");
    assert!(
        !info.lines().any(|line| line.starts_with("format: none")),
        "{info}"
    );
}
