//! Wrapped targets: the usual programs read them as one stream, and here they have an index.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory};
use rehost_image::{Wrap, wrap};

use crate::support::writing::{any_writes, fill, samples, written};
use crate::support::{have, read_all, run};
use crate::{open, pieces};

fn write(folder: &std::path::Path, name: &str, kind: Wrap, disk: &[u8]) {
    let storage = Arc::new(File::create_new(folder.join(name)).unwrap());
    let target = wrap(storage, disk.len() as u64, kind).unwrap();
    let written = fill(&*target, disk, 2 << 20);
    let len = fs::metadata(folder.join(name)).unwrap().len();
    assert_eq!(written.file_bytes, len);
}

#[test]
fn the_usual_programs_read_what_is_written() {
    if !have(&["gzip", "zstd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for disk in samples(3 << 20, 5 << 20)
        .iter()
        .chain([&vec![0; 1], &Vec::new()])
    {
        write(folder, "disk.raw.gz", "gz".parse().unwrap(), disk);
        write(folder, "disk.raw.zst", "zst:1".parse().unwrap(), disk);
        run(folder, "gzip", &["-t", "disk.raw.gz"]);
        assert!(run(folder, "gzip", &["-dc", "disk.raw.gz"]) == *disk);
        run(folder, "zstd", &["-q", "-t", "disk.raw.zst"]);
        assert!(run(folder, "zstd", &["-q", "-dc", "disk.raw.zst"]) == *disk);
        for name in ["disk.raw.gz", "disk.raw.zst"] {
            let image = open(&folder.join(name)).unwrap();
            assert_eq!(pieces(&image), Some(disk.len().div_ceil(1 << 20).max(1)));
            assert!(read_all(&*image.disk(), 77_777) == *disk, "{name}");
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
}

#[test]
fn an_unpublished_target_is_no_stream() {
    for (kind, level) in [("gz", Wrap::Gzip(6)), ("zst", Wrap::Zstd(3))] {
        let memory = Arc::new(Memory::new("new", Vec::new()));
        let target = wrap(memory.clone(), 2 << 20, level).unwrap();
        let unit = vec![7; 1 << 20];
        for at in [0, 1 << 20] {
            target.put(at, target.pack(at, &unit).unwrap()).unwrap();
        }
        assert!(memory.to_vec().starts_with(&[0; 16]), "{kind}");
        target.publish().unwrap();
        assert!(!memory.to_vec().starts_with(&[0; 16]), "{kind}");
    }
}

#[test]
fn words_name_what_is_written() {
    assert_eq!("gz".parse::<Wrap>().unwrap(), Wrap::Gzip(6));
    assert_eq!("zst:19".parse::<Wrap>().unwrap(), Wrap::Zstd(19));
    for (word, named) in [
        ("xz", "gz, zst"),
        ("gz:13", "1 (fast) to 12"),
        ("zst:0", "to 22"),
    ] {
        let error = word.parse::<Wrap>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(named), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_disk_comes_back(sectors in 1usize..8000, writes in any_writes(), zstd in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let disk = written(sectors, writes);
        let kind = if zstd { Wrap::Zstd(3) } else { Wrap::Gzip(1) };
        write(folder.path(), "disk", kind, &disk);
        let image = open(&folder.path().join("disk")).unwrap();
        prop_assert!(read_all(&*image.disk(), 100_000) == disk);
    }
}

#[test]
fn a_raw_target_is_wrapped_by_its_name_or_its_option() {
    use rehost_image::{Format, TargetOptions, TargetSpec};
    let wrap_of = |spec: &TargetSpec| match &spec.options {
        TargetOptions::Raw(options) => options.wrap,
        other => panic!("{other:?}"),
    };
    for (name, expected) in [
        ("disk.raw", None),
        ("disk.raw.gz", Some(Wrap::Gzip(6))),
        ("disk.img.zst", Some(Wrap::Zstd(3))),
    ] {
        let mut spec = TargetSpec::new(Format::Raw, 512, name).unwrap();
        assert_eq!(wrap_of(&spec), expected, "{name}");
        spec.options.parse("wrap=zst:9").unwrap();
        assert_eq!(wrap_of(&spec), Some(Wrap::Zstd(9)));
        spec.options.parse("wrap=none").unwrap();
        assert_eq!(wrap_of(&spec), None);
        spec.options.parse("wrap=xz").unwrap_err();
    }
    for (format, name) in [(Format::Raw, "a.raw.xz"), (Format::Qcow2, "a.qcow2.gz")] {
        let error = TargetSpec::new(format, 512, name).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("written"), "{error}");
    }
}
