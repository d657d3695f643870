//! The handshake: which export a client wants, and which parts of the protocol it speaks.
//!
//! Document: NBD protocol, sections *Fixed newstyle negotiation* and *Option types*.

use std::io::{Read, Write};

use rehost_block::{Error, Fields, Result};

use crate::Export;
use crate::stream::{Stream, read_or_end};
use crate::wire::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, FIXED_NEWSTYLE, IHAVEOPT, NBDMAGIC, NO_ZEROES, OPTION_MAX,
    OPTION_REPLY, Opt, PAYLOAD_MAX, STRING_MAX, info, protocol, rep,
};

/// Options one client may send before it must choose an export (limit of ours).
const OPTIONS_MAX: usize = 1024;
/// Block size that suits best: what overlays and page caches work in.
const PREFERRED_BLOCK: u32 = 4096;

/// What client and server agreed on.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) export: &'a Export,
    pub(crate) structured: bool,
    pub(crate) allocation: bool,
}

/// What the options so far have set.
#[derive(Debug, Default)]
struct Agreed {
    structured: bool,
    /// The export for which `base:allocation` was chosen: it counts for no other.
    allocation_for: Option<String>,
}

/// What an option leads to.
enum Step<'a> {
    Next,
    Enter(&'a Export),
    Leave,
}

/// Leads the handshake. `None` when the client left without choosing an export.
pub(crate) fn negotiate<'a>(stream: &Stream, exports: &'a [Export]) -> Result<Option<Session<'a>>> {
    let mut greeting = Vec::new();
    greeting.extend_from_slice(&NBDMAGIC.to_be_bytes());
    greeting.extend_from_slice(&IHAVEOPT.to_be_bytes());
    greeting.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    send(stream, &greeting)?;

    let mut flags = [0; 4];
    if !read_or_end(stream, &mut flags).map_err(lost)? {
        return Ok(None);
    }
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(protocol("NBD client flags", "unknown flag")
            .mismatch("flags 1 and 2 only", format!("{flags:#x}")));
    }
    let zeroes = flags & u32::from(NO_ZEROES) == 0;

    let mut agreed = Agreed::default();
    for _ in 0..OPTIONS_MAX {
        let mut header = [0; 16];
        if !read_or_end(stream, &mut header).map_err(lost)? {
            return Ok(None);
        }
        let fields = Fields::new(&header, "NBD option", 0);
        if fields.u64_be(0)? != IHAVEOPT {
            return Err(protocol("NBD option", "wrong magic"));
        }
        let number = fields.u32_be(8)?;
        let len = fields.u32_be(12)?;
        if len > OPTION_MAX {
            // The data cannot be skipped cheaply, and no honest option is this long.
            reply(stream, number, rep::ERR_TOO_BIG, b"option data is too long")?;
            return Err(protocol("NBD option", "option data is too long")
                .mismatch(format!("at most {OPTION_MAX} bytes"), len));
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or_default()];
        (&mut &*stream).read_exact(&mut data).map_err(lost)?;

        let option = Opt::from(number);
        if option == Opt::ExportName {
            return export_name(stream, exports, &data, &agreed, zeroes);
        }
        if flags & u32::from(FIXED_NEWSTYLE) == 0 {
            return Err(protocol(
                "NBD option",
                "a client without fixed newstyle may only name an export",
            ));
        }
        match answer(stream, exports, number, &data, &mut agreed)? {
            Step::Next => {}
            Step::Leave => return Ok(None),
            Step::Enter(export) => return Ok(Some(session(export, &agreed))),
        }
    }
    Err(protocol("NBD option", "client never chose an export")
        .mismatch(format!("at most {OPTIONS_MAX} options"), "more"))
}

fn session<'a>(export: &'a Export, agreed: &Agreed) -> Session<'a> {
    Session {
        export,
        structured: agreed.structured,
        allocation: agreed.allocation_for.as_deref() == Some(export.name()),
    }
}

/// `NBD_OPT_EXPORT_NAME`: no error reply exists, so an unknown name ends the connection.
fn export_name<'a>(
    stream: &Stream,
    exports: &'a [Export],
    name: &[u8],
    agreed: &Agreed,
    zeroes: bool,
) -> Result<Option<Session<'a>>> {
    let Some(export) = Export::find(exports, name) else {
        return Err(protocol("NBD option", unknown(name)));
    };
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&export.size().to_be_bytes());
    bytes.extend_from_slice(&export.flags(agreed.structured).to_be_bytes());
    if zeroes {
        bytes.extend_from_slice(&[0; 124]);
    }
    send(stream, &bytes)?;
    Ok(Some(session(export, agreed)))
}

fn answer<'a>(
    stream: &Stream,
    exports: &'a [Export],
    number: u32,
    data: &[u8],
    agreed: &mut Agreed,
) -> Result<Step<'a>> {
    let refuse = |code, why: &str| reply(stream, number, code, why.as_bytes());
    match Opt::from(number) {
        Opt::Abort => {
            // The client may have gone without waiting for this.
            let _ = reply(stream, number, rep::ACK, &[]);
            return Ok(Step::Leave);
        }
        Opt::List if !data.is_empty() => refuse(rep::ERR_INVALID, "list takes no data")?,
        Opt::List => {
            for export in exports {
                let mut bytes = string(export.name());
                bytes.extend_from_slice(export.description().as_bytes());
                reply(stream, number, rep::SERVER, &bytes)?;
            }
            reply(stream, number, rep::ACK, &[])?;
        }
        Opt::StructuredReply if !data.is_empty() => {
            refuse(rep::ERR_INVALID, "structured reply takes no data")?;
        }
        Opt::StructuredReply => {
            agreed.structured = true;
            reply(stream, number, rep::ACK, &[])?;
        }
        option @ (Opt::Info | Opt::Go) => {
            let Ok((name, wanted)) = parse_info(data) else {
                refuse(rep::ERR_INVALID, "malformed option data")?;
                return Ok(Step::Next);
            };
            let Some(export) = Export::find(exports, name) else {
                refuse(rep::ERR_UNKNOWN, &unknown(name))?;
                return Ok(Step::Next);
            };
            describe(stream, number, export, &wanted, agreed.structured)?;
            reply(stream, number, rep::ACK, &[])?;
            if option == Opt::Go {
                return Ok(Step::Enter(export));
            }
        }
        Opt::ListMetaContext | Opt::SetMetaContext if !agreed.structured => {
            refuse(rep::ERR_INVALID, "structured replies must be chosen first")?;
        }
        option @ (Opt::ListMetaContext | Opt::SetMetaContext) => {
            let Ok((name, queries)) = parse_queries(data) else {
                refuse(rep::ERR_INVALID, "malformed option data")?;
                return Ok(Step::Next);
            };
            let Some(export) = Export::find(exports, name) else {
                refuse(rep::ERR_UNKNOWN, &unknown(name))?;
                return Ok(Step::Next);
            };
            let listing = option == Opt::ListMetaContext;
            let hit = queries.contains(&BASE_ALLOCATION)
                || (listing && (queries.is_empty() || queries.contains(&b"base:".as_slice())));
            if hit {
                let mut bytes = BASE_ALLOCATION_ID.to_be_bytes().to_vec();
                bytes.extend_from_slice(BASE_ALLOCATION);
                reply(stream, number, rep::META_CONTEXT, &bytes)?;
            }
            if !listing {
                agreed.allocation_for = hit.then(|| export.name().to_owned());
            }
            reply(stream, number, rep::ACK, &[])?;
        }
        Opt::ExportName | Opt::Other => refuse(rep::ERR_UNSUP, "option is not supported")?,
    }
    Ok(Step::Next)
}

/// The answers to `NBD_OPT_INFO` and `NBD_OPT_GO` before their acknowledgement.
fn describe(
    stream: &Stream,
    number: u32,
    export: &Export,
    wanted: &[u16],
    structured: bool,
) -> Result<()> {
    let mut bytes = info::EXPORT.to_be_bytes().to_vec();
    bytes.extend_from_slice(&export.size().to_be_bytes());
    bytes.extend_from_slice(&export.flags(structured).to_be_bytes());
    reply(stream, number, rep::INFO, &bytes)?;
    for (kind, text) in [
        (info::NAME, export.name()),
        (info::DESCRIPTION, export.description()),
    ] {
        if wanted.contains(&kind) && !text.is_empty() {
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend_from_slice(text.as_bytes());
            reply(stream, number, rep::INFO, &bytes)?;
        }
    }
    if wanted.contains(&info::BLOCK_SIZE) {
        let mut bytes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, PREFERRED_BLOCK, PAYLOAD_MAX] {
            bytes.extend_from_slice(&size.to_be_bytes());
        }
        reply(stream, number, rep::INFO, &bytes)?;
    }
    Ok(())
}

/// Export name and information requests of `NBD_OPT_INFO` and `NBD_OPT_GO`.
fn parse_info(data: &[u8]) -> Result<(&[u8], Vec<u16>)> {
    let fields = Fields::new(data, "NBD option", 0);
    let (name, mut at) = take_string(&fields, 0)?;
    let count = fields.u16_be(at)?;
    at = at.saturating_add(2);
    let mut wanted = Vec::new();
    // Ends after at most 65535 rounds; each needs two more bytes of data.
    for _ in 0..count {
        wanted.push(fields.u16_be(at)?);
        at = at.saturating_add(2);
    }
    end(&fields, at)?;
    Ok((name, wanted))
}

/// Export name and queries of the metadata context options.
fn parse_queries(data: &[u8]) -> Result<(&[u8], Vec<&[u8]>)> {
    let fields = Fields::new(data, "NBD option", 0);
    let (name, mut at) = take_string(&fields, 0)?;
    let count = fields.u32_be(at)?;
    at = at.saturating_add(4);
    let mut queries = Vec::new();
    // Ends because every round consumes at least four bytes of data or fails.
    for _ in 0..count {
        let (query, next) = take_string(&fields, at)?;
        queries.push(query);
        at = next;
    }
    end(&fields, at)?;
    Ok((name, queries))
}

/// A string with its length before it, and where the next field begins.
fn take_string<'a>(fields: &Fields<'a>, at: usize) -> Result<(&'a [u8], usize)> {
    let len = usize::try_from(fields.u32_be(at)?).unwrap_or(usize::MAX);
    if len > STRING_MAX {
        return Err(fields.corrupt(at, "string is too long"));
    }
    let start = at.saturating_add(4);
    Ok((fields.bytes(start, len)?, start.saturating_add(len)))
}

fn end(fields: &Fields<'_>, at: usize) -> Result<()> {
    if at == fields.len() {
        Ok(())
    } else {
        Err(fields.corrupt(at, "option data continues past its end"))
    }
}

fn string(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn unknown(name: &[u8]) -> String {
    format!("no export is called '{}'", name.escape_ascii())
}

fn reply(stream: &Stream, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    send(stream, &bytes)
}

fn send(mut stream: &Stream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).map_err(lost)
}

fn lost(error: std::io::Error) -> Error {
    Error::io("client went away during the handshake", error)
}
