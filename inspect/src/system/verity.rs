//! Filesystems that dm-verity checks block by block: what is changed on one cannot be read any more.
//!
//! systemd-veritysetup-generator(8) (`roothash=`, `usrhash=`), veritytab(5), and `dm-mod.create=` of the
//! kernel (Documentation/admin-guide/device-mapper/dm-init.rst; `dm=` of ChromeOS before it).

use crate::model::{BootEntry, Mount, Place, Verified};
use crate::reader::Reader;

/// Words of a command line, and the filesystem that each has verified.
const WORDS: [(&str, &str); 6] = [
    ("roothash", "/"),
    ("systemd.verity_root_hash", "/"),
    ("dm-verity", "/"),
    ("usrhash", "/usr"),
    ("systemd.verity_usr_hash", "/usr"),
    ("verity.usrhash", "/usr"),
];

/// Tables of device mapper on a command line.
const TABLES: [&str; 2] = ["dm-mod.create", "dm"];

/// Every filesystem that is verified, each once.
pub(crate) fn verified(
    reader: &Reader<'_>,
    entries: &[BootEntry],
    mounts: &[Mount],
) -> Vec<Verified> {
    let mut found: Vec<Verified> = Vec::new();
    let mut add = |point: &str, by: &str, place: Place| {
        if !found.iter().any(|known| known.point == point) {
            found.push(Verified {
                point: point.to_owned(),
                by: by.to_owned(),
                place,
            });
        }
    };
    for entry in entries {
        // A table of device mapper has blanks in it, and quotes around.
        let table = entry.command_line.contains(" verity ");
        for word in entry.command_line.split_whitespace() {
            let key = word.split('=').next().unwrap_or(word);
            if !word.contains('=') {
                continue;
            }
            let by_hash = WORDS.iter().find(|(known, _)| *known == key);
            if let Some((_, point)) = by_hash {
                add(point, key, entry.place.clone());
            } else if table && TABLES.contains(&key) {
                add("/", key, entry.place.clone());
            }
        }
    }
    let path = "/etc/veritytab";
    let Some(text) = reader.exists(path).then(|| reader.text(path)).flatten() else {
        return found;
    };
    let mut add = |point: &str, line: u32| {
        if !found.iter().any(|known| known.point == point) {
            found.push(Verified {
                point: point.to_owned(),
                by: "veritytab".to_owned(),
                place: text.place(line),
            });
        }
    };
    for (line, statement) in text.statements() {
        let Some(name) = statement.split_whitespace().next() else {
            continue;
        };
        let device = format!("/dev/mapper/{name}");
        match mounts.iter().find(|mount| mount.spec == device) {
            Some(mount) => add(&mount.point, line),
            None if name == "root" => add("/", line),
            None if name == "usr" => add("/usr", line),
            None => {}
        }
    }
    found
}
