//! The LUKS1 header: "LUKS On-Disk Format Specification" 1.2.3, section 3 (figures 1 and 2).
//!
//! All numbers are big endian; offsets are counted in sectors of 512 bytes. The one cipher is used
//! for data and keyslots alike.

use std::num::NonZeroU32;

use rehost_block::{Fields, Result, Storage};

use crate::cipher::{IV_UNIT, SectorSize};
use crate::hash::Hash;
use crate::header::{Header, Keyslot, Segment, Version};
use crate::kdf::Kdf;
use crate::keyslot::{Access, Digest, Lock, MAX_KEY, MAX_STRIPES, Priority, spread_len};
use crate::split::Split;

/// Length of the header in bytes.
const LEN: u64 = 592;
const STRUCTURE: &str = "LUKS1 header";
const KEYSLOTS: usize = 208;
const KEYSLOT_LEN: usize = 48;
const ACTIVE: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

/// Reads the header at the start of `storage`.
pub(crate) fn parse(storage: &dyn Storage) -> Result<Header> {
    let mut bytes = [0; 592];
    storage.read_at(&mut bytes, 0)?;
    let fields = Fields::new(&bytes, STRUCTURE, 0);

    let cipher_name = text(&fields, 8, 32)?;
    let cipher_mode = text(&fields, 40, 32)?;
    let hash_spec = text(&fields, 72, 32)?;
    let payload = sectors(fields.u32_be(104)?);
    let key_bytes = fields.u32_be(108)?;
    if key_bytes == 0 || key_bytes > MAX_KEY {
        return Err(fields
            .corrupt(108, "key-bytes is out of range")
            .mismatch(format!("1 to {MAX_KEY}"), key_bytes));
    }
    let hash = Hash::named(&hash_spec)
        .ok_or_else(|| fields.unsupported(72, format!("hash {hash_spec:?} is not supported")))?;
    let digest = Digest {
        hash,
        expected: fields.bytes(112, 20)?.to_vec(),
        salt: fields.bytes(132, 32)?.to_vec(),
        iterations: positive(&fields, 164, "mk-digest-iter")?,
    };
    let encryption = format!("{cipher_name}-{cipher_mode}");
    let common = Common {
        payload,
        key_bytes,
        hash,
        encryption: &encryption,
    };
    let mut keyslots = Vec::new();
    for (number, base) in (0..8).zip((KEYSLOTS..).step_by(KEYSLOT_LEN)) {
        keyslots.extend(keyslot(&fields, number, base, &common)?);
    }
    Ok(Header {
        version: Version::Luks1,
        uuid: text(&fields, 168, 40)?,
        label: None,
        place: 0,
        keyslots,
        digests: vec![digest],
        segments: vec![Segment {
            kind: "crypt".to_owned(),
            integrity: None,
            offset: payload,
            len: None,
            iv_tweak: 0,
            encryption,
            sector: SectorSize::SMALL,
        }],
        tokens: Vec::new(),
        requirements: Vec::new(),
    })
}

/// What all keyslots share.
struct Common<'a> {
    payload: u64,
    key_bytes: u32,
    hash: Hash,
    encryption: &'a str,
}

fn keyslot(
    fields: &Fields<'_>,
    number: u32,
    base: usize,
    common: &Common<'_>,
) -> Result<Option<Keyslot>> {
    let field = |at: usize| base.saturating_add(at);
    match fields.u32_be(base)? {
        DISABLED => return Ok(None),
        ACTIVE => {}
        found => {
            return Err(fields
                .corrupt(base, format!("keyslot {number} is neither active nor not"))
                .mismatch(
                    format_args!("{ACTIVE:#010x} or {DISABLED:#010x}"),
                    format_args!("{found:#010x}"),
                ));
        }
    }
    let iterations = positive(fields, field(4), "password-iterations")?;
    let stripes = positive(fields, field(44), "stripes")?;
    let offset = sectors(fields.u32_be(field(40))?);
    if offset < LEN {
        return Err(fields
            .corrupt(field(40), "key material lies inside the header")
            .mismatch(format!("at least {LEN} bytes"), offset));
    }
    let end = offset.saturating_add(spread_len(common.key_bytes, stripes));
    // A payload offset of 0 says that the data is elsewhere.
    if common.payload != 0 && end > common.payload {
        return Err(fields
            .corrupt(field(40), "key material reaches into the data")
            .mismatch(format!("an end of at most {}", common.payload), end));
    }
    let access = if stripes.get() > MAX_STRIPES {
        Access::Unsupported(format!("spreads its key over {stripes} stripes"))
    } else {
        Access::Secret(Box::new(Lock {
            kdf: Kdf::Pbkdf2 {
                hash: common.hash,
                salt: fields.bytes(field(8), 32)?.to_vec(),
                iterations,
            },
            split: Split {
                hash: common.hash,
                stripes,
            },
            offset,
            encryption: common.encryption.to_owned(),
            area_key: common.key_bytes,
            key: common.key_bytes,
            digest: 0,
        }))
    };
    Ok(Some(Keyslot {
        number,
        priority: Priority::Normal,
        access,
    }))
}

fn positive(fields: &Fields<'_>, at: usize, name: &str) -> Result<NonZeroU32> {
    NonZeroU32::new(fields.u32_be(at)?).ok_or_else(|| fields.corrupt(at, format!("{name} is 0")))
}

fn sectors(count: u32) -> u64 {
    u64::from(count).saturating_mul(IV_UNIT)
}

/// A string padded with zeroes.
pub(crate) fn text(fields: &Fields<'_>, at: usize, len: usize) -> Result<String> {
    let bytes = fields.bytes(at, len)?;
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(fields.corrupt(at, "string is not printable text")),
    }
}
