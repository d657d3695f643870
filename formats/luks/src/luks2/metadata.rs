//! The LUKS2 metadata: "LUKS2 On-Disk Format Specification" 1.1.1, section 3, "JSON area".
//!
//! The raw objects stay in this module, under the specification's names. Members that it does not
//! name are passed over, as the specification wants; types that are not known leave their keyslot
//! unusable and the rest of the volume usable.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use argon2::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rehost_block::{Error, Result};
use serde::{Deserialize, Deserializer, de};

use super::{Copy, LEN};
use crate::cipher::SectorSize;
use crate::hash::Hash;
use crate::header::{Keyslot, Segment, Token};
use crate::kdf::Kdf;
use crate::keyslot::{Access, Digest, Lock, MAX_KEY, MAX_STRIPES, Priority, spread_len};
use crate::split::Split;

/// A number written as a decimal string, because JSON's own lose digits.
#[derive(Debug, Clone, Copy)]
struct Decimal(u64);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

#[derive(Deserialize)]
struct RawMetadata {
    keyslots: BTreeMap<u32, RawKeyslot>,
    #[serde(default)]
    tokens: BTreeMap<u32, RawToken>,
    segments: BTreeMap<u32, RawSegment>,
    digests: BTreeMap<u32, RawDigest>,
    config: RawConfig,
}

#[derive(Deserialize)]
struct RawKeyslot {
    r#type: String,
    key_size: u32,
    af: Option<RawAf>,
    area: Option<RawArea>,
    kdf: Option<RawKdf>,
    #[serde(default = "normal")]
    priority: u32,
}

fn normal() -> u32 {
    1
}

#[derive(Deserialize)]
struct RawAf {
    r#type: String,
    stripes: Option<NonZeroU32>,
    hash: Option<String>,
}

#[derive(Deserialize)]
struct RawArea {
    r#type: String,
    offset: Decimal,
    size: Decimal,
    encryption: Option<String>,
    key_size: Option<u32>,
}

#[derive(Deserialize)]
struct RawKdf {
    r#type: String,
    salt: Option<String>,
    hash: Option<String>,
    iterations: Option<NonZeroU32>,
    time: Option<u32>,
    memory: Option<u32>,
    cpus: Option<u32>,
}

#[derive(Deserialize)]
struct RawToken {
    r#type: String,
    #[serde(default)]
    keyslots: Vec<Decimal>,
}

#[derive(Deserialize)]
struct RawSegment {
    r#type: String,
    offset: Decimal,
    size: String,
    iv_tweak: Option<Decimal>,
    encryption: Option<String>,
    sector_size: Option<u32>,
    integrity: Option<RawIntegrity>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct RawIntegrity {
    r#type: String,
}

#[derive(Deserialize)]
struct RawDigest {
    r#type: String,
    keyslots: Vec<Decimal>,
    segments: Vec<Decimal>,
    salt: Option<String>,
    digest: Option<String>,
    hash: Option<String>,
    iterations: Option<NonZeroU32>,
}

#[derive(Deserialize)]
struct RawConfig {
    json_size: Decimal,
    keyslots_size: Decimal,
    #[serde(default)]
    requirements: RawRequirements,
}

#[derive(Deserialize, Default)]
struct RawRequirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

/// What the header takes from the JSON area.
pub(super) struct Metadata {
    pub(super) keyslots: Vec<Keyslot>,
    pub(super) digests: Vec<Digest>,
    pub(super) segments: Vec<Segment>,
    pub(super) tokens: Vec<Token>,
    pub(super) requirements: Vec<String>,
}

/// The area's place, for errors, and what the objects are checked against.
struct Reader {
    /// Byte offset of the JSON area.
    base: u64,
    /// The bytes of the container in which keyslot areas lie.
    areas: std::ops::Range<u64>,
}

/// Reads the JSON area of `copy`.
pub(super) fn parse(copy: &Copy) -> Result<Metadata> {
    let mut reader = Reader {
        base: copy.place.saturating_add(LEN),
        areas: 0..0,
    };
    let text = copy.json.split(|byte| *byte == 0).next();
    let mut raw: RawMetadata =
        serde_json::from_slice(text.unwrap_or_default()).map_err(|error| {
            reader
                .corrupt("JSON is not what the format asks for")
                .because(error)
        })?;
    // What a reencryption keeps to return to; none of it is the disk.
    let is_backup = |flag: &String| flag.starts_with("backup-");
    raw.segments
        .retain(|_, segment| !segment.flags.iter().any(is_backup));
    let room = copy.hdr_size.saturating_sub(LEN);
    if raw.config.json_size.0 != room {
        return Err(reader
            .corrupt("json_size is not the size of the JSON area")
            .mismatch(room, raw.config.json_size.0));
    }
    let areas = copy.hdr_size.saturating_mul(2);
    reader.areas = areas..areas.saturating_add(raw.config.keyslots_size.0);

    let segments = reader.segments(&raw)?;
    let mut digests = Vec::new();
    // Which digest, of those that check the data's key, goes with a keyslot.
    let mut bound: BTreeMap<u64, Result<usize, String>> = BTreeMap::new();
    for (number, digest) in &raw.digests {
        let covered = |segment: &u32| digest.segments.iter().any(|s| s.0 == u64::from(*segment));
        if !raw.segments.keys().any(covered) {
            continue;
        }
        if !raw.segments.keys().all(covered) {
            // Only a reencryption has segments with two keys.
            for keyslot in &digest.keyslots {
                let why = format!("digest {number} covers only a part of the data");
                bound.insert(keyslot.0, Err(why));
            }
            continue;
        }
        let parsed = reader.digest(*number, digest)?.map(|digest| {
            digests.push(digest);
            digests.len().saturating_sub(1)
        });
        for keyslot in &digest.keyslots {
            bound.insert(keyslot.0, parsed.clone());
        }
    }
    let mut keyslots = Vec::new();
    for (number, raw) in &raw.keyslots {
        let digest = bound.get(&u64::from(*number)).cloned();
        keyslots.push(reader.keyslot(*number, raw, digest)?);
    }
    let tokens = raw.tokens.into_values().map(|token| Token {
        kind: token.r#type,
        keyslots: numbers(&token.keyslots),
    });
    Ok(Metadata {
        keyslots,
        digests,
        segments,
        tokens: tokens.collect(),
        requirements: raw.config.requirements.mandatory,
    })
}

fn numbers(list: &[Decimal]) -> Vec<u32> {
    list.iter()
        .filter_map(|number| u32::try_from(number.0).ok())
        .collect()
}

impl Reader {
    fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(what)
            .in_structure("LUKS2 metadata")
            .at(self.base)
    }

    fn missing(&self, of: &str, number: u32, name: &str) -> Error {
        self.corrupt(format!("{of} {number} has no {name}"))
    }

    fn base64(&self, of: &str, number: u32, name: &str, text: Option<&String>) -> Result<Vec<u8>> {
        let text = text.ok_or_else(|| self.missing(of, number, name))?;
        STANDARD.decode(text).map_err(|error| {
            self.corrupt(format!("{name} of {of} {number} is not base64"))
                .because(error)
        })
    }

    /// In the order of their numbers, which is that of the plain disk.
    fn segments(&self, raw: &RawMetadata) -> Result<Vec<Segment>> {
        let last = raw.segments.keys().next_back();
        if last.is_none() {
            return Err(self.corrupt("there is no segment"));
        }
        let segment = |(number, raw): (&u32, &RawSegment)| {
            let (offset, len) = match raw.size.as_str() {
                "dynamic" if Some(number) == last => (raw.offset.0, None),
                text => match text.parse::<u64>() {
                    Ok(len) => (raw.offset.0, Some(len)),
                    Err(_) => {
                        let what = format!("size of segment {number} is not a length");
                        return Err(self.corrupt(what).mismatch("a number of bytes", text));
                    }
                },
            };
            let size = raw.sector_size.unwrap_or(512);
            let sector = SectorSize::new(size).ok_or_else(|| {
                self.corrupt(format!("sector_size of segment {number} is not known"))
                    .mismatch("512, 1024, 2048 or 4096", size)
            })?;
            if SectorSize::SMALL.within(offset) != 0
                || len.is_some_and(|len| sector.within(len) != 0)
            {
                let what = format!("segment {number} is not made of whole sectors");
                return Err(self.corrupt(what));
            }
            let encryption = match (&raw.encryption, raw.r#type.as_str()) {
                (Some(encryption), _) => encryption.clone(),
                (None, "crypt") => return Err(self.missing("segment", *number, "encryption")),
                (None, _) => String::new(),
            };
            Ok(Segment {
                kind: raw.r#type.clone(),
                integrity: raw.integrity.as_ref().map(|raw| raw.r#type.clone()),
                offset,
                len,
                iv_tweak: raw.iv_tweak.map_or(0, |tweak| tweak.0),
                encryption,
                sector,
            })
        };
        raw.segments.iter().map(segment).collect()
    }

    /// The digest, or why it cannot be used.
    fn digest(&self, number: u32, raw: &RawDigest) -> Result<Result<Digest, String>> {
        if raw.r#type != "pbkdf2" {
            return Ok(Err(format!("its digest is of type {:?}", raw.r#type)));
        }
        let name = raw.hash.as_deref();
        let name = name.ok_or_else(|| self.missing("digest", number, "hash"))?;
        let Some(hash) = Hash::named(name) else {
            return Ok(Err(format!("its digest uses hash {name:?}")));
        };
        let iterations = raw
            .iterations
            .ok_or_else(|| self.missing("digest", number, "iterations"))?;
        let expected = self.base64("digest", number, "digest", raw.digest.as_ref())?;
        if expected.is_empty() || expected.len() > hash.len() {
            return Err(self
                .corrupt(format!("digest {number} is of a wrong length"))
                .mismatch(format!("1 to {} bytes", hash.len()), expected.len()));
        }
        Ok(Ok(Digest {
            hash,
            salt: self.base64("digest", number, "salt", raw.salt.as_ref())?,
            iterations,
            expected,
        }))
    }

    fn keyslot(
        &self,
        number: u32,
        raw: &RawKeyslot,
        digest: Option<Result<usize, String>>,
    ) -> Result<Keyslot> {
        let access = match (raw.r#type.as_str(), digest) {
            ("luks2", Some(Ok(digest))) => match self.lock(number, raw, digest)? {
                Ok(lock) => Access::Secret(Box::new(lock)),
                Err(why) => Access::Unsupported(why),
            },
            ("luks2", Some(Err(why))) => Access::Unsupported(why),
            ("luks2", None) => Access::Unsupported("is not bound to the data".to_owned()),
            (kind, _) => Access::Unsupported(format!("is of type {kind:?}")),
        };
        Ok(Keyslot {
            number,
            priority: match raw.priority {
                0 => Priority::Ignore,
                1 => Priority::Normal,
                _ => Priority::Prefer,
            },
            access,
        })
    }

    /// How the keyslot is opened, or why it cannot be.
    fn lock(&self, number: u32, raw: &RawKeyslot, digest: usize) -> Result<Result<Lock, String>> {
        const OF: &str = "keyslot";
        let missing = |name| self.missing(OF, number, name);
        let af = raw.af.as_ref().ok_or_else(|| missing("af"))?;
        let area = raw.area.as_ref().ok_or_else(|| missing("area"))?;
        let kdf = raw.kdf.as_ref().ok_or_else(|| missing("kdf"))?;
        if af.r#type != "luks1" {
            return Ok(Err(format!("splits its key by {:?}", af.r#type)));
        }
        if area.r#type != "raw" {
            return Ok(Err(format!("has an area of type {:?}", area.r#type)));
        }
        let area_key = area
            .key_size
            .ok_or_else(|| missing("key_size of its area"))?;
        for key in [raw.key_size, area_key] {
            if key == 0 || key > MAX_KEY {
                return Err(self
                    .corrupt(format!("key_size of keyslot {number} is out of range"))
                    .mismatch(format!("1 to {MAX_KEY}"), key));
            }
        }
        let stripes = af.stripes.ok_or_else(|| missing("stripes"))?;
        if stripes.get() > MAX_STRIPES {
            return Ok(Err(format!("spreads its key over {stripes} stripes")));
        }
        let name = af.hash.as_deref().ok_or_else(|| missing("hash"))?;
        let Some(hash) = Hash::named(name) else {
            return Ok(Err(format!("spreads its key with hash {name:?}")));
        };
        let (offset, size) = (area.offset.0, area.size.0);
        let end = offset.checked_add(size);
        if offset < self.areas.start || end.is_none_or(|end| end > self.areas.end) {
            return Err(self
                .corrupt(format!(
                    "area of keyslot {number} is not in the keyslots area"
                ))
                .mismatch(
                    format!("{} to {}", self.areas.start, self.areas.end),
                    format!("{size} bytes at {offset}"),
                ));
        }
        let need = spread_len(raw.key_size, stripes);
        if size < need {
            return Err(self
                .corrupt(format!("area of keyslot {number} is too small for its key"))
                .mismatch(format!("at least {need} bytes"), size));
        }
        let kdf = match self.kdf(number, kdf)? {
            Ok(kdf) => kdf,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Lock {
            kdf,
            split: Split { hash, stripes },
            offset,
            encryption: area
                .encryption
                .clone()
                .ok_or_else(|| missing("encryption"))?,
            area_key,
            key: raw.key_size,
            digest,
        }))
    }

    fn kdf(&self, number: u32, raw: &RawKdf) -> Result<Result<Kdf, String>> {
        const OF: &str = "keyslot";
        let missing = |name| self.missing(OF, number, name);
        let salt = || self.base64(OF, number, "salt", raw.salt.as_ref());
        let variant = match raw.r#type.as_str() {
            "pbkdf2" => {
                let name = raw.hash.as_deref().ok_or_else(|| missing("hash"))?;
                let Some(hash) = Hash::named(name) else {
                    return Ok(Err(format!("derives its key with hash {name:?}")));
                };
                return Ok(Ok(Kdf::Pbkdf2 {
                    hash,
                    salt: salt()?,
                    iterations: raw.iterations.ok_or_else(|| missing("iterations"))?,
                }));
            }
            "argon2i" => Algorithm::Argon2i,
            "argon2id" => Algorithm::Argon2id,
            kind => return Ok(Err(format!("derives its key with {kind:?}"))),
        };
        Ok(Ok(Kdf::Argon2 {
            variant,
            salt: salt()?,
            time: raw.time.ok_or_else(|| missing("time"))?,
            memory: raw.memory.ok_or_else(|| missing("memory"))?,
            cpus: raw.cpus.ok_or_else(|| missing("cpus"))?,
        }))
    }
}
