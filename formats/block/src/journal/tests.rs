//! The journal: whatever happens, and whenever, the old bytes come back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::doubles::Faulty;
use crate::{Kind, SameFolder};

/// An image of `size` bytes with a hole in its middle.
fn image(folder: &Path, name: &str, size: u64) -> (PathBuf, Vec<u8>) {
    let path = folder.join(name);
    let file = File::create_new(&path).unwrap();
    file.set_size(size).unwrap();
    let third = size / 3;
    for start in [0, 2 * third] {
        let bytes: Vec<u8> = (start..start + third)
            .map(|at| (at * 7 / 3 % 251) as u8)
            .collect();
        file.write_at(&bytes, start).unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    (path.canonicalize().unwrap(), bytes)
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, usize),
    Zero(u64, u64),
    Size(u64),
}

fn apply(storage: &dyn StorageMut, changes: &[Change]) -> Result<()> {
    for change in changes {
        match change {
            Change::Write(at, len) => storage.write_at(&vec![0xc5; *len], *at)?,
            Change::Zero(at, len) => storage.zero_at(*at, *len)?,
            Change::Size(size) => storage.set_size(*size)?,
        }
    }
    Ok(())
}

fn some_changes() -> Vec<Change> {
    vec![
        Change::Write(5, 10),
        Change::Write(300_000, 200_000),
        Change::Zero(100_000, 300_000),
        Change::Write(999_990, 70_000),
        Change::Size(400_000),
        Change::Write(600_000, 100),
        Change::Size(2_000_000),
        Change::Write(0, 1_000_000),
    ]
}

#[test]
fn a_change_holds_once_it_is_committed_and_its_journal_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = image(folder.path(), "a", 1_000_000);
    let journal = Journal::begin(&path).unwrap();
    let storage = journal.open(&path).unwrap();
    assert!(matches!(
        left_over(&path).unwrap(),
        Some(Leftover::Running(_))
    ));
    storage.write_at(b"new", 7).unwrap();
    journal.commit().unwrap();
    let after = fs::read(&path).unwrap();
    assert_eq!(after[7..10], *b"new");
    assert_eq!(after[10..], before[10..]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = storage.write_at(b"late", 0).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
}

#[test]
fn rolling_back_and_recovering_give_every_byte_and_length_back() {
    for recovers in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (a, a_before) = image(folder.path(), "a", 1_000_000);
        let (b, b_before) = image(folder.path(), "b", 70_001);
        let journal = Journal::begin(&a).unwrap();
        let files = [journal.open(&a).unwrap(), journal.open(&b).unwrap()];
        for file in &files {
            apply(&**file, &some_changes()).unwrap();
        }
        if recovers {
            drop((journal, files));
            let error = Journal::begin(&a).unwrap_err();
            assert!(error.to_string().contains("rehost undo"), "{error}");
            let recovered = recover(&a, &SameFolder).unwrap();
            assert_eq!(recovered.files, [a.clone(), b.clone()]);
            assert!(recover(&a, &SameFolder).is_err());
            assert!(recover(&b, &SameFolder).is_err());
        } else {
            journal.roll_back().unwrap();
        }
        assert!(fs::read(&a).unwrap() == a_before);
        assert!(fs::read(&b).unwrap() == b_before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_failure_at_any_write_of_the_image_or_the_journal_is_undone() {
    for faulty_journal in [false, true] {
        let mut failures = 0;
        for writes in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let (path, before) = image(folder.path(), "a", 1_000_000);
            let name = Journal::name_for(&path);
            let file = File::create_new(&name).unwrap();
            let limit = |counts: bool| if counts { writes } else { u64::MAX };
            let journal: Arc<dyn StorageMut> = Arc::new(Faulty::after(file, limit(faulty_journal)));
            let storage = File::open_mut(&path).unwrap();
            let storage = Arc::new(Faulty::after(storage, limit(!faulty_journal)));
            let ended = (|| {
                let journal = Journal::start(path.clone(), name.clone(), journal)?;
                let storage = journal.cover(&path, storage)?;
                apply(&*storage, &some_changes())
            })();
            recover(&path, &SameFolder).unwrap();
            assert!(fs::read(&path).unwrap() == before, "after {writes} writes");
            if ended.is_ok() {
                break;
            }
            failures += 1;
        }
        assert!(failures >= 8, "{failures}");
    }
}

/// A change that was killed: the image's path, its old bytes, and the journal's name.
fn killed(folder: &Path) -> (PathBuf, Vec<u8>, PathBuf) {
    let (path, before) = image(folder, "a", 1_000_000);
    let journal = Journal::begin(&path).unwrap();
    let storage = journal.open(&path).unwrap();
    apply(&*storage, &some_changes()).unwrap();
    let name = Journal::name_for(&path);
    (path, before, name)
}

#[test]
fn a_torn_record_behind_the_mark_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before, journal) = killed(folder.path());
    let mut bytes = fs::read(&journal).unwrap();
    let torn = Record::bytes(0, 0, &[9; 1000]).encode(Salt::new());
    bytes.extend(&torn[..700]);
    fs::write(&journal, bytes).unwrap();
    recover(&path, &SameFolder).unwrap();
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_damaged_record_before_the_mark_stops_the_recovery_before_it_changes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _, journal) = killed(folder.path());
    let whole = fs::read(&journal).unwrap();
    let changed = fs::read(&path).unwrap();
    for at in [4096, 4200, 100_000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&journal, &bytes).unwrap();
        let error = recover(&path, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{at}: {error}");
        fs::write(&journal, &whole[..at]).unwrap();
        assert!(recover(&path, &SameFolder).is_err(), "cut at {at}");
    }
    assert!(fs::read(&path).unwrap() == changed);
    fs::write(&journal, &whole).unwrap();
    recover(&path, &SameFolder).unwrap();
}

#[test]
fn a_journal_that_was_never_flushed_is_removed_and_a_foreign_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = image(folder.path(), "a", 1000);
    let journal = Journal::name_for(&path);
    for content in [vec![], vec![0; 100], vec![0; 4096]] {
        fs::write(&journal, content).unwrap();
        assert!(recover(&path, &SameFolder).unwrap().files.is_empty());
        assert!(!journal.exists());
    }
    fs::write(&journal, vec![b'x'; 5000]).unwrap();
    assert!(recover(&path, &SameFolder).is_err());
    assert!(journal.exists());
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_journal_cannot_name_files_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let (path, _) = image(folder.path(), "a", 1000);
    let (victim, before) = image(away.path(), "victim", 1000);
    let journal = Journal::begin(&path).unwrap();
    let storage = journal.open(&victim).unwrap();
    storage.write_at(b"changed", 0).unwrap();
    drop((journal, storage));
    let error = recover(&path, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("--allow-path"), "{error}");
    let gate = crate::AllowedFolders::new([away.path().to_owned()]).unwrap();
    recover(&path, &gate).unwrap();
    assert!(fs::read(&victim).unwrap() == before);
}

#[test]
fn a_file_that_is_open_elsewhere_for_changes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = image(folder.path(), "a", 1000);
    let (b, _) = image(folder.path(), "b", 1000);
    let first = Journal::begin(&a).unwrap();
    let open = first.open(&b).unwrap();
    let error = Journal::begin(&b).unwrap_err();
    assert!(error.to_string().contains("another run"), "{error}");
    first.commit().unwrap();
    // Another program's lock.
    let held = File::open(&b).unwrap();
    drop(open);
    held.as_file().unwrap().lock().unwrap();
    let second = Journal::begin(&b).unwrap();
    let error = second.open(&b).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    second.roll_back().unwrap();
}

#[test]
fn ranges_are_saved_once() {
    let mut saved = BTreeMap::new();
    insert(&mut saved, 10..20);
    insert(&mut saved, 30..40);
    assert_eq!(gaps(&saved, 0..50), [0..10, 20..30, 40..50]);
    assert_eq!(gaps(&saved, 12..18), []);
    assert_eq!(gaps(&saved, 15..35), vec![Range { start: 20, end: 30 }]);
    insert(&mut saved, 20..30);
    assert_eq!(saved, BTreeMap::from([(10, 40)]));
    insert(&mut saved, 0..100);
    assert_eq!(saved, BTreeMap::from([(0, 100)]));
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..400_000u64, 1..90_000usize).prop_map(|(at, len)| Change::Write(at, len)),
        2 => (0..400_000u64, 0..90_000u64).prop_map(|(at, len)| Change::Zero(at, len)),
        1 => (0..500_000u64).prop_map(Change::Size),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_changes_are_undone(changes in prop::collection::vec(change(), 1..12), size in 1..300_000u64) {
        let folder = tempfile::tempdir().unwrap();
        let (path, before) = image(folder.path(), "a", size);
        let journal = Journal::begin(&path).unwrap();
        let storage = journal.open(&path).unwrap();
        apply(&*storage, &changes).unwrap();
        drop((journal, storage));
        recover(&path, &SameFolder).unwrap();
        prop_assert!(fs::read(&path).unwrap() == before);
    }
}

/// A finished change of an image, and its undo file.
fn kept(folder: &Path) -> (PathBuf, Vec<u8>, PathBuf) {
    let (path, before) = image(folder, "kept.img", 1_000_000);
    let journal = Journal::begin(&path).unwrap();
    let storage = journal.open(&path).unwrap();
    apply(&*storage, &some_changes()).unwrap();
    let undo = journal.keep().unwrap();
    assert_eq!(undo, kept::name_for(&path));
    assert!(left_over(&path).unwrap().is_none(), "the image can be used");
    assert_ne!(fs::read(&path).unwrap(), before);
    (path, before, undo)
}

#[test]
fn a_finished_change_that_was_kept_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before, file) = kept(folder.path());
    assert!(kept::refuse_second(&path).is_err());
    let undone = kept::undo(&path, &SameFolder).unwrap();
    assert_eq!(undone.files, std::slice::from_ref(&path));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!file.exists() && !Journal::name_for(&path).exists());
    kept::refuse_second(&path).unwrap();
    assert_eq!(
        kept::undo(&path, &SameFolder).unwrap_err().kind(),
        Kind::Usage
    );
}

#[test]
fn a_file_that_was_changed_since_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _, file) = kept(folder.path());
    let later = File::open_mut(&path).unwrap();
    later.write_at(b"later", 7).unwrap();
    let now = fs::metadata(&path).unwrap().modified().unwrap();
    let later = fs::File::options().write(true).open(&path).unwrap();
    later
        .set_modified(now + std::time::Duration::from_secs(1))
        .unwrap();
    let is = fs::read(&path).unwrap();
    let error = kept::undo(&path, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("changed since"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), is);
    assert!(file.exists());
}

#[test]
fn an_undoing_that_was_killed_is_finished_as_any_change() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before, file) = kept(folder.path());
    // As it is in the middle: the undo file is a journal again, some bytes are back.
    fs::rename(file, Journal::name_for(&path)).unwrap();
    let half = File::open_mut(&path).unwrap();
    half.write_at(&before[..1000], 0).unwrap();
    drop(half);
    assert!(matches!(
        left_over(&path).unwrap(),
        Some(Leftover::Killed(_))
    ));
    recover(&path, &SameFolder).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn every_file_of_a_killed_change_is_refused_and_any_of_them_brings_all_back() {
    let folder = tempfile::tempdir().unwrap();
    let (a, a_before) = image(folder.path(), "a", 300_000);
    let (b, b_before) = image(folder.path(), "b", 70_001);
    let journal = Journal::begin(&a).unwrap();
    let files = [journal.open(&a).unwrap(), journal.open(&b).unwrap()];
    for file in &files {
        apply(&**file, &some_changes()).unwrap();
    }
    assert!(matches!(left_over(&b).unwrap(), Some(Leftover::Running(_))));
    drop((journal, files));
    let left = left_over(&b).unwrap().unwrap();
    assert_eq!(
        left,
        Leftover::KilledAlong {
            file: b.clone(),
            image: a.clone()
        }
    );
    let error = Journal::begin(&b).unwrap_err().to_string();
    for part in ["half changed", "journal is that of", "rehost undo"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(
        recover(&b, &SameFolder).unwrap().files,
        [a.clone(), b.clone()]
    );
    assert!(fs::read(&a).unwrap() == a_before);
    assert!(fs::read(&b).unwrap() == b_before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_change_of_several_files_that_was_kept_is_taken_back_by_the_name_of_any() {
    for nth in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let images = ["a", "b"].map(|name| image(folder.path(), name, 300_000));
        let journal = Journal::begin(&images[0].0).unwrap();
        for (path, _) in &images {
            let file = journal.open(path).unwrap();
            apply(&*file, &some_changes()).unwrap();
        }
        journal.keep().unwrap();
        for (path, _) in &images {
            assert!(left_over(path).unwrap().is_none(), "the image can be used");
            assert!(kept::refuse_second(path).is_err());
        }
        kept::undo(&images[nth].0, &SameFolder).unwrap();
        for (path, before) in &images {
            assert!(fs::read(path).unwrap() == *before);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_note_that_a_finished_change_left_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = image(folder.path(), "a", 1000);
    let (b, _) = image(folder.path(), "b", 1000);
    let journal = Journal::begin(&a).unwrap();
    journal.open(&b).unwrap().write_at(b"new", 0).unwrap();
    let note = Journal::name_for(&b);
    let forgotten = fs::read(&note).unwrap();
    journal.commit().unwrap();
    assert!(!note.exists());
    fs::write(&note, &forgotten).unwrap();
    assert!(left_over(&b).unwrap().is_none());
    // It is removed, and that is all there is to do.
    assert_eq!(
        recover(&b, &SameFolder).unwrap().files,
        [""; 0].map(PathBuf::from)
    );
    assert!(!note.exists());
    assert!(recover(&b, &SameFolder).is_err());
    fs::write(&note, &forgotten).unwrap();
    // Where its image is gone nobody can tell, and the way out has its name.
    let away = folder.path().join("moved");
    fs::rename(&a, &away).unwrap();
    let name = note.to_str().unwrap();
    let error = left_over(&b).unwrap().unwrap().error();
    assert!(error.to_string().contains(name), "{error}");
    let error = recover(&b, &SameFolder).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    fs::rename(&away, &a).unwrap();
    // Nor while another change is under way.
    let other = Journal::begin(&a).unwrap();
    assert!(left_over(&b).unwrap().is_none());
    other.open(&b).unwrap().write_at(b"newer", 0).unwrap();
    assert_ne!(fs::read(&note).unwrap(), forgotten);
    other.roll_back().unwrap();
    fs::write(&note, &forgotten).unwrap();
    Journal::begin(&b).unwrap().commit().unwrap();
    assert!(!note.exists());
}

#[test]
fn a_note_that_is_damaged_or_has_lost_its_image_is_no_leave() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = image(folder.path(), "a", 1000);
    let (b, _) = image(folder.path(), "b", 1000);
    let journal = Journal::begin(&a).unwrap();
    journal.open(&b).unwrap().write_at(b"new", 0).unwrap();
    drop(journal);
    let note = Journal::name_for(&b);
    let whole = fs::read(&note).unwrap();
    for at in 8..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&note, bytes).unwrap();
        assert_eq!(left_over(&b).unwrap_err().kind(), Kind::Corrupt, "{at}");
    }
    fs::write(&note, &whole).unwrap();
    let away = tempfile::tempdir().unwrap();
    let moved = away.path().join("b");
    fs::copy(&b, &moved).unwrap();
    fs::copy(&note, Journal::name_for(&moved)).unwrap();
    assert!(left_over(&moved).unwrap().is_some());
    assert!(recover(&moved, &SameFolder).is_err());
}

#[test]
fn a_note_does_not_lead_out_of_the_folder_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let (a, a_before) = image(away.path(), "a", 1000);
    let (b, b_before) = image(folder.path(), "b", 1000);
    let journal = Journal::begin(&a).unwrap();
    for path in [&a, &b] {
        journal.open(path).unwrap().write_at(b"new", 0).unwrap();
    }
    drop(journal);
    assert!(left_over(&b).unwrap().is_some());
    let error = recover(&b, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("--allow-path"), "{error}");
    let both = [away.path().to_owned(), folder.path().to_owned()];
    recover(&b, &crate::AllowedFolders::new(both).unwrap()).unwrap();
    assert!(fs::read(&a).unwrap() == a_before);
    assert!(fs::read(&b).unwrap() == b_before);
}
