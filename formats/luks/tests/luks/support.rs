//! Running the foreign tools, disks in memory that can be written, and opening volumes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rehost_block::{
    Disk, DiskMut, File, Located, Memory, Result, Storage, StorageDisk, StorageMut,
};
use rehost_luks::{Limits, LuksDisk, Secret, VolumeKey, parse};

/// A command that is also looked for where Debian keeps the administrator's.
fn command(tool: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(tool);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Whether all of `tools` can be run here; says which one cannot.
pub(crate) fn have(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let found = command(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        if !found {
            println!("skipped: needs {tool}");
        }
        found
    })
}

/// Runs `tool` in `folder` and gives what it said.
pub(crate) fn try_run<S: AsRef<OsStr>>(folder: &Path, tool: &str, args: &[S]) -> Output {
    command(tool)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs `tool` in `folder`; fails the test when it fails.
pub(crate) fn run<S: AsRef<OsStr>>(folder: &Path, tool: &str, args: &[S]) -> String {
    let output = try_run(folder, tool, args);
    assert!(
        output.status.success(),
        "{tool} {:?}: {}{}",
        args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The whole disk, read in pieces of `step` bytes.
pub(crate) fn read_all(disk: &dyn Disk, step: usize) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    let mut at = 0;
    for part in bytes.chunks_mut(step) {
        disk.read_at(part, at).unwrap();
        at += part.len() as u64;
    }
    bytes
}

/// The whole disk as `locate` answers, units decoded as a copy would.
pub(crate) fn decode_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < disk.size() {
        let at = bytes.len() as u64;
        let located = disk.locate(at, 150_000).unwrap();
        let rehost_block::Run::Packed(packed) = located.run else {
            panic!("not packed at {at}: {:?}", located.run);
        };
        let unit = packed.decode().unwrap();
        let from = usize::try_from(packed.skip).unwrap();
        let len = usize::try_from(located.len).unwrap();
        bytes.extend_from_slice(&unit[from..from + len]);
    }
    bytes
}

/// A storage as a disk that can be written, as it is.
#[derive(Debug)]
pub(crate) struct Raw<S>(pub(crate) Arc<S>);

impl<S: StorageMut + 'static> Disk for Raw<S> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        Disk::locate(&StorageDisk::new(self.0.clone()), offset, want)
    }
}

impl<S: StorageMut + 'static> DiskMut for Raw<S> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.0.zero_at(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

/// Opens the volume in the file at `path`.
pub(crate) fn open(path: &Path, secret: &Secret) -> Result<(LuksDisk, VolumeKey)> {
    let file: Arc<dyn Storage> = Arc::new(File::open(path)?);
    open_storage(file, secret)
}

/// Opens the volume in `storage`.
pub(crate) fn open_storage(
    storage: Arc<dyn Storage>,
    secret: &Secret,
) -> Result<(LuksDisk, VolumeKey)> {
    let header = parse(&*storage)?;
    let key = header.unlock(&*storage, secret, &Limits::default())?;
    let name = storage.name().to_owned();
    let container: Arc<dyn Disk> = Arc::new(StorageDisk::new(storage));
    Ok((LuksDisk::new(name, container, &header, &key)?, key))
}

/// Opens the volume in `memory` to write through.
pub(crate) fn open_mut(memory: &Arc<Memory>, secret: &Secret) -> LuksDisk<Raw<Memory>> {
    let header = parse(&**memory).unwrap();
    let key = header
        .unlock(&**memory, secret, &Limits::default())
        .unwrap();
    let container = Arc::new(Raw(Arc::clone(memory)));
    LuksDisk::new("volume", container, &header, &key).unwrap()
}
