//! The numbers and fixed layouts of the NBD protocol.
//!
//! Document: `doc/proto.md` of the NetworkBlockDevice project (the NBD protocol), all integers big
//! endian. Names follow it.

use rehost_block::{Error, Fields, Result};

/// First greeting word, `NBDMAGIC`.
pub(crate) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second greeting word and start of every option, `IHAVEOPT`.
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Start of every option reply.
pub(crate) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub(crate) const REQUEST: u32 = 0x2560_9513;
/// Start of every simple reply.
pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// Start of every structured reply chunk.
pub(crate) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Handshake flag: fixed newstyle negotiation (both sides).
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zeroes after the answer to `NBD_OPT_EXPORT_NAME` (both sides).
pub(crate) const NO_ZEROES: u16 = 2;

/// Longest string the protocol allows (export name, description, query).
pub(crate) const STRING_MAX: usize = 4096;
/// Most data in one option (limit of ours: several strings of the longest kind).
pub(crate) const OPTION_MAX: u32 = 64 * 1024;
/// Most bytes one read or write may carry: the protocol's default.
pub(crate) const PAYLOAD_MAX: u32 = 32 << 20;

/// `NBD_OPT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opt {
    ExportName,
    Abort,
    List,
    Info,
    Go,
    StructuredReply,
    ListMetaContext,
    SetMetaContext,
    /// TLS, extended headers and whatever comes later: refused as unsupported.
    Other,
}

impl From<u32> for Opt {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            _ => Self::Other,
        }
    }
}

/// `NBD_REP_*`.
pub(crate) mod rep {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
    pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
    pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub(crate) const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// `NBD_INFO_*`.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags, `NBD_FLAG_*`.
pub(crate) mod flag {
    pub(crate) const HAS_FLAGS: u16 = 1;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Command flags, `NBD_CMD_FLAG_*`.
pub(crate) mod cmd_flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
}

/// Structured reply chunk types, `NBD_REPLY_TYPE_*`.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR: u16 = 0x8001;
    /// Chunk flag `NBD_REPLY_FLAG_DONE`.
    pub(crate) const DONE: u16 = 1;
}

/// States of the `base:allocation` context.
pub(crate) mod state {
    pub(crate) const HOLE: u32 = 1;
    pub(crate) const ZERO: u32 = 2;
}

/// The one metadata context there is.
pub(crate) const BASE_ALLOCATION: &[u8] = b"base:allocation";
/// Its number in block status replies; any will do.
pub(crate) const BASE_ALLOCATION_ID: u32 = 1;

/// Error numbers of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    Perm,
    Io,
    Inval,
    NoSpc,
    Overflow,
    NotSup,
}

impl Errno {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
        }
    }
}

/// `NBD_CMD_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Read,
    Write,
    Disc,
    Flush,
    Trim,
    WriteZeroes,
    BlockStatus,
    Other(u16),
}

impl From<u16> for Command {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disc,
            3 => Self::Flush,
            4 => Self::Trim,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }
}

/// A request's header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: Command,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Request {
    /// Bytes of a request on the wire.
    pub(crate) const SIZE: usize = 28;

    pub(crate) fn parse(bytes: &[u8; Self::SIZE]) -> Result<Self> {
        let fields = Fields::new(bytes, "NBD request", 0);
        let magic = fields.u32_be(0)?;
        if magic != REQUEST {
            return Err(protocol("NBD request", "wrong magic")
                .mismatch(format!("{REQUEST:#x}"), format!("{magic:#x}")));
        }
        Ok(Self {
            flags: fields.u16_be(4)?,
            command: Command::from(fields.u16_be(6)?),
            cookie: fields.u64_be(8)?,
            offset: fields.u64_be(16)?,
            len: fields.u32_be(24)?,
        })
    }

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A client broke the protocol: the connection ends with this.
pub(crate) fn protocol(structure: &'static str, what: impl Into<String>) -> Error {
    Error::corrupt(what).in_structure(structure)
}
