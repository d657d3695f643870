//! What the tests of the program share: running it, finding judges, making images.
#![allow(dead_code)] // each test binary uses its own part
#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows `#[test]` functions, not what they share

pub(crate) mod families;
pub(crate) mod images;
pub(crate) mod machine;
pub(crate) mod stacked;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The program under test.
pub(crate) fn rehost() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rehost"))
}

/// What a run of it printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}\n{}", self.stdout, self.stderr))
    }

    /// Asserts the exit code, showing everything when it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts that standard error is one line that holds each of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        let line = self.stderr.lines().last().unwrap_or_default();
        for part in parts {
            assert!(
                line.contains(part),
                "{part:?} is missing in: {}",
                self.stderr
            );
        }
        assert!(line.starts_with("rehost: "), "{}", self.stderr);
        self
    }
}

/// Runs the program with `args`.
pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    ran(rehost().args(args).output().unwrap())
}

/// An output as text.
pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether `tool` is here; says so when it is not. `scripts/test` refuses to run the tests without
/// any of them, so that a test that returns early is never counted as passed there.
pub(crate) fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(tool).is_file());
    if !found {
        println!("skipped: needs {tool}");
    }
    found
}

/// Runs a judge; panics with what it said when it is not content.
#[track_caller]
pub(crate) fn judge(command: &mut Command) -> String {
    let output = command.env("PATH", judges_path()).output().unwrap();
    let said = ran(output);
    assert_eq!(
        said.code, 0,
        "{command:?}\n{}\n{}",
        said.stdout, said.stderr
    );
    said.stdout
}

fn judges_path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// Where the sample guests are, and packages for them.
fn guests() -> PathBuf {
    match std::env::var_os("REHOST_GUESTS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests"),
    }
}

/// The packages that `scripts/fetch-packages` fetched, the first of them by its name, if they are there.
pub(crate) fn packages(name: &str) -> Option<(PathBuf, Vec<PathBuf>)> {
    let Ok(entries) = fs::read_dir(guests().join(format!("packages/{name}"))) else {
        println!("skipped: needs {name} of scripts/fetch-packages");
        return None;
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_first = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(name)
    };
    let (mut first, mut others): (Vec<_>, Vec<_>) = paths.partition(is_first);
    others.sort();
    Some((first.pop().unwrap(), others))
}

/// The folder of a sample guest built by `scripts/build-guest`, if it is there.
pub(crate) fn guest(name: &str) -> Option<PathBuf> {
    let guest = guests().join(name);
    if guest.join("guest.vmx").is_file() {
        Some(guest)
    } else {
        println!("skipped: needs the sample guest {name} of scripts/build-guest");
        None
    }
}

/// SHA-256 of a file.
pub(crate) fn hash(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut piece).unwrap();
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Names and hashes of every file in a folder.
pub(crate) fn hashes(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), hash(&path)))
        .collect()
}

/// A raw image of `size` bytes with data here and there: pseudo-random, compressible and zero
/// stretches, not aligned to anything.
pub(crate) fn sample_raw(path: &Path, size: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut at = 4321u64;
    while at + 400_000 < size {
        let len = 1000 + next() % 300_000;
        let block: Vec<u8> = match next() % 3 {
            0 => (0..len).map(|_| next().to_le_bytes()[3]).collect(),
            1 => (0..len).map(|i| (i / 97 % 251) as u8).collect(),
            _ => vec![0; len as usize],
        };
        file.write_all_at(&block, at).unwrap();
        at += len + next() % 2_000_000;
    }
}
