//! Groups made by the LVM tools (as root, on loop devices, without the kernel's device mapper).

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, File, Overlay, StorageDisk};
use rehost_volume::lvm::{PhysicalVolume, assemble};

use crate::built::{MIB, origin, patterned, read_group};

/// Loop devices over files; detached when dropped.
struct Loops(Vec<PathBuf>);

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}

fn attach(files: &[PathBuf]) -> Option<Loops> {
    let mut loops = Loops(Vec::new());
    for file in files {
        let out = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(file)
            .output();
        match out {
            Ok(out) if out.status.success() => {
                let name = String::from_utf8(out.stdout).unwrap();
                loops.0.push(PathBuf::from(name.trim()));
            }
            _ => return None,
        }
    }
    Some(loops)
}

fn lvm(loops: &Loops, home: &Path, args: &[&str]) -> Option<String> {
    let accept: String = loops
        .0
        .iter()
        .map(|device| format!("\"a|^{}$|\", ", device.display()))
        .collect();
    let config = format!(
        "devices {{ filter = [{accept}\"r|.*|\"] use_devicesfile = 0 }} global {{ use_lvmpolld = 0 locking_dir = \"{home}\" }} backup {{ backup = 0 archive = 0 }} activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}",
        home = home.display()
    );
    let (verb, rest) = args.split_first()?;
    let out = Command::new("lvm")
        .args([verb, "--driverloaded", "n", "--config", &config])
        .args(rest)
        .output()
        .ok()?;
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn lvm2_made_groups_read_where_lvs_says_their_extents_are() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..3u8)
        .map(|nth| {
            let path = folder.path().join(format!("pv{nth}"));
            std::fs::write(&path, patterned(nth, 24)).unwrap();
            path
        })
        .collect();
    if Command::new("lvm").arg("version").output().is_err() {
        println!("skipped: needs lvm");
        return;
    }
    let Some(loops) = attach(&files) else {
        println!("skipped: needs losetup as root");
        return;
    };
    let names: Vec<&str> = loops.0.iter().map(|path| path.to_str().unwrap()).collect();
    let name = format!("rehost{}", std::process::id());
    let run = |args: &[&str]| lvm(&loops, folder.path(), args).unwrap();
    run(&[&["pvcreate", "-q"][..], &names[..]].concat());
    run(&[&["vgcreate", "-s", "1m", &name][..], &names[..]].concat());
    let quiet = ["-an", "-Zn", "-Wn"];
    run(&[
        &["lvcreate", "-l", "4", "-n", "lin", &name, names[1]][..],
        &quiet[..],
    ]
    .concat());
    run(&["lvextend", "-l", "+3", &format!("{name}/lin"), names[2]]);
    run(&[
        &[
            "lvcreate", "-l", "9", "-i", "3", "-I", "64k", "-n", "str", &name,
        ][..],
        &quiet[..],
    ]
    .concat());
    let said = run(&[
        "lvs",
        "--segments",
        "--noheadings",
        "--nosuffix",
        "--units",
        "b",
        "-o",
        "lv_name,seg_start,seg_size,stripe_size,seg_pe_ranges",
        &name,
    ]);
    let disks: Vec<Arc<dyn Disk>> = files
        .iter()
        .map(|path| {
            Arc::new(StorageDisk::new(Arc::new(File::open(path).unwrap()))) as Arc<dyn Disk>
        })
        .collect();
    let group = read_group(&disks);
    assert_eq!(
        (group.name.as_str(), group.volumes.len()),
        (name.as_str(), 2)
    );
    assert!(group.damage.is_empty(), "{:?}", group.damage);
    let mut places = Vec::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |nth: usize| words[nth].parse::<u64>().unwrap();
        let (start, size, chunk) = (number(1), number(2), number(3).max(8));
        let areas: Vec<(u8, u64)> = words[4..]
            .iter()
            .map(|range| {
                let (device, extents) = range.rsplit_once(':').unwrap();
                let nth = names.iter().position(|name| *name == device).unwrap();
                let first: u64 = extents.split('-').next().unwrap().parse().unwrap();
                (nth as u8, first)
            })
            .collect();
        let volume = group.volumes.iter().find(|volume| volume.name == words[0]);
        let disk = volume.unwrap().disk.as_ref().unwrap();
        for step in (0..size).step_by(4096) {
            let (turn, within) = match areas.len() as u64 {
                1 => (0, step),
                count => (
                    step / chunk % count,
                    step / chunk / count * chunk + step % chunk,
                ),
            };
            let (nth, first) = areas[turn as usize];
            let place = (nth, MIB + first * MIB + within);
            assert_eq!(origin(disk, start + step), place, "{} at {step}", words[0]);
            places.push((words[0], start + step, place));
        }
    }
    assert_eq!(places.len(), 16 * 256);
    write_all(&files);
    for (volume, at, (nth, place)) in places {
        let mut found = [0; 8];
        let file = std::fs::File::open(&files[usize::from(nth)]).unwrap();
        file.read_exact_at(&mut found, place).unwrap();
        assert_eq!(found, word(volume, at), "{volume} at {at}");
    }
    run(&["vgck", &name]);
    for device in &names {
        run(&["pvck", device]);
    }
}

/// What is written at byte `at` of a volume.
fn word(volume: &str, at: u64) -> [u8; 8] {
    (at << 8 | u64::from(volume.as_bytes()[0])).to_le_bytes()
}

/// Fills every volume of the group on `files` through an overlay, and the files with what that
/// has changed.
fn write_all(files: &[PathBuf]) {
    let overlays: Vec<Arc<Overlay>> = files
        .iter()
        .map(|path| {
            let file = Arc::new(File::open(path).unwrap());
            Arc::new(Overlay::in_memory(Arc::new(StorageDisk::new(file))))
        })
        .collect();
    let physical: Vec<PhysicalVolume> = overlays
        .iter()
        .map(|overlay| {
            let disk: Arc<dyn DiskMut> = overlay.clone();
            PhysicalVolume::read(&disk).unwrap().unwrap()
        })
        .collect();
    let group = assemble(&physical).remove(0).unwrap();
    for volume in &group.volumes {
        let writer = volume.disk.as_ref().unwrap().writer().unwrap();
        let words = (0..volume.size).step_by(8);
        let bytes: Vec<u8> = words.flat_map(|at| word(&volume.name, at)).collect();
        writer.write_at(&bytes, 0).unwrap();
    }
    for (overlay, path) in overlays.iter().zip(files) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        for range in overlay.written() {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
            overlay.read_at(&mut bytes, range.start).unwrap();
            file.write_all_at(&bytes, range.start).unwrap();
        }
    }
}
