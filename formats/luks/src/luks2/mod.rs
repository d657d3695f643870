//! The LUKS2 binary headers: "LUKS2 On-Disk Format Specification" 1.1.1, section 2.
//!
//! Two copies, each of 4096 bytes and an area of JSON, with a checksum over both. The first is at 0,
//! the second right behind it. Of the valid ones that with the higher `seqid` counts.

mod metadata;

use rehost_block::{Error, Fields, Kind, Result, Storage};

use crate::hash::Hash;
use crate::header::{Header, MAGIC, Version};
use crate::luks1::text;

/// `SKUL\xba\xbe`, what the second copy begins with.
const SECOND_MAGIC: [u8; 6] = *b"SKUL\xba\xbe";
const STRUCTURE: &str = "LUKS2 header";
/// Length of the binary header in bytes; JSON follows.
const LEN: u64 = 4096;
const CSUM: usize = 448;
const CSUM_LEN: usize = 64;

/// The sizes that a copy can have (table 1 of the specification), and so the places of the second.
const SIZES: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];

/// One copy whose checksum is right.
struct Copy {
    place: u64,
    hdr_size: u64,
    seqid: u64,
    label: String,
    uuid: String,
    json: Vec<u8>,
}

/// Reads the header of `storage`, which begins like LUKS2.
pub(crate) fn parse(storage: &dyn Storage) -> Result<Header> {
    let first = read(storage, 0, MAGIC);
    let second = match &first {
        Ok(first) => read(storage, first.hdr_size, SECOND_MAGIC).ok(),
        Err(error) if error.kind() == Kind::Corrupt => find_second(storage)?,
        Err(_) => None,
    };
    let copy = match (first, second) {
        (Ok(first), Some(second)) if second.seqid > first.seqid => second,
        (Ok(first), _) => first,
        (Err(_), Some(second)) => second,
        (Err(error), None) if error.kind() == Kind::Corrupt => {
            return Err(error.hint("the second copy of the header is damaged as well"));
        }
        (Err(error), None) => return Err(error),
    };
    header(storage, &copy)
}

/// Reads the header of a volume whose first copy is gone; nothing when there is no second one.
pub(crate) fn parse_second(storage: &dyn Storage) -> Result<Option<Header>> {
    find_second(storage)?
        .map(|copy| header(storage, &copy))
        .transpose()
}

fn find_second(storage: &dyn Storage) -> Result<Option<Copy>> {
    for place in SIZES {
        match read(storage, place, SECOND_MAGIC) {
            // A copy knows its own place: an image inside the image is not taken for one.
            Ok(copy) if copy.hdr_size == place => return Ok(Some(copy)),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn header(storage: &dyn Storage, copy: &Copy) -> Result<Header> {
    let metadata = metadata::parse(copy)?;
    let (first, second) = (copy.hdr_size, copy.hdr_size.saturating_mul(2));
    let header = Header {
        version: Version::Luks2,
        uuid: copy.uuid.clone(),
        label: Some(copy.label.clone()).filter(|label| !label.is_empty()),
        place: copy.place,
        keyslots: metadata.keyslots,
        digests: metadata.digests,
        segments: metadata.segments,
        tokens: metadata.tokens,
        requirements: metadata.requirements,
    };
    if storage.size() < second {
        return Err(Error::corrupt("container ends before its headers do")
            .in_structure(STRUCTURE)
            .at(first)
            .mismatch(format!("at least {second} bytes"), storage.size()));
    }
    Ok(header)
}

/// Reads the copy at `place` and checks it.
fn read(storage: &dyn Storage, place: u64, magic: [u8; 6]) -> Result<Copy> {
    let mut bytes = vec![0; 4096];
    storage.read_at(&mut bytes, place)?;
    let fields = Fields::new(&bytes, STRUCTURE, place);
    if fields.array::<6>(0)? != magic {
        return Err(fields.corrupt(0, "magic is wrong"));
    }
    let version = fields.u16_be(6)?;
    if version != 2 {
        return Err(fields
            .unsupported(6, "version is not known")
            .mismatch(2, version));
    }
    let hdr_size = fields.u64_be(8)?;
    if !SIZES.contains(&hdr_size) {
        return Err(fields
            .corrupt(8, "hdr_size is none of those that the specification lists")
            .mismatch("16384 to 4194304, a power of two", hdr_size));
    }
    let hdr_offset = fields.u64_be(256)?;
    if hdr_offset != place {
        return Err(fields
            .corrupt(256, "hdr_offset is not where the header is")
            .mismatch(place, hdr_offset));
    }
    let checksum_alg = text(&fields, 72, 32)?;
    let hash = Hash::named(&checksum_alg).ok_or_else(|| {
        fields.unsupported(72, format!("checksum {checksum_alg:?} is not supported"))
    })?;
    let csum = fields.bytes(CSUM, CSUM_LEN)?;
    let json_size = usize::try_from(hdr_size.saturating_sub(LEN))
        .map_err(|_| Error::unsupported("length exceeds this machine's memory"))?;
    // At most 4 MiB, by the list of sizes.
    let mut json = vec![0; json_size];
    storage.read_at(&mut json, place.saturating_add(LEN))?;
    let before = fields.bytes(0, CSUM)?;
    let behind = bytes.get(CSUM.saturating_add(CSUM_LEN)..);
    let digest = hash.digest(&[before, &[0; CSUM_LEN], behind.unwrap_or_default(), &json]);
    if csum.get(..hash.len()) != Some(digest.as_slice()) {
        return Err(fields
            .corrupt(CSUM, "checksum does not match")
            .mismatch(hex(&digest), hex(csum.get(..hash.len()).unwrap_or(csum))));
    }
    Ok(Copy {
        place,
        hdr_size,
        seqid: fields.u64_be(16)?,
        label: text(&fields, 24, 48)?,
        uuid: text(&fields, 168, 40)?,
        json,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
