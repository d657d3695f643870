//! `fuzz-seeds FOLDER TARGET...`: writes the seeds of each target to `FOLDER/TARGET`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use rehost_fuzzing::{Target, seeds};

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let Some(folder) = words.next() else {
        eprintln!("usage: fuzz-seeds FOLDER TARGET...");
        return ExitCode::from(2);
    };
    for name in words {
        let Some(target) = Target::named(&name) else {
            eprintln!("no target is called {name}");
            return ExitCode::from(2);
        };
        if let Err(error) = write(&Path::new(&folder).join(&name), target) {
            eprintln!("{folder}/{name}: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn write(folder: &Path, target: Target) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let seeds = seeds(target);
    for seed in &seeds {
        fs::write(folder.join(&seed.name), &seed.bytes)?;
    }
    println!("{}: {} seeds", target.name(), seeds.len());
    Ok(())
}
