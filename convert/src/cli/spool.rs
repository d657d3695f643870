//! `-` as a source: standard input, kept in a temporary file, because every image but a raw one is read
//! in any order.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rehost_block::{Error, File, Result, SameFolder, StorageMut, is_zero};
use rehost_image::{Format, Image};

use crate::voice::{Voice, bytes};

/// Bytes read at a time; stretches of zeroes that long are not stored.
const PIECE: usize = 64 << 10;

/// Keeps all of standard input in an unlinked temporary file, and opens the image in it. It may not
/// name other files.
pub(super) fn spool(format: Option<Format>, voice: Voice) -> Result<Image> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Error::usage("standard input is a terminal")
            .hint("send an image to it, or name a file"));
    }
    let folder = std::env::temp_dir();
    voice.step(format_args!(
        "Keeping standard input in a temporary file in {} (TMPDIR chooses another folder).",
        folder.display()
    ));
    let file = File::temporary(folder)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    // Ends with standard input.
    loop {
        let len = fill(&mut stdin, &mut piece)?;
        if len == 0 {
            break;
        }
        if !is_zero(&piece[..len]) {
            file.write_at(&piece[..len], at)?;
        }
        at += len as u64;
    }
    file.set_size(at)?;
    voice.detail(format_args!("{} came.", bytes(at)));
    Image::from_storage(
        PathBuf::from("(standard input)"),
        Arc::new(file),
        format,
        &SameFolder,
    )
}

/// As much as comes, up to the length of `piece`.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> Result<usize> {
    let mut len = 0;
    // Ends because every round adds to `len`, or nothing comes any more.
    while len < piece.len() {
        match from.read(&mut piece[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("cannot read standard input", error)),
        }
    }
    Ok(len)
}
