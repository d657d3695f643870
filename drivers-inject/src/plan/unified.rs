//! The command line inside a unified kernel image is changed there, as that of a boot entry is in its file.
//!
//! Where the image gets drivers too, both are one edit of one file. Left out on purpose, and told: signed
//! images and those with a TPM policy, images without a command line, and images with one for each of several
//! profiles. Options in the firmware's boot entry, which count instead, do not move with a disk.

use std::sync::Arc;

use rehost_block::Result;
use rehost_inspect::model::{Place, Severity, UnifiedKernel};
use rehost_inspect::unified::Program;

use super::text::{LineEdit, TextChanges, Wish, replaced};
use super::{Change, Digest, Edit, How, LineChange, Need, Note, Planner};
use crate::guest::FoundFile;
use crate::unified::{Part, sealed, with_part};

/// What the user can do about most of it.
const REBUILD: &str = "build the image again in the guest, with the names of the plan";

/// An image, where it is, and its content as it was read.
struct Image<'a> {
    found: &'a UnifiedKernel,
    file: FoundFile,
    before: Vec<u8>,
}

impl Planner<'_> {
    /// `edits`, which are of initramfs images, and what `changes` has for command lines inside unified ones.
    pub(super) fn edit_command_lines(
        &mut self,
        changes: &mut TextChanges,
        mut edits: Vec<Edit>,
    ) -> Result<Vec<Edit>> {
        for found in &self.system.boot.unified {
            let wishes = changes.take(&found.path);
            let (Some(file), Some(before), false) = (
                self.files.file(&found.path)?,
                self.files.read(&found.path)?,
                wishes.is_empty(),
            ) else {
                continue;
            };
            let image = Image {
                found,
                file,
                before,
            };
            let known = edits.iter().position(|edit| edit.is_of(&image.file));
            let edit =
                self.with_command_line(&image, known.and_then(|at| edits.get(at)), &wishes)?;
            match (edit, known.and_then(|at| edits.get_mut(at))) {
                (Some(edit), Some(known)) => *known = edit,
                (Some(edit), None) => edits.push(edit),
                (None, _) => {}
            }
        }
        Ok(edits)
    }

    /// The edit of `image` that fulfils `wishes`, and does what `known` does.
    fn with_command_line(
        &mut self,
        image: &Image<'_>,
        known: Option<&Edit>,
        wishes: &[Wish],
    ) -> Result<Option<Edit>> {
        let path = &image.found.path;
        let place = Place::file(format!("{path}:{}", Part::CommandLine.section()));
        let base = known.map_or(&image.before[..], |edit| &edit.content[..]);
        let read = Program::parse(base).and_then(|program| {
            let old = program.read(base, Part::CommandLine.section())?;
            Ok((sealed(&program), old.unwrap_or_default()))
        });
        let (why, old) = match read {
            Ok(read) => read,
            Err(error) => {
                self.note_stays(image, wishes, &error.to_string(), REBUILD)?;
                return Ok(None);
            }
        };
        let Some((new, line)) = changed(&old, wishes) else {
            let why = "what is to be changed is not written as expected";
            self.note_stays(image, wishes, why, REBUILD)?;
            return Ok(None);
        };
        if let Some(why) = why {
            let fix = "build it again in the guest, as it is to be and signed as before";
            let id = if image.found.signature.is_some() {
                "unified-kernel-signed"
            } else {
                "unified-kernel-measured"
            };
            self.note_line(id, image, wishes, (why, fix))?;
            return Ok(None);
        }
        if self.is_verified(&image.file.at)? {
            let why = "it is on a filesystem that dm-verity checks";
            let fix = "make these changes where the image is built";
            self.note_line("verified-file-stays", image, wishes, (why, fix))?;
            return Ok(None);
        }
        let after = match with_part(base, Part::CommandLine, &new) {
            Ok(after) => after,
            // Whatever is wrong with it is wrong with this one image.
            Err(error) => {
                self.note_stays(image, wishes, &error.to_string(), REBUILD)?;
                return Ok(None);
            }
        };
        let fits = after.len() == image.before.len();
        let Some(how) = self.takes(path, &image.file, fits) else {
            let refusal = self.refusal(path, How::Allocate);
            let why = refusal.map_or_else(String::new, |refusal| refusal.why.clone());
            let why = format!("its filesystem does not take it ({why})");
            self.note_stays(image, wishes, &why, "make room there")?;
            return Ok(None);
        };
        let mut reasons: Vec<&str> = Vec::new();
        let own = wishes.iter().map(|wish| wish.reason.as_str());
        for reason in known
            .map(|edit| edit.reason.as_str())
            .into_iter()
            .chain(own)
        {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let reason = reasons.join("; ");
        let need = need_of(wishes).max(known.map_or(Need::Extra, |edit| edit.need));
        let edit = match known.cloned() {
            Some(mut edit) => {
                edit.evidence.push(place);
                if let Change::Initramfs { command_line, .. } = &mut edit.change {
                    *command_line = Some(line);
                }
                edit.after = Some(Digest::of(&after));
                edit.content = Arc::new(after);
                edit.reason = reason;
                edit
            }
            None => Edit::of_file(
                path,
                image.file.clone(),
                (&image.before, after),
                Change::CommandLine { line },
                (reason, vec![place]),
            ),
        };
        Ok(Some(Edit { how, need, ..edit }))
    }

    fn note_stays(
        &mut self,
        image: &Image<'_>,
        wishes: &[Wish],
        why: &str,
        fix: &str,
    ) -> Result<()> {
        self.note_line("command-line-stays", image, wishes, (why, fix))
    }

    /// A command line that stays as it is, and should not: a reason to stop where the guest boots with it,
    /// and it names the root device by the old machine's bus.
    fn note_line(
        &mut self,
        id: &'static str,
        image: &Image<'_>,
        wishes: &[Wish],
        (why, fix): (&str, &str),
    ) -> Result<()> {
        let section = Part::CommandLine.section();
        let place = Place::file(format!("{}:{section}", image.found.path));
        let line = "the command line inside this unified image";
        let note = if need_of(wishes) == Need::Extra {
            let mut reasons: Vec<&str> = wishes.iter().map(|wish| wish.reason.as_str()).collect();
            reasons.dedup();
            let what = format!("{line} stays, though {}: {why}", reasons.join("; "));
            Note::new(Severity::Warning, id, what, vec![place])
        } else {
            let what =
                format!("{line} names its root device by the old machine's bus, and stays: {why}");
            Note {
                stops_boot: self.may_boot_with(&image.file)?,
                ..Note::new(Severity::Problem, id, what, vec![place])
            }
        };
        self.notes.push(Note {
            fix: Some(fix.to_owned()),
            ..note
        });
        Ok(())
    }

    /// Whether what the guest boots unattended has its command line in `image`, or that is not known.
    fn may_boot_with(&self, image: &FoundFile) -> Result<bool> {
        let boot = &self.system.boot;
        let entry = boot.default.and_then(|at| boot.entries.get(at));
        let (Some(entry), Ok(_)) = (entry, self.system.default_boot()) else {
            return Ok(true);
        };
        let file = self.files.file(&entry.place.path)?;
        Ok(file.is_some_and(|file| file.is(image)))
    }
}

/// What depends on `wishes`.
fn need_of(wishes: &[Wish]) -> Need {
    let needs = wishes.iter().map(|wish| wish.need);
    needs.max().unwrap_or(Need::Extra)
}

/// `section` with `wishes` fulfilled, and what that does to its text; `None` when it does not hold what is to
/// be replaced, or nothing changes. Zeros that end it stay behind it.
fn changed(section: &[u8], wishes: &[Wish]) -> Option<(Vec<u8>, LineChange)> {
    let end = section.iter().position(|byte| *byte == 0);
    let (text, zeros) = section.split_at_checked(end.unwrap_or(section.len()))?;
    let (line, blank) = text.split_at_checked(text.trim_ascii_end().len())?;
    let mut new = line.to_vec();
    for (at, wish) in wishes.iter().enumerate() {
        match &wish.edit {
            LineEdit::Replace { from, to } => {
                let earlier = wishes.iter().take(at).map(|wish| &wish.edit);
                new = replaced(&new, (from, to), earlier)?;
            }
            // Quotes in a command line are those of a single word.
            LineEdit::Append { words } => {
                new.push(b' ');
                new.extend_from_slice(words.as_bytes());
            }
            LineEdit::AppendToValue { .. }
            | LineEdit::Insert { .. }
            | LineEdit::Comment
            | LineEdit::NewLine { .. } => return None,
        }
    }
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let change = LineChange {
        line: 1,
        before: shown(line),
        after: shown(&new),
    };
    (new != line).then(|| ([&new, blank, zeros].concat(), change))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(edit: LineEdit) -> Wish {
        Wish {
            line: 1,
            edit,
            reason: String::new(),
            need: Need::Extra,
        }
    }

    #[test]
    fn what_ends_the_section_stays_behind_the_words() {
        let name = wish(LineEdit::Replace {
            from: "/dev/sda2".into(),
            to: "UUID=u".into(),
        });
        let console = wish(LineEdit::Append {
            words: "console=ttyS0".into(),
        });
        let both = [name, console];
        for (before, after) in [
            (
                &b"root=/dev/sda2 ro\n\0\0"[..],
                &b"root=UUID=u ro console=ttyS0\n\0\0"[..],
            ),
            (b"root=/dev/sda2\0x", b"root=UUID=u console=ttyS0\0x"),
            (
                b"ro\nroot=/dev/sda2 dyndbg=\"file a +p\"",
                b"ro\nroot=UUID=u dyndbg=\"file a +p\" console=ttyS0",
            ),
        ] {
            let (new, line) = changed(before, &both).unwrap();
            assert_eq!(new, after, "{line:?}");
        }
        let other = wish(LineEdit::Replace {
            from: "/dev/sda2".into(),
            to: "LABEL=l".into(),
        });
        let [name, _] = &both;
        let twice = [name.clone(), other];
        let (new, _) = changed(b"root=/dev/sda2 resume=/dev/sda2", &twice).unwrap();
        assert_eq!(new, b"root=UUID=u resume=UUID=u");
        assert!(changed(b"root=/dev/sda20\0/dev/sda2", &both).is_none());
    }
}
