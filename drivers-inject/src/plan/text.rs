//! Changes to lines of text files, gathered from several rules and made once per file.
//!
//! A file is handled as bytes: what is not UTF-8 stays as it is, and so do line ends.

use std::collections::BTreeMap;

use rehost_block::Result;
use rehost_inspect::model::{Place, Severity};

use super::{Change, Edit, LineChange, Need, Note, Planner};
use crate::guest::{FoundFile, GuestFiles};

/// Bytes of GRUB's environment block, always.
const GRUBENV: usize = 1024;

/// What may stand beside a device name in a configuration file.
const DELIMITERS: &[u8] = b" \t\r\n\"'=,;<>|:()";

/// One change of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LineEdit {
    /// Every whole word `from` becomes `to`.
    Replace {
        /// As it is.
        from: String,
        /// As it will be.
        to: String,
    },
    /// `words` at the end of the line.
    Append {
        /// Without blanks around.
        words: String,
    },
    /// `words` at the end of the value in a line `KEY=value` for a shell, quoted or not.
    AppendToValue {
        /// Without blanks around.
        words: String,
    },
    /// `text` behind the first `after` of the line.
    Insert {
        /// Stands on the line.
        after: String,
        /// As it is to be.
        text: String,
    },
    /// The line becomes a comment.
    Comment,
    /// A line of its own behind the line.
    NewLine {
        /// Without its end.
        text: String,
    },
}

/// One change, and why.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// From 1.
    pub(super) line: u32,
    pub(super) edit: LineEdit,
    pub(super) reason: String,
    pub(super) need: Need,
}

/// Wishes by path.
#[derive(Debug, Default)]
pub(super) struct TextChanges(BTreeMap<String, Vec<Wish>>);

impl TextChanges {
    /// Something for line `line`, why, and what depends on it.
    pub(super) fn add(
        &mut self,
        path: &str,
        line: u32,
        edit: LineEdit,
        (reason, need): (String, Need),
    ) {
        let wish = Wish {
            line,
            edit,
            reason,
            need,
        };
        self.insert(path, wish);
    }

    fn insert(&mut self, path: &str, wish: Wish) {
        let wishes = self.0.entry(path.to_owned()).or_default();
        let same = |known: &&mut Wish| (known.line, &known.edit) == (wish.line, &wish.edit);
        match wishes.iter_mut().find(same) {
            Some(known) => known.need = known.need.max(wish.need),
            None => wishes.push(wish),
        }
    }

    /// Brings together what is wished for one file by several paths, under the first of them.
    pub(super) fn join_paths(&mut self, files: &dyn GuestFiles) -> Result<()> {
        let mut known: Vec<(FoundFile, String)> = Vec::new();
        for (path, wishes) in std::mem::take(&mut self.0) {
            let found = files.file(&path)?;
            let same = |found: &FoundFile| known.iter().find(|(known, _)| known.is(found));
            let first = found
                .as_ref()
                .and_then(same)
                .map(|(_, first)| first.clone());
            if let (None, Some(found)) = (&first, found) {
                known.push((found, path.clone()));
            }
            let path = first.unwrap_or(path);
            for wish in wishes {
                self.insert(&path, wish);
            }
        }
        Ok(())
    }

    /// Takes out what is wished for `path`.
    pub(super) fn take(&mut self, path: &str) -> Vec<Wish> {
        self.0.remove(path).unwrap_or_default()
    }

    /// One edit for each file that really changes.
    pub(super) fn into_edits(self, planner: &mut Planner<'_>) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for (path, wishes) in self.0 {
            let found = planner.files.file(&path)?;
            let content = planner.files.read(&path)?;
            let (Some(found), Some(before)) = (found, content) else {
                continue;
            };
            let mut after = before.clone();
            let mut lines = Vec::new();
            let mut reasons: Vec<String> = Vec::new();
            let mut need = Need::Extra;
            for number in numbers(&wishes) {
                let own: Vec<&Wish> = wishes.iter().filter(|wish| wish.line == number).collect();
                let edits: Vec<&LineEdit> = own.iter().map(|wish| &wish.edit).collect();
                let Some(change) = change_line(&mut after, number, &edits) else {
                    planner.notes.push(Note::new(
                        Severity::Warning,
                        "line-not-changed",
                        format!("line {number} is not written as expected and stays"),
                        vec![Place::line(&path, number)],
                    ));
                    continue;
                };
                for wish in own {
                    need = need.max(wish.need);
                    if !reasons.contains(&wish.reason) {
                        reasons.push(wish.reason.clone());
                    }
                }
                lines.push(change);
            }
            if path.ends_with("/grubenv") {
                keep_environment_size(&mut after);
            }
            if after == before {
                continue;
            }
            let evidence = lines
                .iter()
                .map(|line| Place::line(&path, line.line))
                .collect();
            let edit = Edit::of_file(
                &path,
                found,
                (&before, after),
                Change::Text { lines },
                (reasons.join("; "), evidence),
            );
            edits.push(edit.needed(need));
        }
        Ok(edits)
    }
}

fn numbers(wishes: &[Wish]) -> Vec<u32> {
    let mut numbers: Vec<u32> = wishes.iter().map(|wish| wish.line).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Applies `edits` to line `number` (from 1) of `text`; `None`, and nothing changed, when the line
/// is not there or does not hold what is to be replaced.
pub(super) fn change_line(
    text: &mut Vec<u8>,
    number: u32,
    edits: &[&LineEdit],
) -> Option<LineChange> {
    let wanted = usize::try_from(number).ok()?.checked_sub(1)?;
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n').take(wanted) {
        start += line.len();
    }
    let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
    let len = rest
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(rest.len());
    let before = rest.get(..len)?.to_vec();
    let mut after = before.clone();
    for (at, edit) in edits.iter().enumerate() {
        after = match edit {
            LineEdit::Replace { from, to } => {
                let earlier = edits.iter().take(at).copied();
                replaced(&after, (from, to), earlier)?
            }
            LineEdit::Append { words } => append(&after, words),
            LineEdit::AppendToValue { words } => append_to_value(&after, words)?,
            LineEdit::Insert { after: mark, text } => insert(&after, mark, text)?,
            LineEdit::Comment => [&b"# "[..], &after].concat(),
            LineEdit::NewLine { text } => [&after, &b"\n"[..], text.as_bytes()].concat(),
        };
    }
    if after == before {
        return None;
    }
    text.splice(start..start + len, after.iter().copied());
    Some(LineChange {
        line: number,
        before: String::from_utf8_lossy(&before).into_owned(),
        after: String::from_utf8_lossy(&after).into_owned(),
    })
}

/// [`replace_words`], and done also where one of `earlier` has replaced all there was.
pub(super) fn replaced<'e>(
    line: &[u8],
    (from, to): (&str, &str),
    mut earlier: impl Iterator<Item = &'e LineEdit>,
) -> Option<Vec<u8>> {
    replace_words(line, from.as_bytes(), to.as_bytes()).or_else(|| {
        let took =
            |edit: &LineEdit| matches!(edit, LineEdit::Replace { from: own, .. } if own == from);
        earlier.any(took).then(|| line.to_vec())
    })
}

/// Replaces `from` wherever it is a whole word; `None` when it nowhere is.
fn replace_words(line: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let edge = |byte: Option<&u8>| byte.is_none_or(|byte| DELIMITERS.contains(byte));
    let mut out = Vec::with_capacity(line.len());
    let mut at = 0;
    let mut found = false;
    // Ends because every round takes at least one byte of the line.
    while let Some(byte) = line.get(at) {
        let here = line.get(at..).unwrap_or_default();
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        if !from.is_empty() && here.starts_with(from) && edge(before) && edge(here.get(from.len()))
        {
            out.extend_from_slice(to);
            at += from.len();
            found = true;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    found.then_some(out)
}

/// `text` behind the first `mark`; `None` when that is not there.
fn insert(line: &[u8], mark: &str, text: &str) -> Option<Vec<u8>> {
    let mark = mark.as_bytes();
    let at = line
        .windows(mark.len().max(1))
        .position(|part| part == mark)?
        + mark.len();
    let (before, after) = line.split_at_checked(at)?;
    Some([before, text.as_bytes(), after].concat())
}

/// `words` behind the line's last word.
fn append(line: &[u8], words: &str) -> Vec<u8> {
    let (body, blank) = line.split_at(line.trim_ascii_end().len());
    let between: &[u8] = if body.is_empty() { b"" } else { b" " };
    [body, between, words.as_bytes(), blank].concat()
}

/// `words` behind the last word of the value in `KEY=value`, inside its quotes; `None` when the value is not
/// one word of a shell.
fn append_to_value(line: &[u8], words: &str) -> Option<Vec<u8>> {
    let start = line.iter().position(|byte| *byte == b'=')? + 1;
    let (key, value) = line.split_at_checked(start)?;
    let is_blank = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    let quote = value.first().filter(|byte| b"\"'".contains(byte));
    let Some(quote) = quote else {
        // Words that are added need quotes.
        let end = value.iter().position(u8::is_ascii_whitespace);
        let (value, rest) = value.split_at_checked(end.unwrap_or(value.len()))?;
        let plain = !value.iter().any(|byte| b"\"'\\`$".contains(byte));
        let value = append(value, words);
        return plain.then(|| [key, b"\"", &value, b"\"", rest].concat());
    };
    let mut end = 1;
    // Ends because every round goes on by a byte of the value.
    while value.get(end)? != quote {
        let escapes = *quote == b'"' && value.get(end) == Some(&b'\\');
        end += if escapes { 2 } else { 1 };
    }
    let (body, rest) = value.split_at_checked(end)?;
    let empty = body.len() == 1 || body.last() == Some(&b' ');
    let between: &[u8] = if empty { b"" } else { b" " };
    is_blank(rest.get(1)).then(|| [key, body, between, words.as_bytes(), rest].concat())
}

/// Makes GRUB's environment block 1024 bytes again by its padding; without enough of that it is
/// left as it is, and GRUB reads what fits.
fn keep_environment_size(text: &mut Vec<u8>) {
    let used = text
        .iter()
        .rposition(|byte| *byte != b'#')
        .map_or(0, |last| last + 1);
    if used <= GRUBENV {
        text.truncate(used);
        text.resize(GRUBENV, b'#');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, line: u32, edit: LineEdit) -> Option<String> {
        let mut bytes = text.as_bytes().to_vec();
        change_line(&mut bytes, line, &[&edit])?;
        Some(String::from_utf8(bytes).unwrap())
    }

    fn replace(from: &str, to: &str) -> LineEdit {
        LineEdit::Replace {
            from: from.into(),
            to: to.into(),
        }
    }

    #[test]
    fn only_whole_words_on_the_one_line_are_replaced() {
        let text = "/dev/sda1 / ext4\n/dev/sda1 /dev/sda10 root=/dev/sda1 \"/dev/sda1\"\r\nx\n";
        assert_eq!(
            changed(text, 2, replace("/dev/sda1", "UUID=u")).unwrap(),
            "/dev/sda1 / ext4\nUUID=u /dev/sda10 root=UUID=u \"UUID=u\"\r\nx\n"
        );
        assert_eq!(changed(text, 3, replace("/dev/sda1", "UUID=u")), None);
        assert_eq!(changed(text, 9, replace("/dev/sda1", "UUID=u")), None);
    }

    #[test]
    fn words_are_appended_inside_the_quotes_of_a_value_and_behind_those_of_a_line() {
        let words = || "console=ttyS0".to_owned();
        let value = |text| changed(text, 1, LineEdit::AppendToValue { words: words() });
        for (before, after) in [
            (
                "GRUB_CMDLINE_LINUX=\"\"\n",
                "GRUB_CMDLINE_LINUX=\"console=ttyS0\"\n",
            ),
            ("A='quiet splash'", "A='quiet splash console=ttyS0'"),
            (
                "A=\"a \\\"b\\\"\" # x",
                "A=\"a \\\"b\\\" console=ttyS0\" # x",
            ),
            ("A=quiet # x\n", "A=\"quiet console=ttyS0\" # x\n"),
            ("A=\n", "A=\"console=ttyS0\"\n"),
        ] {
            assert_eq!(value(before).unwrap(), after);
        }
        for odd in ["A=\"a\"'b'", "A=\"open", "A=a\\ b", "no value"] {
            assert_eq!(value(odd), None, "{odd}");
        }
        let line = |text| changed(text, 1, LineEdit::Append { words: words() });
        for (before, after) in [
            (
                "\tlinux /vmlinuz ro  \n",
                "\tlinux /vmlinuz ro console=ttyS0  \n",
            ),
            (
                "options ro dyndbg=\"file a +p\"\n",
                "options ro dyndbg=\"file a +p\" console=ttyS0\n",
            ),
            ("root=\"UUID=u\"", "root=\"UUID=u\" console=ttyS0"),
        ] {
            assert_eq!(line(before).unwrap(), after);
        }
    }

    #[test]
    fn a_name_that_an_earlier_change_has_replaced_is_done() {
        let mut text = b"root=/dev/sda2 resume=/dev/sda2\n".to_vec();
        let edits = [
            replace("/dev/sda2", "UUID=u"),
            replace("/dev/sda2", "LABEL=l"),
        ];
        let [one, other] = &edits;
        change_line(&mut text, 1, &[one, other]).unwrap();
        assert_eq!(text, b"root=UUID=u resume=UUID=u\n");
        let stranger = replace("/dev/sdb2", "LABEL=l");
        assert!(change_line(&mut text, 1, &[one, &stranger]).is_none());
    }

    #[test]
    fn text_goes_behind_its_mark_and_lines_behind_lines() {
        let insert = |after: &str| LineEdit::Insert {
            after: after.into(),
            text: " 1,".into(),
        };
        assert_eq!(
            changed("a = [ 2 ]\n", 1, insert("[")).unwrap(),
            "a = [ 1, 2 ]\n"
        );
        assert_eq!(changed("a = 2\n", 1, insert("[")), None);
        let line = LineEdit::NewLine { text: "c".into() };
        assert_eq!(changed("a\nb", 2, line.clone()).unwrap(), "a\nb\nc");
        assert_eq!(changed("a\nb\n", 2, line).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let mut bytes = b"\xff\xfe /dev/sda1\n\xff".to_vec();
        let edit = replace("/dev/sda1", "X");
        change_line(&mut bytes, 1, &[&edit]).unwrap();
        assert_eq!(bytes, b"\xff\xfe X\n\xff");
    }

    #[test]
    fn the_environment_block_of_grub_keeps_its_size() {
        let mut block = b"# GRUB Environment Block\nkernelopts=root=UUID=longer\n".to_vec();
        block.resize(1040, b'#');
        keep_environment_size(&mut block);
        assert_eq!(block.len(), 1024);
        assert!(block.ends_with(b"###"));
    }
}
