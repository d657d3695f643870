//! Boots a kernel on the built-in engine and shows its serial port.
//!
//! Exit codes: 0 the guest powered off or the wanted text came, 3 any other end, 2 an error.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rehost_block::{Error, File, Kind, Overlay, Result, StorageDisk};
use rehost_runtime::kvm::{KvmEngine, self_test};
use rehost_runtime::{
    Bus, DirectBoot, Ended, Engine, Firmware, Machine, MachineDisk, Next, Start, Watch,
};

const USAGE: &str = "\
usage: boot --self-test
       boot --kernel FILE [--initrd FILE] [--append TEXT] [--disk RAW]... [--vcpus N]
            [--memory MIB] [--limit SECONDS] [--until TEXT]

Disks are never written: the guest works on an overlay in memory.";

struct Wish {
    machine: Machine,
    limit: Duration,
    until: Option<String>,
}

/// Shows the output and looks for a text in it.
struct Screen {
    until: Option<String>,
    seen: String,
}

impl Watch for Screen {
    fn serial(&mut self, bytes: &[u8]) -> Next {
        let _nobody_reads = io::stdout()
            .write_all(bytes)
            .and_then(|()| io::stdout().flush());
        self.seen.push_str(&String::from_utf8_lossy(bytes));
        match &self.until {
            Some(text) if self.seen.contains(text.as_str()) => Next::Stop,
            _ => Next::Continue,
        }
    }
}

fn main() -> ExitCode {
    match boot() {
        Ok(Ended::PoweredOff | Ended::Watched) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::from(2)
        }
    }
}

fn boot() -> Result<Ended> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if arguments == ["--self-test"] {
        self_test()?;
        eprintln!("boot: /dev/kvm runs guests");
        return Ok(Ended::PoweredOff);
    }
    let wish = parse(arguments)?;
    let mut screen = Screen {
        until: wish.until,
        seen: String::new(),
    };
    let ended = KvmEngine.run(&wish.machine, wish.limit, &mut screen)?;
    eprintln!("boot: ended: {ended:?}");
    Ok(ended)
}

fn parse(arguments: Vec<OsString>) -> Result<Wish> {
    let mut kernel = None;
    let mut initrd = None;
    let mut command_line = "console=ttyS0".to_owned();
    let mut wish = Wish {
        machine: Machine {
            vcpus: 1,
            memory_mib: 512,
            disks: Vec::new(),
            nics: Vec::new(),
            start: Start::Firmware(Firmware::Bios),
        },
        limit: Duration::from_secs(120),
        until: None,
    };
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| Error::usage(USAGE))?;
        let text = || value.to_string_lossy().into_owned();
        match name.to_str() {
            Some("--kernel") => kernel = Some(read(&value)?),
            Some("--initrd") => initrd = Some(read(&value)?),
            Some("--append") => command_line = text(),
            Some("--disk") => wish.machine.disks.push(disk(&value)?),
            Some("--vcpus") => wish.machine.vcpus = number(&text())?,
            Some("--memory") => wish.machine.memory_mib = number(&text())?,
            Some("--limit") => wish.limit = Duration::from_secs(number(&text())?),
            Some("--until") => wish.until = Some(text()),
            _ => return Err(Error::usage(USAGE)),
        }
    }
    wish.machine.start = Start::Direct(DirectBoot {
        kernel: kernel.ok_or_else(|| Error::usage(USAGE))?,
        initrd,
        command_line,
    });
    Ok(wish)
}

fn read(path: &OsString) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io("cannot read", error).in_file(path))
}

fn disk(path: &OsString) -> Result<MachineDisk> {
    let base = StorageDisk::new(Arc::new(File::open(path)?));
    Ok(MachineDisk {
        disk: Arc::new(Overlay::in_memory(Arc::new(base))),
        bus: Bus::VirtioBlk,
    })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::new(Kind::Usage, format!("not a number that fits: {text}")))
}
