//! The server as nbdinfo, nbdcopy, qemu-img and qemu-io see it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;

use common::{attempt, disk, have, pattern, run, text};
use rehost_block::{Disk, DiskMut, Memory, Storage, StorageDisk};
use rehost_nbd::{Export, Server};
use tempfile::tempdir;

#[test]
fn nbdinfo_sees_size_flags_and_description() {
    if !have("nbdinfo") {
        return;
    }
    let folder = tempdir().unwrap();
    let (disk, _) = disk();
    let readable: Arc<dyn Disk> = disk.clone();
    let server = Server::bind(
        folder.path().join("s,o c.sock"),
        vec![
            Export::writable("root disk", disk).described("the first disk"),
            Export::read_only("ro", readable),
        ],
    )
    .unwrap()
    .spawn()
    .unwrap();
    let found = run("nbdinfo", &[&server.uri("root disk")]);
    for expected in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export=\"root disk\"",
        "description: the first disk",
        "export-size: 4194304",
        "base:allocation",
        "is_read_only: false",
        "can_df: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_maximum: 33554432",
    ] {
        assert!(found.contains(expected), "no {expected:?} in {found}");
    }
    let found = run("nbdinfo", &[&server.uri("ro")]);
    assert!(found.contains("is_read_only: true"), "{found}");
    let listed = run("nbdinfo", &["--list", "--json", &server.uri("")]);
    assert!(listed.contains("\"root disk\"") && listed.contains("\"ro\""));
    assert!(
        !attempt("nbdinfo", &[&server.uri("nosuch")])
            .status
            .success()
    );
    assert!(server.take_errors().is_empty());
}

#[test]
fn nbdinfo_maps_the_holes() {
    if !have("nbdinfo") {
        return;
    }
    let folder = tempdir().unwrap();
    let (disk, _) = disk();
    let server = Server::bind(folder.path().join("s"), vec![Export::writable("d", disk)])
        .unwrap()
        .spawn()
        .unwrap();
    let map = run("nbdinfo", &["--map", &server.uri("d")]);
    let rows: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["0", "1048576", "0"],
            ["1048576", "1048576", "3"],
            ["2097152", "135168", "0"],
            ["2232320", "4096", "3"],
            ["2236416", "1957888", "0"],
        ]
    );
}

#[test]
fn qemu_img_reads_the_same_bytes_and_the_same_map() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempdir().unwrap();
    let (disk, bytes) = disk();
    let plain = folder.path().join("plain");
    fs::write(&plain, &bytes).unwrap();
    let server = Server::bind(folder.path().join("s"), vec![Export::read_only("d", disk)])
        .unwrap()
        .spawn()
        .unwrap();
    let uri = server.uri("d");
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &uri, text(&plain)],
    );
    let copied = folder.path().join("copied.qcow2");
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, text(&copied)],
    );
    run("qemu-img", &["compare", text(&copied), text(&plain)]);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let holes: Vec<&str> = map
        .lines()
        .filter(|line| line.contains("\"zero\": true"))
        .collect();
    assert_eq!(holes.len(), 2, "{map}");
    assert!(holes[0].contains("\"start\": 1048576, \"length\": 1048576"));
    assert!(server.take_errors().is_empty());
}

#[test]
fn qemu_io_writes_zeroes_and_discards() {
    if !have("qemu-io") {
        return;
    }
    let folder = tempdir().unwrap();
    let (disk, mut bytes) = disk();
    let server = Server::bind(
        folder.path().join("s"),
        vec![Export::writable("d", disk.clone())],
    )
    .unwrap()
    .spawn()
    .unwrap();
    let uri = server.uri("d");
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-d",
            "unmap",
            "-c",
            "write -P 0xaa 1000 3M",
            "-c",
            "write -f -P 0xbb 512 1",
            "-c",
            "write -z 64k 100k",
            "-c",
            "write -z -u 512k 64k",
            "-c",
            "discard 1M 1M",
            "-c",
            "flush",
            "-c",
            "read -P 0xaa 2M 1M",
            &uri,
        ],
    );
    bytes[1000..1000 + (3 << 20)].fill(0xaa);
    bytes[512] = 0xbb;
    bytes[65_536..65_536 + 102_400].fill(0);
    bytes[524_288..524_288 + 65_536].fill(0);
    bytes[1 << 20..2 << 20].fill(0);
    let mut found = vec![1; bytes.len()];
    disk.read_at(&mut found, 0).unwrap();
    assert!(found == bytes, "the disk differs from the plain array");
    assert!(disk.base().size() == 4 << 20);
    assert!(server.take_errors().is_empty());
}

#[test]
fn a_read_only_export_refuses_writes() {
    if !have("qemu-io") {
        return;
    }
    let folder = tempdir().unwrap();
    let base = Arc::new(Memory::new("base", pattern(1 << 20)));
    let disk = Arc::new(StorageDisk::new(base.clone()));
    let server = Server::bind(folder.path().join("s"), vec![Export::read_only("d", disk)])
        .unwrap()
        .spawn()
        .unwrap();
    let refused = attempt(
        "qemu-io",
        &["-f", "raw", "-c", "write 0 1k", &server.uri("d")],
    );
    assert!(!refused.status.success());
    assert!(base.to_vec() == pattern(1 << 20));
}

#[test]
fn nbdcopy_with_four_connections_copies_both_ways() {
    if !have("nbdcopy") {
        return;
    }
    let folder = tempdir().unwrap();
    let (source, bytes) = disk();
    let empty = Memory::new("empty", vec![0; bytes.len()]);
    let target = Arc::new(rehost_block::Overlay::in_memory(Arc::new(
        StorageDisk::new(Arc::new(empty)),
    )));
    let server = Server::bind(
        folder.path().join("s"),
        vec![
            Export::read_only("from", source),
            Export::writable("to", target.clone()),
        ],
    )
    .unwrap()
    .spawn()
    .unwrap();
    run(
        "nbdcopy",
        &[
            "--connections=4",
            "--flush",
            &server.uri("from"),
            &server.uri("to"),
        ],
    );
    let mut found = vec![1; bytes.len()];
    target.read_at(&mut found, 0).unwrap();
    assert!(found == bytes, "the copy differs");
    assert!(server.take_errors().is_empty());
}

#[test]
fn qemu_img_reads_over_tcp() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempdir().unwrap();
    let (disk, bytes) = disk();
    let plain = folder.path().join("plain");
    fs::write(&plain, &bytes).unwrap();
    let server = Server::bind_tcp("127.0.0.1:0", vec![Export::read_only("d", disk)])
        .unwrap()
        .spawn()
        .unwrap();
    assert!(server.tcp_address().is_some());
    let uri = server.uri("d");
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &uri, text(&plain)],
    );
}

#[test]
fn a_storage_that_is_too_short_is_an_error_for_the_client_and_for_us() {
    if !have("qemu-io") {
        return;
    }
    /// A storage that promises more than it has.
    #[derive(Debug)]
    struct Short(Memory);
    impl Storage for Short {
        fn name(&self) -> &std::path::Path {
            self.0.name()
        }
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> rehost_block::Result<()> {
            self.0.read_at(buf, offset)
        }
    }
    let folder = tempdir().unwrap();
    let disk = StorageDisk::new(Arc::new(Short(Memory::new("short.img", pattern(65_536)))));
    let overlay = Arc::new(rehost_block::Overlay::in_memory(Arc::new(disk)));
    overlay.write_at(b"x", (1 << 20) - 1).unwrap_err();
    let server = Server::bind(
        folder.path().join("s"),
        vec![Export::writable("d", overlay)],
    )
    .unwrap()
    .spawn()
    .unwrap();
    let uri = server.uri("d");
    let failed = attempt("qemu-io", &["-f", "raw", "-r", "-c", "read 512k 1k", &uri]);
    let said = String::from_utf8_lossy(&failed.stdout).into_owned()
        + &String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("read failed"), "{said}");
    run("qemu-io", &["-f", "raw", "-r", "-c", "read 0 64k", &uri]);
    let errors = server.take_errors();
    assert!(!errors.is_empty());
    assert!(errors[0].to_string().contains("short.img"), "{errors:?}");
}

#[test]
fn the_socket_goes_with_the_server() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let (disk, _) = disk();
    let bound = Server::bind(&path, vec![Export::read_only("d", disk.clone())]).unwrap();
    let taken = Server::bind(&path, vec![Export::read_only("d", disk.clone())]);
    assert!(taken.unwrap_err().to_string().contains("choose a new"));
    let running = bound.spawn().unwrap();
    // A client that says nothing does not keep the server from stopping.
    let silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(running);
    assert!(!path.exists());
    drop(silent);
    Server::bind(&path, vec![Export::read_only("d", disk)]).unwrap();
}

#[test]
fn exports_without_a_name_of_their_own_are_refused() {
    let folder = tempdir().unwrap();
    let (disk, _) = disk();
    let twice = vec![
        Export::read_only("d", disk.clone()),
        Export::read_only("d", disk),
    ];
    assert!(Server::bind(folder.path().join("s"), twice).is_err());
    assert!(Server::bind(folder.path().join("s"), Vec::new()).is_err());
    assert!(!folder.path().join("s").exists());
}
