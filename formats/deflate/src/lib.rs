//! A deflate encoder (RFC 1951) for whole units of a disk image, with distances of 4 KiB at most.
//!
//! qcow2's readers may inflate with a window of 4 KiB, because QEMU writes with one. The fast deflate
//! libraries know the 32 KiB window alone, and zlib takes its time: so this is our own. It knows the
//! whole unit at once (a cluster, 512 bytes to 2 MiB), keeps its tables in the processor's first
//! cache, and made no larger streams than zlib-rs at levels 1, 3, 6 and 9 of a
//! program file, nor than QEMU's zlib at its level 6 of a Debian disk.
//!
//! Units that no codec makes smaller are told by [`is_noise`], at memory speed.
//!
//! Left out on purpose: streaming (a unit is always whole), preset dictionaries, and decoding.
//!
//! This is no parser: what it reads is data and never a length or an offset, so the parsers' lints
//! against indexing and arithmetic are not asked for here. It is safe code all the same.
#![forbid(unsafe_code)]

mod bits;
mod block;
mod cost;
mod effort;
mod huffman;
mod matcher;
mod noise;
mod parse;
mod symbols;

pub use effort::Level;
pub use noise::is_noise;

use block::Blocks;
use matcher::Matcher;

/// The furthest that a stream reaches back, in bytes.
pub const WINDOW: usize = 4096;

/// Encodes units, one after the other; each is a stream of its own.
///
/// Takes about 100 KiB and what the largest unit needs, so it is worth keeping. What it writes depends
/// on the unit and the level alone.
#[derive(Debug)]
pub struct Encoder {
    level: Level,
    matcher: Matcher,
    blocks: Blocks,
}

impl Encoder {
    /// An encoder of one level.
    #[must_use]
    pub fn new(level: Level) -> Self {
        Self {
            level,
            matcher: Matcher::new(),
            blocks: Blocks::new(),
        }
    }

    /// `plain` as a raw deflate stream of `most` bytes at most; nothing when it takes more.
    pub fn encode(&mut self, plain: &[u8], most: usize) -> Option<&[u8]> {
        self.matcher.forget();
        self.blocks.start(plain.len());
        parse::parse(plain, self.level, &mut self.matcher, &mut self.blocks);
        let stream = self.blocks.finish(plain);
        (stream.len() <= most).then_some(stream)
    }
}
