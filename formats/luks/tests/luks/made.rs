//! Volumes made byte by byte, whose every field a test can change. Their key is spread over one
//! stripe, which leaves it as it is, so that nothing but the cipher is needed to make one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rehost_block::Memory;
use rehost_luks::{CipherSpec, SectorCipher, SectorSize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::noise;

pub(crate) const PASSPHRASE: &str = "correct horse";
/// Enough for qemu-img, which takes no fewer.
const ITERATIONS: u32 = 1000;
const SALT: [u8; 32] = [0x5a; 32];
/// Bytes of a made volume's data.
pub(crate) const DATA: usize = 300 * 1024;

pub(crate) fn volume_key() -> Vec<u8> {
    noise(99, 64)
}

fn pbkdf2_with(hash: &str, secret: &[u8], len: usize) -> Vec<u8> {
    let mut key = vec![0; len];
    let derive = match hash {
        "sha1" => pbkdf2::pbkdf2_hmac::<sha1::Sha1>,
        "sha224" => pbkdf2::pbkdf2_hmac::<sha2::Sha224>,
        "sha256" => pbkdf2::pbkdf2_hmac::<Sha256>,
        "sha384" => pbkdf2::pbkdf2_hmac::<sha2::Sha384>,
        "sha512" => pbkdf2::pbkdf2_hmac::<sha2::Sha512>,
        "ripemd160" => pbkdf2::pbkdf2_hmac::<ripemd::Ripemd160>,
        _ => panic!("{hash}"),
    };
    derive(secret, &SALT, ITERATIONS, &mut key);
    key
}

fn pbkdf2(secret: &[u8], len: usize) -> Vec<u8> {
    pbkdf2_with("sha256", secret, len)
}

fn hashed(hash: &str, number: u32, piece: &[u8]) -> Vec<u8> {
    let bytes = [&number.to_be_bytes()[..], piece].concat();
    match hash {
        "sha1" => sha1::Sha1::digest(bytes).to_vec(),
        "sha224" => sha2::Sha224::digest(bytes).to_vec(),
        "sha256" => Sha256::digest(bytes).to_vec(),
        "sha384" => sha2::Sha384::digest(bytes).to_vec(),
        "sha512" => sha2::Sha512::digest(bytes).to_vec(),
        "ripemd160" => ripemd::Ripemd160::digest(bytes).to_vec(),
        _ => panic!("{hash}"),
    }
}

/// The key spread over stripes: all but the last are noise.
fn spread(hash: &str, key: &[u8], stripes: usize) -> Vec<u8> {
    let mut spread = noise(12, key.len() * (stripes - 1));
    let mut mixed = vec![0; key.len()];
    for stripe in spread.chunks(key.len()) {
        for (byte, other) in mixed.iter_mut().zip(stripe) {
            *byte ^= other;
        }
        let size = hashed(hash, 0, &[]).len();
        let pieces = (0..).zip(mixed.chunks(size));
        mixed = pieces
            .flat_map(|(number, piece)| hashed(hash, number, piece)[..piece.len()].to_vec())
            .collect();
    }
    spread.extend(mixed.iter().zip(key).map(|(mixed, key)| mixed ^ key));
    spread
}

/// A LUKS1 volume to be made.
pub(crate) struct Luks1 {
    pub(crate) cipher: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) hash: &'static str,
    /// Length of the volume key in bytes.
    pub(crate) key: usize,
    pub(crate) stripes: usize,
    pub(crate) passphrase: &'static str,
}

impl Default for Luks1 {
    fn default() -> Self {
        Self {
            cipher: "aes",
            mode: "xts-plain64",
            hash: "sha256",
            key: 64,
            stripes: 1,
            passphrase: PASSPHRASE,
        }
    }
}

impl Luks1 {
    /// The volume key as a keyslot keeps it.
    fn keyslot_area(&self) -> Vec<u8> {
        let mut area = spread(self.hash, &volume_key()[..self.key], self.stripes);
        area.resize(area.len().next_multiple_of(512), 0);
        let spec: CipherSpec = format!("{}-{}", self.cipher, self.mode).parse().unwrap();
        let key = pbkdf2_with(self.hash, self.passphrase.as_bytes(), self.key);
        SectorCipher::new(&spec, &key, SectorSize::SMALL)
            .unwrap()
            .encrypt(&mut area, 0)
            .unwrap();
        area
    }

    /// Byte offset of the spread key. qemu-img wants 4096 bytes before it.
    fn area_at(&self) -> usize {
        if self.stripes == 1 { 1024 } else { 4096 }
    }

    /// Header, one keyslot, noise as data behind it.
    pub(crate) fn build(&self) -> Vec<u8> {
        let area = self.keyslot_area();
        // qemu-img wants room for the keys of unused keyslots too.
        let (room, slots) = match self.stripes {
            1 => (512, 1),
            _ => (area.len().next_multiple_of(4096), 8),
        };
        let data = (self.area_at() + slots * room).next_multiple_of(4096);
        let mut volume = noise(1, data + DATA);
        volume[..592].fill(0);
        let mut put = |at: usize, bytes: &[u8]| volume[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"LUKS\xba\xbe\x00\x01");
        put(8, self.cipher.as_bytes());
        put(40, self.mode.as_bytes());
        put(72, self.hash.as_bytes());
        put(104, &(data as u32 / 512).to_be_bytes());
        put(108, &(self.key as u32).to_be_bytes());
        put(112, &pbkdf2_with(self.hash, &volume_key()[..self.key], 20));
        put(132, &SALT);
        put(164, &ITERATIONS.to_be_bytes());
        put(168, b"01234567-89ab-cdef-0123-456789abcdef");
        for slot in 0..8 {
            let sector = ((self.area_at() + slot * room) / 512) as u32;
            let slot = 208 + slot * 48;
            put(slot, &0xdead_u32.to_be_bytes());
            put(slot + 40, &sector.to_be_bytes());
            put(slot + 44, &(self.stripes as u32).to_be_bytes());
        }
        put(208, &0x00ac_71f3_u32.to_be_bytes());
        put(212, &ITERATIONS.to_be_bytes());
        put(216, &SALT);
        put(self.area_at(), &area);
        volume
    }
}

/// [`Luks1`] as it is by default: 4096 bytes, then the data.
pub(crate) fn luks1() -> Vec<u8> {
    Luks1::default().build()
}

/// The metadata of [`luks2`].
pub(crate) fn metadata() -> Value {
    json!({
        "keyslots": {"0": {
            "type": "luks2",
            "key_size": 64,
            "af": {"type": "luks1", "stripes": 1, "hash": "sha256"},
            "area": {"type": "raw", "offset": "32768", "size": "4096",
                "encryption": "aes-xts-plain64", "key_size": 64},
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": ITERATIONS,
                "salt": STANDARD.encode(SALT)},
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": "40960", "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": 512,
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256",
            "iterations": ITERATIONS, "salt": STANDARD.encode(SALT),
            "digest": STANDARD.encode(pbkdf2(&volume_key(), 32)),
        }},
        "config": {"json_size": "12288", "keyslots_size": "8192"},
    })
}

/// A LUKS2 volume with that metadata: two headers of 16 KiB, one keyslot, noise as data from byte
/// 40960.
pub(crate) fn luks2(metadata: &Value) -> Vec<u8> {
    let mut volume = noise(2, 40960 + DATA);
    let area = Luks1::default().keyslot_area();
    volume[32768..32768 + area.len()].copy_from_slice(&area);
    for place in [0, 16384] {
        let copy = &mut volume[place..place + 16384];
        copy.fill(0);
        let mut put = |at: usize, bytes: &[u8]| copy[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, if place == 0 { b"LUKS" } else { b"SKUL" });
        put(4, b"\xba\xbe\x00\x02");
        put(8, &16384u64.to_be_bytes());
        put(16, &7u64.to_be_bytes());
        put(24, b"made");
        put(72, b"sha256");
        put(168, b"01234567-89ab-cdef-0123-456789abcdef");
        put(256, &(place as u64).to_be_bytes());
        put(4096, metadata.to_string().as_bytes());
        seal(&mut volume, place);
    }
    volume
}

/// Makes the checksum of the LUKS2 header at `place` right.
pub(crate) fn seal(volume: &mut [u8], place: usize) {
    let copy = &mut volume[place..place + 16384];
    copy[448..512].fill(0);
    let digest = Sha256::digest(&*copy);
    copy[448..480].copy_from_slice(&digest);
}

pub(crate) fn memory(volume: Vec<u8>) -> Arc<Memory> {
    Arc::new(Memory::new("volume", volume))
}
