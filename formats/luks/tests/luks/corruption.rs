//! One changed field, one named error.

use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Storage};
use rehost_luks::{Limits, Secret, Version, detect, parse};
use serde_json::{Value, json};

use crate::made::{DATA, PASSPHRASE, luks1, luks2, memory, metadata, seal, volume_key};
use crate::support::{open_storage, read_all};

fn secret() -> Secret {
    Secret::passphrase(PASSPHRASE)
}

/// What opening `volume` fails with.
fn refused(volume: Vec<u8>) -> Error {
    match open_storage(memory(volume), &secret()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

fn assert_names(error: &Error, kind: Kind, at: Option<u64>, words: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(words), "{words:?} is not in: {text}");
    if at.is_some() {
        assert_eq!(error.offset(), at, "{text}");
    }
    assert!(text.starts_with("volume: "), "{text}");
}

#[test]
fn made_volumes_open() {
    let one = memory(luks1());
    let two = memory(luks2(&metadata()));
    assert_eq!(detect(&*one).unwrap(), Some(Version::Luks1));
    assert_eq!(detect(&*two).unwrap(), Some(Version::Luks2));
    for volume in [one, two] {
        let (disk, key) = open_storage(volume, &secret()).unwrap();
        assert_eq!(disk.size(), DATA as u64);
        assert_eq!(key.expose(), volume_key());
        assert_eq!(key.keyslot(), 0);
    }
}

#[test]
fn each_field_of_a_luks1_header_has_its_error() {
    /// Where, what, and the error: its kind, its offset and a part of its text.
    type Case = (usize, &'static [u8], Kind, Option<u64>, &'static str);
    let cases: [Case; 18] = [
        (0, b"M", Kind::Corrupt, Some(0), "no LUKS header"),
        (4, b"\xde\xad", Kind::Unsupported, Some(0), "reencryption"),
        (7, &[3], Kind::Unsupported, Some(6), "version"),
        (8, b"des", Kind::Unsupported, None, "algorithm \"des\""),
        (8, b"\xff", Kind::Corrupt, Some(8), "not printable"),
        (40, b"lrw-benbi", Kind::Unsupported, None, "mode \"lrw\""),
        (
            44,
            b"random\0",
            Kind::Unsupported,
            None,
            "iv generator \"random\"",
        ),
        (72, b"whirlpool", Kind::Unsupported, Some(72), "whirlpool"),
        (104, &[0, 0, 0, 0], Kind::Unsupported, Some(0), "detached"),
        (
            104,
            &[0, 0, 0, 2],
            Kind::Corrupt,
            Some(248),
            "into the data",
        ),
        (
            104,
            &[1, 0, 0, 0],
            Kind::Corrupt,
            Some(0x2_0000_0000),
            "container ends",
        ),
        (108, &[0, 0, 0, 0], Kind::Corrupt, Some(108), "key-bytes"),
        (108, &[0, 0, 255, 0], Kind::Corrupt, Some(108), "key-bytes"),
        (
            108,
            &[0, 0, 0, 16],
            Kind::Unsupported,
            None,
            "key of 128 bits",
        ),
        (
            164,
            &[0, 0, 0, 0],
            Kind::Corrupt,
            Some(164),
            "mk-digest-iter",
        ),
        (208, &[1], Kind::Corrupt, Some(208), "keyslot 0"),
        (
            212,
            &[0, 0, 0, 0],
            Kind::Corrupt,
            Some(212),
            "password-iterations",
        ),
        (
            248,
            &[0, 0, 0, 1],
            Kind::Corrupt,
            Some(248),
            "inside the header",
        ),
    ];
    for (at, bytes, kind, place, words) in cases {
        let mut volume = luks1();
        volume[at..at + bytes.len()].copy_from_slice(bytes);
        assert_names(&refused(volume), kind, place, words);
    }
}

#[test]
fn a_hostile_luks1_header_costs_nothing() {
    for (at, words) in [(164, "PBKDF2 iterations"), (212, "PBKDF2 iterations")] {
        let mut volume = luks1();
        volume[at] = 0xff;
        assert_names(&refused(volume), Kind::Unsupported, None, words);
    }
    let mut volume = luks1();
    volume[104..108].fill(0xff);
    volume[252..256].copy_from_slice(&5000u32.to_be_bytes());
    assert_names(&refused(volume), Kind::Unsupported, None, "5000 stripes");
}

#[test]
fn a_cut_volume_is_corrupt_wherever_it_is_cut() {
    for (whole, header) in [(luks1(), 4096), (luks2(&metadata()), 40960)] {
        for len in [0, 1, 7, 8, 500, 592, 1030, 4095, 5000, 20000, 32800, 40959] {
            if len < header {
                let error = refused(whole[..len].to_vec());
                assert_names(&error, Kind::Corrupt, None, "");
            }
        }
        let (disk, _) = open_storage(memory(whole[..header + 1000].to_vec()), &secret()).unwrap();
        assert_eq!(disk.size(), 512);
    }
}

#[test]
fn a_wrong_key_says_which_keyslots_were_tried() {
    let wrong = Secret::passphrase("battery staple");
    for volume in [luks1(), luks2(&metadata())] {
        let error = open_storage(memory(volume), &wrong).unwrap_err();
        assert_names(&error, Kind::Usage, None, "no keyslot opens with this key");
        assert!(error.to_string().contains("keyslot 0 tried"), "{error}");
    }
    let mut erased = luks1();
    erased[208..212].copy_from_slice(&0xdead_u32.to_be_bytes());
    let error = open_storage(memory(erased), &wrong).unwrap_err();
    assert_names(&error, Kind::Unsupported, None, "none is in use");
}

#[test]
fn each_field_of_a_luks2_header_has_its_error() {
    let cases: [(usize, &[u8], Kind, &str); 8] = [
        (0, b"M", Kind::Corrupt, "no LUKS header"),
        (7, &[9], Kind::Unsupported, "version"),
        (8, &[1], Kind::Corrupt, "hdr_size"),
        (72, b"crc32\0", Kind::Unsupported, "crc32"),
        (168, b"\x07", Kind::Corrupt, "not printable"),
        (256, &[1], Kind::Corrupt, "hdr_offset"),
        (448, &[0, 0, 0], Kind::Corrupt, "checksum"),
        (5000, &[1], Kind::Corrupt, "checksum"),
    ];
    for (at, bytes, kind, words) in cases {
        let mut volume = luks2(&metadata());
        for place in [0, 16384] {
            let at = place + at;
            volume[at..at + bytes.len()].copy_from_slice(bytes);
            if words != "checksum" {
                seal(&mut volume, place);
            }
        }
        assert_names(&refused(volume), kind, None, words);
    }
}

#[test]
fn a_damaged_first_copy_leaves_the_second() {
    for damage in [0, 8, 460, 4100] {
        let mut volume = luks2(&metadata());
        volume[damage] ^= 0x40;
        let storage = memory(volume);
        let header = parse(&*storage).unwrap();
        assert!(header.is_second_copy());
        assert_eq!(header.label(), Some("made"));
        header
            .unlock(&*storage, &secret(), &Limits::default())
            .unwrap();
    }
}

#[test]
fn the_copy_with_the_higher_seqid_counts() {
    let mut volume = luks2(&metadata());
    volume[16384 + 23] += 1;
    volume[16384 + 24] = b'M';
    seal(&mut volume, 16384);
    let header = parse(&*memory(volume)).unwrap();
    assert_eq!(header.label(), Some("Made"));
}

/// Sets the member that `pointer` names; removes it where `value` is null.
fn edited(pointer: &str, value: Value) -> Vec<u8> {
    let mut metadata = metadata();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = metadata
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap();
    if value.is_null() {
        parent.remove(name).unwrap();
    } else {
        parent.insert(name.to_owned(), value);
    }
    luks2(&metadata)
}

#[test]
fn each_member_of_the_metadata_has_its_error() {
    use Kind::{Corrupt, Unsupported};
    let cases = [
        ("/config/json_size", json!("4096"), Corrupt, "json_size"),
        ("/config/json_size", json!("-1"), Corrupt, "JSON is not"),
        ("/config/json_size", json!(12288), Corrupt, "JSON is not"),
        ("/config", Value::Null, Corrupt, "missing field `config`"),
        (
            "/config/requirements",
            json!({"mandatory": ["online-reencrypt-v2"]}),
            Unsupported,
            "middle of a reencryption",
        ),
        (
            "/config/requirements",
            json!({"mandatory": ["opal"]}),
            Unsupported,
            "\"opal\"",
        ),
        (
            "/segments/0/type",
            json!("linear"),
            Unsupported,
            "\"linear\"",
        ),
        (
            "/segments/0/type",
            json!("hw-opal-crypt"),
            Unsupported,
            "\"hw-opal-crypt\"",
        ),
        (
            "/segments/0/integrity",
            json!({"type": "hmac(sha256)"}),
            Unsupported,
            "hmac(sha256)",
        ),
        (
            "/segments/0/encryption",
            json!("capi:xts(aes)-plain64"),
            Unsupported,
            "capi:xts(aes)",
        ),
        (
            "/segments/0/encryption",
            json!("cipher_null-ecb"),
            Unsupported,
            "cipher_null",
        ),
        (
            "/segments/0/encryption",
            json!("aes-cbc-essiv:md5"),
            Unsupported,
            "md5",
        ),
        (
            "/segments/0/encryption",
            Value::Null,
            Corrupt,
            "segment 0 has no encryption",
        ),
        (
            "/segments/0/sector_size",
            json!(513),
            Corrupt,
            "sector_size",
        ),
        (
            "/segments/0/offset",
            json!("40961"),
            Corrupt,
            "whole sectors",
        ),
        ("/segments/0/offset", json!("0"), Unsupported, "detached"),
        (
            "/segments/0/offset",
            json!("409600000"),
            Corrupt,
            "container ends",
        ),
        (
            "/segments/0/size",
            json!("1048576"),
            Corrupt,
            "container ends",
        ),
        (
            "/segments/0/size",
            json!("18446744073709551104"),
            Corrupt,
            "container ends",
        ),
        ("/segments/0/size", json!("all"), Corrupt, "not a length"),
        ("/segments", json!({}), Corrupt, "no segment"),
        ("/digests/0/type", json!("sha3"), Unsupported, "\"sha3\""),
        (
            "/digests/0/hash",
            json!("blake2b"),
            Unsupported,
            "\"blake2b\"",
        ),
        ("/digests/0/digest", json!("AA*A"), Corrupt, "not base64"),
        ("/digests/0/digest", json!(""), Corrupt, "wrong length"),
        ("/digests/0/iterations", json!(0), Corrupt, "JSON is not"),
        (
            "/digests/0/iterations",
            json!(4_000_000_000u32),
            Unsupported,
            "iterations",
        ),
        (
            "/digests/0/segments",
            json!([]),
            Unsupported,
            "not bound to the data",
        ),
        (
            "/keyslots/0/type",
            json!("reencrypt"),
            Unsupported,
            "\"reencrypt\"",
        ),
        ("/keyslots/0/key_size", json!(0), Corrupt, "key_size"),
        ("/keyslots/0/key_size", json!(4096), Corrupt, "key_size"),
        ("/keyslots/0/key_size", json!(-1), Corrupt, "JSON is not"),
        (
            "/keyslots/0/af",
            Value::Null,
            Corrupt,
            "keyslot 0 has no af",
        ),
        (
            "/keyslots/0/af/type",
            json!("luks9"),
            Unsupported,
            "\"luks9\"",
        ),
        ("/keyslots/0/af/hash", json!("md5"), Unsupported, "\"md5\""),
        (
            "/keyslots/0/af/stripes",
            json!(100_000),
            Unsupported,
            "100000 stripes",
        ),
        ("/keyslots/0/af/stripes", json!(4000), Corrupt, "too small"),
        (
            "/keyslots/0/area/type",
            json!("journal"),
            Unsupported,
            "\"journal\"",
        ),
        (
            "/keyslots/0/area/offset",
            json!("16384"),
            Corrupt,
            "keyslots area",
        ),
        (
            "/keyslots/0/area/size",
            json!("18446744073709551615"),
            Corrupt,
            "keyslots area",
        ),
        (
            "/keyslots/0/area/encryption",
            json!("aes-ctr-plain64"),
            Unsupported,
            "\"ctr\"",
        ),
        (
            "/keyslots/0/area/key_size",
            json!(17),
            Unsupported,
            "136 bits",
        ),
        (
            "/keyslots/0/kdf/type",
            json!("scrypt"),
            Unsupported,
            "\"scrypt\"",
        ),
        ("/keyslots/0/kdf/hash", json!("md5"), Unsupported, "\"md5\""),
        (
            "/keyslots/0/kdf/iterations",
            json!(4_000_000_000u32),
            Unsupported,
            "iterations",
        ),
        ("/keyslots/0/kdf/salt", Value::Null, Corrupt, "no salt"),
        (
            "/keyslots/0/kdf/type",
            json!("argon2id"),
            Corrupt,
            "no time",
        ),
        (
            "/keyslots/0/kdf",
            json!({"type": "argon2id", "time": 1, "memory": 8_000_000, "cpus": 1,
            "salt": "AAAAAAAAAAAAAAAA"}),
            Unsupported,
            "bytes of memory",
        ),
        (
            "/keyslots/0/kdf",
            json!({"type": "argon2i", "time": 1, "memory": 64, "cpus": 0,
            "salt": "AAAAAAAAAAAAAAAA"}),
            Corrupt,
            "Argon2",
        ),
        (
            "/keyslots/0/kdf",
            json!({"type": "argon2i", "time": 1, "memory": 64, "cpus": 1,
            "salt": "AAAA"}),
            Corrupt,
            "Argon2",
        ),
    ];
    for (pointer, value, kind, words) in cases {
        let error = refused(edited(pointer, value));
        assert_names(&error, kind, None, words);
        assert!(error.structure().is_some(), "{error}");
    }
}

#[test]
fn a_keyslot_that_cannot_be_used_leaves_the_others() {
    let mut metadata = metadata();
    let good = metadata["keyslots"]["0"].clone();
    let mut greedy = good.clone();
    greedy["kdf"]["iterations"] = json!(4_000_000_000u32);
    greedy["priority"] = json!(2);
    metadata["keyslots"] = json!({"0": greedy, "1": {"type": "fancy", "key_size": 64}, "5": good});
    metadata["digests"]["0"]["keyslots"] = json!(["0", "1", "5"]);
    metadata["tokens"] = json!({"0": {"type": "systemd-tpm2", "keyslots": ["1"]}});
    let volume = luks2(&metadata);
    let (_, key) = open_storage(memory(volume.clone()), &secret()).unwrap();
    assert_eq!(key.keyslot(), 5);
    let error = open_storage(memory(volume), &Secret::passphrase("")).unwrap_err();
    assert_names(
        &error,
        Kind::Usage,
        None,
        "keyslot 5 tried, keyslot 0 asks for 4000000000",
    );
    let text = error.to_string();
    assert!(
        text.contains("keyslot 1 (of token \"systemd-tpm2\") is of type \"fancy\""),
        "{text}"
    );
}

#[test]
fn two_segments_that_continue_each_other_are_one_disk() {
    let whole = luks2(&metadata());
    let mut metadata = metadata();
    let mut second = metadata["segments"]["0"].clone();
    metadata["segments"]["0"]["size"] = json!("70144");
    second["offset"] = json!((40960 + 70144).to_string());
    second["iv_tweak"] = json!((70144 / 512).to_string());
    metadata["segments"]["1"] = second;
    metadata["digests"]["0"]["segments"] = json!(["0", "1"]);
    let open = |volume| open_storage(memory(volume), &secret()).unwrap().0;
    let (one, two) = (open(whole), open(luks2(&metadata)));
    assert_eq!(one.size(), two.size());
    assert!(read_all(&one, 100_000) == read_all(&two, 100_000));
    assert!(read_all(&one, 100_000) == crate::support::decode_all(&two));
}

#[test]
fn segments_with_keys_of_their_own_are_refused() {
    let mut metadata = metadata();
    metadata["segments"]["0"]["size"] = json!("512");
    metadata["segments"]["1"] = json!({
        "type": "crypt", "offset": "41472", "size": "dynamic", "iv_tweak": "1",
        "encryption": "aes-xts-plain64", "sector_size": 512,
    });
    let error = refused(luks2(&metadata));
    assert_names(&error, Kind::Unsupported, None, "covers only a part");
}

#[test]
fn noise_in_place_of_any_metadata_byte_is_an_error_or_the_same_key() {
    let json = metadata().to_string();
    for at in 0..json.len() {
        let mut volume = luks2(&metadata());
        for place in [0, 16384] {
            volume[place + 4096 + at] ^= 0x15;
            seal(&mut volume, place);
        }
        let limits = Limits {
            argon2_memory: 1 << 20,
            argon2_filled: 1 << 20,
            pbkdf2_iterations: 10_000,
        };
        let storage: Arc<dyn Storage> = memory(volume);
        let opened = parse(&*storage).and_then(|h| h.unlock(&*storage, &secret(), &limits));
        match opened {
            Ok(key) => assert_eq!(key.expose(), volume_key()),
            Err(error) => assert_ne!(error.kind(), Kind::Internal, "{error}"),
        }
    }
}
