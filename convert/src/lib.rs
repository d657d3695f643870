//! Moves machines: the pipeline from a source to a proven target, and the `rehost` command line.
//!
//! One migration, in order: [`source`] says what the VM is, [`guest`] opens its disks and looks
//! inside, [`edit`] plans the changes and applies them to overlays, [`proof`] boots a guest,
//! [`mod@write`] writes an image through the copy engine in [`copy`], [`target`] describes the new
//! machine. [`migrate`] strings them together and fills the [`report`]. [`verbs`] are for one image.
#![forbid(unsafe_code)]

pub mod browse;
pub mod change;
pub mod checksum;
pub mod cli;
pub mod copy;
pub mod edit;
pub mod guest;
pub mod hardware;
pub mod interrupt;
pub mod migrate;
pub mod proof;
pub mod report;
pub mod resume;
pub mod secrets;
pub mod source;
pub mod target;
mod turn;
pub mod unfinished;
pub mod unused;
pub mod verbs;
pub mod voice;
pub mod write;
