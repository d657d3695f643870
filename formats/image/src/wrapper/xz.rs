//! xz files by their index: every stream ends with the sizes of its blocks.
//!
//! The .xz file format 1.1.0, sections 2 to 4. The file is read from its end; each block is decoded
//! as a stream of its own, made of the header and index that it would have alone, so that its check
//! is compared.

use liblzma::stream::{Action, Status, Stream};
use rehost_block::{Error, Fields, Result, Storage};

use super::pieces::{Index, Unpack};

/// Memory a decoder may take. Ours: `xz -9` needs 65 MiB.
pub(super) const MEMORY: u64 = 128 << 20;

/// Bytes of a stream's header, and of its footer.
const HEAD: u64 = 12;

/// Bytes of an index. Ours.
const MAX_INDEX: u64 = 64 << 20;

/// Streams in one file that are looked at. Ours.
const MAX_STREAMS: usize = 1 << 16;

/// One stream: where its first block is, and the sizes of all (unpadded, plain).
struct Blocks {
    at: u64,
    flags: [u8; 2],
    records: Vec<(u64, u64)>,
}

/// The index of `storage`, if it has one that can be used.
///
/// # Errors
/// Corrupt when it is damaged or does not fit the file.
pub(super) fn index(storage: &dyn Storage) -> Result<Option<Index>> {
    let mut streams = Vec::new();
    let mut end = storage.size();
    // Ends because every round goes at least a stream's header towards the start of the file.
    while end > 0 {
        let mut word = [0; 4];
        if end < HEAD.saturating_mul(2) || !end.is_multiple_of(4) {
            return Err(fault("file does not end with a stream", end));
        }
        storage.read_at(&mut word, end.saturating_sub(4))?;
        // Stream padding, which is none before the first stream.
        if word == [0; 4] {
            end = end.saturating_sub(4);
            continue;
        }
        if streams.len() >= MAX_STREAMS {
            return Ok(None);
        }
        let (blocks, start) = stream(storage, end)?;
        streams.push(blocks);
        end = start;
    }
    // Pieces follow each other without gaps, so that one stream's are one index.
    let [Blocks { at, flags, records }] = streams.as_slice() else {
        return Ok(None);
    };
    let padding = |unpadded: u64| {
        let padding = unpadded.next_multiple_of(4).saturating_sub(unpadded);
        u8::try_from(padding).unwrap_or(0)
    };
    let block = Block {
        flags: *flags,
        padding: records
            .iter()
            .map(|(unpadded, _)| padding(*unpadded))
            .collect(),
    };
    let mut index = Index::new(Box::new(block), *at);
    for (unpadded, plain) in records {
        if index.push(unpadded.next_multiple_of(4), *plain)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(index))
}

fn fault(what: &str, at: u64) -> Error {
    Error::corrupt(format!("xz: {what}"))
        .at(at)
        .hint("the file is truncated or damaged: copy it again from its origin")
}

/// The stream that ends at `end`, and where it starts.
fn stream(storage: &dyn Storage, end: u64) -> Result<(Blocks, u64)> {
    let footer_at = end.saturating_sub(HEAD);
    let mut footer = [0; 12];
    storage.read_at(&mut footer, footer_at)?;
    let fields = Fields::new(&footer, "xz footer", footer_at);
    if fields.array(10)? != *b"YZ" || fields.u32_le(0)? != crc32(fields.bytes(4, 6)?) {
        return Err(fault("footer is missing or damaged", footer_at));
    }
    let flags = fields.array(8)?;
    let index_len = u64::from(fields.u32_le(4)?)
        .saturating_add(1)
        .saturating_mul(4);
    if index_len > MAX_INDEX || index_len.saturating_add(HEAD) > footer_at {
        return Err(fault("index is out of range", footer_at));
    }
    let index_at = footer_at.saturating_sub(index_len);
    let mut bytes = vec![0; usize::try_from(index_len).unwrap_or(0)];
    storage.read_at(&mut bytes, index_at)?;
    let records = records(&bytes).ok_or_else(|| fault("index is damaged", index_at))?;
    let packed = records.iter().try_fold(0u64, |sum, (unpadded, _)| {
        sum.checked_add(unpadded.checked_next_multiple_of(4)?)
    });
    let at = packed
        .and_then(|packed| index_at.checked_sub(packed))
        .filter(|at| *at >= HEAD)
        .ok_or_else(|| fault("blocks do not fit before their index", index_at))?;
    let start = at.saturating_sub(HEAD);
    let mut head = [0; 12];
    storage.read_at(&mut head, start)?;
    if head != header(flags) {
        return Err(fault(
            "stream header is damaged, or none is where it must be",
            start,
        ));
    }
    let blocks = Blocks { at, flags, records };
    Ok((blocks, start))
}

/// The records of an index, whose sum is compared.
fn records(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*sum) != crc32(body) {
        return None;
    }
    let (indicator, mut rest) = body.split_first()?;
    if *indicator != 0 {
        return None;
    }
    let count = number(&mut rest)?;
    let mut records = Vec::new();
    // Ends because every record takes two bytes of the index at least.
    for _ in 0..count {
        let unpadded = number(&mut rest)?;
        let plain = number(&mut rest)?;
        records.push((unpadded, plain));
    }
    (rest.len() < 4 && rest.iter().all(|byte| *byte == 0)).then_some(records)
}

/// Takes a "multibyte integer" (1.2): seven bits a byte, the lowest first, at most nine bytes.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn push_number(bytes: &mut Vec<u8>, value: u64) {
    let mut value = value;
    // Ends because a 64-bit number has at most ten groups of seven bits.
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or(0));
}

fn header(flags: [u8; 2]) -> [u8; 12] {
    let [sum0, sum1, sum2, sum3] = crc32(&flags).to_le_bytes();
    let [flag0, flag1] = flags;
    [
        0xfd, b'7', b'z', b'X', b'Z', 0, flag0, flag1, sum0, sum1, sum2, sum3,
    ]
}

fn crc32(bytes: &[u8]) -> u32 {
    libdeflater::crc32(bytes)
}

/// The blocks of a stream with these flags.
#[derive(Debug)]
struct Block {
    flags: [u8; 2],
    /// Bytes of padding behind each block, 0 to 3.
    padding: Vec<u8>,
}

impl Block {
    /// The length of block `number` without its padding.
    fn unpadded(&self, number: usize, packed: &[u8]) -> u64 {
        let padding = self.padding.get(number).copied().unwrap_or(0);
        u64::try_from(packed.len())
            .unwrap_or(u64::MAX)
            .saturating_sub(padding.into())
    }
}

impl Unpack for Block {
    fn unpack(&self, number: usize, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let damaged = |error| Error::corrupt("xz block is damaged").because(error);
        let mut decoder = Stream::new_stream_decoder(MEMORY, 0).map_err(damaged)?;
        let mut filled = 0;
        let parts: [&[u8]; 2] = [&header(self.flags), packed];
        for part in parts {
            let mut rest = part;
            // Ends because every round takes input or gives output, or fails.
            while !rest.is_empty() {
                let (taken, given) = (decoder.total_in(), decoder.total_out());
                let room = plain.get_mut(filled..).unwrap_or_default();
                let status = decoder.process(rest, room, Action::Run).map_err(damaged)?;
                let taken = decoder.total_in().saturating_sub(taken);
                let given = decoder.total_out().saturating_sub(given);
                if taken == 0 && given == 0 || status == Status::StreamEnd {
                    return Err(Error::corrupt(
                        "xz block has another size than its index says",
                    ));
                }
                let taken = usize::try_from(taken).unwrap_or(usize::MAX);
                rest = rest.get(taken..).unwrap_or_default();
                filled = filled.saturating_add(usize::try_from(given).unwrap_or(0));
            }
        }
        // The index and footer of this block alone: with them the decoder compares its sizes.
        let mut tail = vec![0, 1];
        push_number(&mut tail, self.unpadded(number, packed));
        push_number(&mut tail, u64::try_from(plain.len()).unwrap_or(0));
        tail.resize(tail.len().next_multiple_of(4), 0);
        tail.extend(crc32(&tail).to_le_bytes());
        let words = u32::try_from(tail.len() / 4).unwrap_or(0);
        let mut footer = words.saturating_sub(1).to_le_bytes().to_vec();
        footer.extend(self.flags);
        tail.extend(crc32(&footer).to_le_bytes());
        tail.extend(footer);
        tail.extend(b"YZ");
        let room = plain.get_mut(filled..).unwrap_or_default();
        let status = decoder
            .process(&tail, room, Action::Finish)
            .map_err(damaged)?;
        if status != Status::StreamEnd
            || decoder.total_out() != u64::try_from(plain.len()).unwrap_or(0)
        {
            return Err(Error::corrupt(
                "xz block has another size than its index says",
            ));
        }
        Ok(())
    }
}
