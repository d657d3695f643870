//! Every input that was ever found, and a short run of mutations, through the bodies that the fuzzer runs.
//!
//! A finding that ends the process (more memory than a file's means, a stack overflow) or hangs leaves
//! its input behind, at the place that the test printed first. `REHOST_MUTATIONS` is the number of
//! mutations per target, for a longer run.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rehost_fuzzing::{Mutator, Target, seeds};

/// Mutations per target unless `REHOST_MUTATIONS` says another number.
const MUTATIONS: usize = 400;

/// Panics of any thread: a server catches those of its own.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        usual(panic);
    }));
}

/// Where the input that is being run lies, so that one that ends the process is not lost.
fn place(target: Target) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    fs::create_dir_all(&folder).unwrap();
    let place = folder.join(format!("{}-{}", target.name(), std::process::id()));
    println!("the input is in {}", place.display());
    place
}

fn run(target: Target, place: &Path, input: &[u8]) {
    fs::write(place, input).unwrap();
    target.run(input);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a thread panicked");
}

/// Seeds as they are, then mutations of them in turn.
fn short_run(target: Target) {
    count_panics();
    let place = place(target);
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "no seed for {}", target.name());
    for seed in &seeds {
        println!("seed {}: {} bytes", seed.name, seed.bytes.len());
        run(target, &place, &seed.bytes);
    }
    let most = std::env::var("REHOST_MUTATIONS")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(MUTATIONS);
    let mut mutator = Mutator::new(1);
    for seed in seeds.iter().cycle().take(most) {
        run(target, &place, &mutator.mutate(&seed.bytes));
    }
    fs::remove_file(place).unwrap();
}

#[test]
fn every_input_that_was_found_is_harmless_now() {
    count_panics();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap().to_str().unwrap();
        let target = Target::named(name).unwrap_or_else(|| panic!("no target is called {name}"));
        for input in fs::read_dir(&folder).unwrap() {
            let input = input.unwrap().path();
            println!("{}", input.display());
            target.run(&fs::read(&input).unwrap());
            assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a thread panicked");
        }
    }
}

/// A test for each target, so that they run beside each other.
macro_rules! short_runs {
    ($($(#[$only:meta])? $name:ident: $target:ident,)*) => {
        $($(#[$only])?
        #[test]
        fn $name() {
            short_run(Target::$target);
        })*

        #[test]
        fn every_target_has_a_short_run() {
            let named = [$(Target::$target),*];
            assert!(Target::ALL.iter().all(|target| named.contains(target)));
        }
    };
}

short_runs! {
    mutated_qcow2: Qcow2,
    mutated_vmdk: Vmdk,
    mutated_cowd: Cowd,
    mutated_sesparse: SeSparse,
    mutated_vhd: Vhd,
    mutated_vhdx: Vhdx,
    mutated_vdi: Vdi,
    mutated_parallels: Parallels,
    mutated_qed: Qed,
    mutated_qcow: Qcow,
    mutated_wrapper: Wrapper,
    mutated_luks: Luks,
    mutated_partitions: Partitions,
    mutated_ext4: Ext4,
    mutated_xfs: Xfs,
    mutated_btrfs: Btrfs,
    mutated_iso9660: Iso9660,
    mutated_squashfs: Squashfs,
    mutated_fat: Fat,
    mutated_journal: Journal,
    mutated_lvm: Lvm,
    mutated_thin: Thin,
    mutated_md: Md,
    mutated_stack: Stack,
    mutated_initramfs: Initramfs,
    mutated_modules: Modules,
    mutated_guest: Guest,
    mutated_nbd: Nbd,
    #[cfg(feature = "machines")]
    mutated_vmx: Vmx,
    #[cfg(feature = "machines")]
    mutated_domain: Domain,
    mutated_deflate: Deflate,
    mutated_rpmdb: RpmDatabase,
    mutated_unified: Unified,
}
