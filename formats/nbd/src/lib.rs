//! A Network Block Device server: any [`Disk`](rehost_block::Disk) for QEMU, libnbd and whatever
//! else speaks NBD.
//!
//! Document: the NBD protocol (`doc/proto.md` of the NetworkBlockDevice project): fixed newstyle
//! handshake with `EXPORT_NAME`, `ABORT`, `LIST`, `INFO`, `GO`, `STRUCTURED_REPLY`,
//! `LIST_META_CONTEXT` and `SET_META_CONTEXT` (`base:allocation`); commands `READ` (simple and
//! structured, with hole chunks), `WRITE`, `FLUSH`, `TRIM`, `WRITE_ZEROES`, `BLOCK_STATUS`, `DISC`;
//! flags `FUA`, `DF`, `NO_HOLE`, `REQ_ONE`; several connections to one export.
//!
//! Left out on purpose, and refused by name where a client asks: TLS, extended headers, `CACHE`,
//! `RESIZE`, `FAST_ZERO`, other metadata contexts, and the client's side. Whoever may connect to
//! the socket may use the exports: keep it in a private folder.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod export;
mod negotiate;
mod reply;
mod server;
mod status;
mod stream;
mod transmit;
mod wire;

pub use export::Export;
pub use server::{Running, Server};
