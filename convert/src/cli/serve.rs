//! `rehost serve`: an image as a network block device, for tools that speak NBD.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use rehost_block::{File, Overlay};
use rehost_nbd::{Export, Server};
use serde::Serialize;

use super::args::Serve;
use super::{Answer, output};
use crate::interrupt;
use crate::voice::bytes;

/// How often it looks for an interruption, and for errors to tell.
const TICK: Duration = Duration::from_millis(100);

/// What is served, as JSON.
#[derive(Serialize)]
struct Serving<'a> {
    uri: &'a str,
    size: u64,
    writable: bool,
    image: &'a Path,
    files: &'a [PathBuf],
}

/// Runs the command: until it is interrupted.
pub(super) fn run(args: &Serve) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image_at(&args.image, &args.earlier)?;
    let export = if args.overlay {
        let store = Arc::new(File::temporary(std::env::temp_dir())?);
        Export::writable("", Arc::new(Overlay::new(image.disk(), store)))
    } else {
        Export::read_only("", image.disk())
    };
    let interrupted = interrupt::flag()?;
    let running = Server::bind(&args.socket, vec![export])?.spawn()?;
    let uri = running.uri("");
    if args.reporting.json {
        output::json(&Serving {
            uri: &uri,
            size: image.size(),
            writable: args.overlay,
            image: &args.image,
            files: image.files(),
        })?;
    } else {
        output::line(&uri)?;
    }
    voice.step(format_args!(
        "Serving {} ({}, {}) until interrupted{}.",
        args.image.display(),
        image.format(),
        bytes(image.size()),
        if args.overlay {
            "; what is written to it is thrown away then"
        } else {
            ", for reading only"
        }
    ));
    // Ends with the first signal.
    while !interrupted.load(Ordering::Relaxed) {
        for error in running.take_errors() {
            voice.step(error);
        }
        std::thread::sleep(TICK);
    }
    Ok(Answer::Done)
}
