//! Databases made by `sqlite3` itself, read back.

use std::process::Command;

use super::super::tests::blob;
use super::*;

/// A database that `sqlite3` makes by running `script` in `folder`; `None` when it is not installed.
fn made(folder: &std::path::Path, script: &str) -> Option<Vec<u8>> {
    let path = folder.join("rpmdb.sqlite");
    let run = Command::new("sqlite3").arg(&path).arg(script).output();
    let Ok(output) = run else {
        eprintln!("skipped: needs sqlite3");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read(path).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// rpm's own statement, and `count` packages, every third of them longer than a page.
fn script(page: u32, count: usize) -> String {
    let mut script = format!(
        "PRAGMA page_size={page}; CREATE TABLE 'Basenames' (key 'TEXT' NOT NULL, hnum INTEGER); \
         CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL); BEGIN;"
    );
    for number in 0..count {
        let filler = if number % 3 == 0 { 9000 } else { 10 * number };
        let header = blob(&format!("package{number:04}"), "1.0", filler);
        script.push_str(&format!(
            "INSERT INTO Packages(blob) VALUES(x'{}');",
            hex(&header)
        ));
    }
    script + "COMMIT;"
}

fn names(listed: &Listed) -> Vec<&str> {
    listed.packages.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn tables_of_several_levels_are_read_at_every_page_size() {
    for (page, count) in [(512, 40), (4096, 90), (65536, 20)] {
        let folder = tempfile::tempdir().unwrap();
        let Some(file) = made(folder.path(), &script(page, count)) else {
            return;
        };
        let listed = read(&file, None).unwrap();
        assert!(listed.damage.is_none(), "{:?}", listed.damage);
        let expected: Vec<String> = (0..count).map(|n| format!("package{n:04}")).collect();
        assert_eq!(names(&listed), expected, "page size {page}");
    }
}

#[test]
fn pages_of_a_log_that_was_not_copied_back_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let added = format!(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {} \
         INSERT INTO Packages(blob) VALUES(x'{}'); DELETE FROM Packages WHERE hnum=2;",
        script(1024, 5),
        hex(&blob("added-last", "2", 5000)),
    );
    // Copies are taken while the database is open: closing it copies the log back and removes it.
    let copy = format!(
        "{added}\n.shell cp '{0}/rpmdb.sqlite' '{0}/copy'\n.shell cp '{0}/rpmdb.sqlite-wal' '{0}/log'\n",
        folder.path().display()
    );
    let input = folder.path().join("script");
    std::fs::write(&input, copy).unwrap();
    if made(folder.path(), &format!(".read {}", input.display())).is_none() {
        return;
    }
    let file = std::fs::read(folder.path().join("copy")).unwrap();
    let mut log = std::fs::read(folder.path().join("log")).unwrap();
    let listed = read(&file, Some(&log)).unwrap();
    assert!(listed.damage.is_none(), "{:?}", listed.damage);
    let expected = [
        "package0000",
        "package0002",
        "package0003",
        "package0004",
        "added-last",
    ];
    assert_eq!(names(&listed), expected);
    // A frame that was torn takes its commit with it, and those before stay.
    let last = log.len() - 1;
    log[last] ^= 1;
    let listed = read(&file, Some(&log)).unwrap();
    assert!(names(&listed).contains(&"package0001"), "{listed:?}");
}

#[test]
fn a_tree_that_leads_back_into_itself_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut file) = made(folder.path(), &script(512, 40)) else {
        return;
    };
    let interior = (1..file.len() / 512)
        .map(|page| page * 512)
        .find(|at| file[*at] == 5)
        .unwrap();
    let own = u32::try_from(interior / 512 + 1).unwrap();
    file[interior + 8..interior + 12].copy_from_slice(&own.to_be_bytes());
    let listed = read(&file, None).unwrap();
    let said = listed.damage.unwrap().to_string();
    assert!(said.contains("leads back into itself"), "{said}");
}

#[test]
fn a_database_without_the_table_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut file) = made(folder.path(), "CREATE TABLE other (a, b);") else {
        return;
    };
    let error = read(&file, None).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("no table of packages"),
        "{error}"
    );
    file[17] = 3;
    assert!(read(&file, None).is_err());
}

#[test]
fn damaged_databases_never_panic() {
    use proptest::prelude::*;
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = made(folder.path(), &script(512, 12)) else {
        return;
    };
    let places = proptest::collection::vec((0..file.len(), any::<u8>()), 1..6);
    proptest!(ProptestConfig::with_cases(256), |(places in places, cut in 0..file.len())| {
        let mut file = file.clone();
        for (place, byte) in places {
            file[place] = byte;
        }
        let _ = read(&file, None);
        file.truncate(cut);
        let _ = read(&file, None);
    });
}
