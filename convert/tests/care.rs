//! What `convert` does besides copying, as a user runs it: options of the target, checksums, salvage,
//! rate, progress, pipes, children of other images.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::{have, judge, ran, rehost, run, sample_raw};
use sha2::{Digest, Sha256};

const SIZE: u64 = 12 << 20;

#[track_caller]
fn same_for_qemu(raw: &Path, other: &Path, format: &str) {
    judge(
        Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", format])
            .arg(raw)
            .arg(other),
    );
}

#[test]
fn options_of_the_target_reach_it_and_unknown_ones_are_refused() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (folder.path().join("a.raw"), folder.path().join("b.qcow2"));
    sample_raw(&raw, SIZE);
    let convert = |options: &[&str]| {
        let mut command = rehost();
        command.arg("convert").args(options).arg(&raw).arg(&qcow2);
        ran(command.output().unwrap())
    };
    convert(&["-o", "cluster_size=8K", "-o", "lazy_refcounts=on"]).exits(0);
    let said = judge(
        Command::new("qemu-img")
            .args(["info", "--output=json"])
            .arg(&qcow2),
    );
    assert!(said.contains("\"cluster-size\": 8192"), "{said}");
    assert!(said.contains("\"lazy-refcounts\": true"), "{said}");
    convert(&["--force", "-o", "clustersize=1"])
        .exits(2)
        .says(&["clustersize", "cluster_size"]);
    convert(&["--force", "--azure"]).exits(2).says(&["--azure"]);
    let help = convert(&["-o", "help"]).exits(0);
    assert!(help.stdout.contains("cluster_size"), "{}", help.stdout);
    assert!(help.stderr.is_empty());
}

#[test]
fn an_azure_vhd_is_fixed_and_whole_mebibytes_long() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, vhd) = (folder.path().join("a.raw"), folder.path().join("b.vhd"));
    sample_raw(&raw, SIZE + 512);
    run([
        "convert".as_ref(),
        "--azure".as_ref(),
        raw.as_os_str(),
        vhd.as_os_str(),
    ])
    .exits(0);
    assert_eq!(vhd.metadata().unwrap().len(), SIZE + (1 << 20) + 512);
    same_for_qemu(&raw, &vhd, "vpc");
}

#[test]
fn an_image_of_several_files_gets_all_its_names_or_none() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, vmdk) = (folder.path().join("a.raw"), folder.path().join("b.vmdk"));
    sample_raw(&raw, SIZE);
    let args = ["convert", "-o", "subformat=monolithicFlat"].map(AsRef::as_ref);
    let convert = || run(args.into_iter().chain([raw.as_os_str(), vmdk.as_os_str()]));
    let extent = folder.path().join("b-flat.vmdk");
    fs::write(&extent, b"precious").unwrap();
    convert().exits(2).says(&["b-flat.vmdk", "exists already"]);
    assert_eq!(fs::read(&extent).unwrap(), b"precious");
    fs::remove_file(&extent).unwrap();
    convert().exits(0);
    same_for_qemu(&raw, &vmdk, "vmdk");
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3);
}

#[test]
fn a_child_holds_only_what_differs_from_its_backing_image() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    sample_raw(&path("base.raw"), SIZE);
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .args([path("base.raw"), path("base.qcow2")]),
    );
    // Longer than the base, with changes, and with zeroes where the base has data.
    fs::copy(path("base.raw"), path("now.raw")).unwrap();
    let now = fs::OpenOptions::new()
        .write(true)
        .open(path("now.raw"))
        .unwrap();
    now.set_len(SIZE + (3 << 20)).unwrap();
    now.write_all_at(&[7; 100_000], 1_000_000).unwrap();
    now.write_all_at(&[0; 3_000_000], 4_000_000).unwrap();
    now.write_all_at(&[9; 5000], SIZE + 1_000_000).unwrap();
    let converted = ran(rehost()
        .args(["convert", "--json", "-B"])
        .args([path("base.qcow2"), path("now.raw"), path("child.qcow2")])
        .output()
        .unwrap())
    .exits(0)
    .json();
    assert!(converted["data"].as_u64().unwrap() < 1 << 20, "{converted}");
    let sum: u64 = ["data", "zero", "hole", "below"]
        .iter()
        .map(|part| converted[*part].as_u64().unwrap())
        .sum();
    assert_eq!(sum, SIZE + (3 << 20));
    same_for_qemu(&path("now.raw"), &path("child.qcow2"), "qcow2");
    let info = judge(
        Command::new("qemu-img")
            .args(["info", "--output=json"])
            .arg(path("child.qcow2")),
    );
    assert!(
        info.contains("\"backing-filename\": \"base.qcow2\""),
        "{info}"
    );
    run([
        "compare".as_ref(),
        path("now.raw").as_os_str(),
        path("child.qcow2").as_os_str(),
    ])
    .exits(0);
    // The base is a source too: it is never replaced.
    ran(rehost()
        .args(["convert", "--force", "-B"])
        .args([path("base.qcow2"), path("now.raw"), path("base.qcow2")])
        .output()
        .unwrap())
    .exits(2)
    .says(&["belongs to the source"]);
}

#[test]
fn checksums_are_sha256sums_own_and_name_what_changed_later() {
    if !have("sha256sum") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (folder.path().join("a.raw"), folder.path().join("b.qcow2"));
    sample_raw(&raw, SIZE + 700);
    for kind in ["sha256", "sha256-flat", "blake3"] {
        let converted = ran(rehost()
            .args(["convert", "--force", "--json", "--compress", "zstd:1"])
            .args(["--checksum", kind])
            .args([&raw, &qcow2])
            .output()
            .unwrap())
        .exits(0)
        .json();
        let sidecar = folder.path().join("b.qcow2.checksums.json");
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&sidecar).unwrap()).unwrap();
        assert_eq!(kept["root"], converted["checksum"]["root"]);
        if kind == "sha256-flat" {
            let sum = judge(Command::new("sha256sum").arg(&raw));
            let sum = sum.split_whitespace().next().unwrap();
            assert_eq!(kept["flat_sha256"], sum);
        }
        if kind == "sha256" {
            // As docs/checksums.md has it, from sha256sum alone.
            let mut tree = Vec::from(*b"rehost checksum tree 1\n");
            tree.extend((SIZE + 700).to_le_bytes());
            tree.extend((1u64 << 20).to_le_bytes());
            for nth in 0..13 {
                let script = "dd if=\"$1\" bs=1M skip=$2 count=1 status=none | sha256sum";
                let sum = judge(
                    Command::new("sh")
                        .args(["-c", script, "sh"])
                        .arg(&raw)
                        .arg(nth.to_string()),
                );
                for byte in 0..32 {
                    tree.push(u8::from_str_radix(&sum[byte * 2..byte * 2 + 2], 16).unwrap());
                }
            }
            let root: String = Sha256::digest(&tree)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(kept["root"], root);
        }
        let check = |image: &Path| {
            ran(rehost()
                .args(["compare", "--json", "--checksum"])
                .args([&sidecar, image])
                .output()
                .unwrap())
        };
        check(&qcow2).exits(0);
        check(&raw).exits(0);
        let other = folder.path().join("c.raw");
        fs::copy(&raw, &other).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&other).unwrap();
        file.write_all_at(&[1, 2, 3], (5 << 20) - 1).unwrap();
        let found = check(&other).exits(1).json();
        assert_eq!(found["same"], false);
        assert_eq!(found["differences"][0]["offset"], 4 << 20);
        assert_eq!(found["differences"][0]["length"], 2 << 20);
    }
}

#[test]
fn what_a_damaged_source_still_has_is_salvaged_and_the_rest_is_listed() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut bytes = vec![0u8; 4 << 20];
    for (nth, byte) in bytes.iter_mut().enumerate() {
        *byte = (nth / 3 % 251) as u8;
    }
    fs::write(path("a.raw"), &bytes).unwrap();
    judge(
        Command::new("qemu-img")
            .args(["convert", "-c", "-O", "qcow2"])
            .args([path("a.raw"), path("packed.qcow2")]),
    );
    judge(
        Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .args([path("a.raw"), path("plain.qcow2")]),
    );
    let open = |name: &str| fs::OpenOptions::new().write(true).open(path(name)).unwrap();
    // The first compressed cluster does not decode any more: no deflate block begins with ones.
    let map = run([
        "map".as_ref(),
        "--json".as_ref(),
        path("packed.qcow2").as_os_str(),
    ])
    .json();
    assert_eq!(map[0]["kind"], "packed", "{map}");
    let place = map[0]["offset"].as_u64().unwrap();
    open("packed.qcow2")
        .write_all_at(&[0xff; 16], place)
        .unwrap();
    // The other file ends too early, in the middle of a sector.
    open("plain.qcow2").set_len(3_000_000).unwrap();
    for (source, piece) in [("packed.qcow2", 65536), ("plain.qcow2", 512)] {
        let convert = |options: &[&str]| {
            ran(rehost()
                .args(["convert", "--force", "--json"])
                .args(options)
                .args([path(source), path("out.raw")])
                .output()
                .unwrap())
        };
        convert(&[]).exits(2);
        assert!(!path("out.raw").exists());
        let done = convert(&["--salvage"]).exits(1).json();
        let map: serde_json::Value =
            serde_json::from_slice(&fs::read(path("out.raw.salvage.json")).unwrap()).unwrap();
        assert_eq!(map["lost_bytes"], done["salvage"]["lost_bytes"]);
        let mut expected = bytes.clone();
        for place in map["lost"].as_array().unwrap() {
            let from = place["offset"].as_u64().unwrap() as usize;
            let len = place["length"].as_u64().unwrap() as usize;
            assert!(!place["error"].as_str().unwrap().is_empty());
            expected[from..from + len].fill(0);
            assert_eq!((from % piece, len % piece), (0, 0), "{place}");
        }
        assert!(fs::read(path("out.raw")).unwrap() == expected, "{source}");
        let lost_bytes = map["lost_bytes"].as_u64().unwrap();
        assert!((1..3 << 20).contains(&lost_bytes), "{map}");
        fs::remove_file(path("out.raw")).unwrap();
    }
    // Nothing is lost of a good one.
    let good = ran(rehost()
        .args(["convert", "--salvage", "--salvage-map"])
        .args([path("map.json"), path("a.raw"), path("good.raw")])
        .output()
        .unwrap())
    .exits(0);
    assert!(
        good.stderr.contains("all of the source could be read"),
        "{}",
        good.stderr
    );
    let map = fs::read_to_string(path("map.json")).unwrap();
    assert!(map.contains("\"lost\": []"), "{map}");
    run(["convert", "--salvage", "--resume", "x.raw", "y.raw"]).exits(2);
}

#[test]
fn a_rate_limit_slows_the_copy_down_and_progress_is_json_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, copy) = (folder.path().join("a.raw"), folder.path().join("b.raw"));
    fs::write(&raw, vec![5; 6 << 20]).unwrap();
    let begun = Instant::now();
    let said = ran(rehost()
        .args(["convert", "--rate-limit", "4M", "--progress", "json"])
        .args([&raw, &copy])
        .output()
        .unwrap())
    .exits(0);
    // The least that it may take: 6 MiB, of which one per thread is not waited for.
    let threads = std::thread::available_parallelism().unwrap().get().min(4) as f64;
    assert!(begun.elapsed().as_secs_f64() > (6.0 - 1.0 - threads) / 4.0);
    let lines: Vec<serde_json::Value> = said
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let progress: Vec<_> = lines
        .iter()
        .filter_map(|line| line.get("progress"))
        .collect();
    let last = progress.last().unwrap();
    assert_eq!(
        (&last["done"], &last["total"]),
        (&(6 << 20).into(), &(6 << 20).into())
    );
    assert_eq!(last["data"], 6 << 20);
    let rate = last["rate"].as_u64().unwrap();
    assert!(rate > 0, "{last}");
    assert!(lines.iter().any(|line| line.get("step").is_some()));
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&raw).unwrap());
}

#[test]
fn raw_and_streams_go_into_pipes_and_other_formats_are_refused() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    sample_raw(&path("a.raw"), SIZE + 512);
    let pipe = |options: &[&str], out: &Path| {
        let mut child = rehost()
            .args(["convert", "--quiet"])
            .args(options)
            .arg(path("a.raw"))
            .arg("-")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from = child.stdout.take().unwrap();
        std::io::copy(&mut from, &mut fs::File::create(out).unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    pipe(&[], &path("piped.raw"));
    assert!(fs::read(path("piped.raw")).unwrap() == fs::read(path("a.raw")).unwrap());
    for threads in ["1", "4"] {
        let stream = ["--to", "vmdk", "--compress", "zlib:1", "--threads", threads];
        pipe(&stream, &path("piped.vmdk"));
        same_for_qemu(&path("a.raw"), &path("piped.vmdk"), "vmdk");
        judge(
            Command::new("qemu-img")
                .arg("check")
                .arg(path("piped.vmdk")),
        );
    }
    for format in ["qcow2", "vhd", "vhdx", "vdi", "vmdk"] {
        let mut command = rehost();
        command
            .args(["convert", "--to", format])
            .arg(path("a.raw"))
            .arg("-");
        let refused = ran(command.output().unwrap())
            .exits(2)
            .says(&["pipe", "raw"]);
        assert!(refused.stdout.is_empty());
    }
}

#[test]
fn a_named_pipe_takes_an_image_and_standard_input_gives_one() {
    if !have("mkfifo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    sample_raw(&path("a.raw"), SIZE);
    judge(Command::new("mkfifo").arg(path("fifo")));
    let fifo = path("fifo");
    let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
    ran(rehost()
        .args(["convert", "--to", "raw"])
        .args([path("a.raw"), path("fifo")])
        .output()
        .unwrap())
    .exits(0);
    let bytes = fs::read(path("a.raw")).unwrap();
    assert!(reader.join().unwrap() == bytes);
    // A qcow2 through standard input: its tables are all over it.
    run([
        "convert".as_ref(),
        path("a.raw").as_os_str(),
        path("b.qcow2").as_os_str(),
    ])
    .exits(0);
    let mut child = rehost()
        .args(["convert", "-", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let image = fs::read(path("b.qcow2")).unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&image).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout == bytes);
}

#[test]
fn a_raw_image_is_wrapped_as_gzip_or_zstd_by_its_name() {
    if !have("zcat") || !have("zstd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    sample_raw(&path("a.raw"), SIZE + 512);
    for (name, unpack) in [("b.raw.gz", "zcat"), ("b.img.zst", "zstdcat")] {
        run([
            "convert".as_ref(),
            path("a.raw").as_os_str(),
            path(name).as_os_str(),
        ])
        .exits(0);
        let plain = Command::new(unpack).arg(path(name)).output().unwrap();
        assert!(plain.status.success());
        assert!(plain.stdout == fs::read(path("a.raw")).unwrap(), "{name}");
        run([
            "compare".as_ref(),
            path("a.raw").as_os_str(),
            path(name).as_os_str(),
        ])
        .exits(0);
    }
    run([
        "convert".as_ref(),
        path("a.raw").as_os_str(),
        path("b.qcow2.gz").as_os_str(),
    ])
    .exits(2)
    .says(&["qcow2", "gzip", "raw"]);
}
