//! What is in a guest's files: package databases, boot programs.

use rehost_inject::unified::{Part, with_part};
use rehost_inspect::packages::rpm::{bdb, ndb, sqlite};
use rehost_inspect::unified::Program;

/// What a write-ahead log of SQLite begins with, both byte orders.
const LOGS: [&[u8]; 2] = [&[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]];

/// rpm's database in each of its forms; what follows the first sign of a write-ahead log is one.
pub(crate) fn rpm(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    let _ = ndb::read(&bytes);
    let _ = bdb::read(&bytes);
    let _ = sqlite::read(&bytes, None);
    let log = bytes.windows(4).position(|part| LOGS.contains(&part));
    if let Some(at) = log {
        let (database, log) = bytes.split_at(at);
        let _ = sqlite::read(&database.to_vec(), Some(&log.to_vec()));
    }
}

/// Longest image whose parts are replaced: each time all of it is written and compared.
const MOST_REPLACED: usize = 1 << 20;

/// A unified kernel image: every section is read as text and as bytes, and each part replaced by a longer one.
pub(crate) fn unified(bytes: &[u8]) {
    let Ok(program) = Program::parse(bytes) else {
        return;
    };
    for section in program.sections.iter().take(100) {
        let _ = program.text(bytes, &section.name);
        let _ = program.read(bytes, &section.name);
        let _ = program.start(bytes, &section.name, 4096);
    }
    if bytes.len() <= MOST_REPLACED {
        for part in [Part::Initramfs, Part::CommandLine] {
            let _ = with_part(bytes, part, &[b'n'; 5000]);
        }
    }
}
