//! Hostile input for every parser: [`Target::run`] does with bytes what the program would do with a file
//! that holds them, and fails by a panic, an abort or not coming back.
//!
//! Three callers share it: the programs of `fuzz/` (libFuzzer, as long as one likes), the tests here
//! (every input that was ever found, and a short run of mutated [`seeds`]), and whoever looks into a
//! finding. More memory than a file's means, 64 MiB and 16 times its length, is a finding as well.
#![forbid(unsafe_code)]
// A finding is a panic: that is what every caller looks for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guests;
mod images;
mod input;
mod inspected;
mod means;
mod members;
mod mend;
mod mutate;
mod seeds;
mod storages;
mod talk;
mod target;
mod volumes;

pub use input::{expand, pack};
pub use mutate::Mutator;
pub use seeds::{Seed, seeds};
pub use target::Target;
