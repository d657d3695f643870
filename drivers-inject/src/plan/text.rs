//! Changes to lines of text files, gathered from several rules and made once per file.
//!
//! A file is handled as bytes: what is not UTF-8 stays as it is, and so do line ends.

use std::collections::BTreeMap;

use rehost_block::Result;
use rehost_inspect::model::{Place, Severity};

use super::{Change, Edit, LineChange, Note, Planner};

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
    /// `words` at the end of the line, or of its quoted value.
    Append {
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
#[derive(Debug)]
pub(super) struct Wish {
    /// From 1.
    pub(super) line: u32,
    pub(super) edit: LineEdit,
    pub(super) reason: String,
}

/// Wishes by path.
#[derive(Debug, Default)]
pub(super) struct TextChanges(BTreeMap<String, Vec<Wish>>);

impl TextChanges {
    pub(super) fn add(&mut self, path: &str, line: u32, edit: LineEdit, reason: String) {
        let wishes = self.0.entry(path.to_owned()).or_default();
        if !wishes
            .iter()
            .any(|wish| wish.line == line && wish.edit == edit)
        {
            wishes.push(Wish { line, edit, reason });
        }
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
            edits.push(Edit::of_file(
                &path,
                found,
                (&before, after),
                Change::Text { lines },
                (reasons.join("; "), evidence),
            ));
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
    for edit in edits {
        after = match edit {
            LineEdit::Replace { from, to } => {
                replace_words(&after, from.as_bytes(), to.as_bytes())?
            }
            LineEdit::Append { words } => append(&after, words),
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

/// Replaces `from` wherever it is a whole word; `None` when it nowhere is.
pub(super) fn replace_words(line: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
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

/// `words` behind the line's last word, inside the quotes that close it.
fn append(line: &[u8], words: &str) -> Vec<u8> {
    let end = line.trim_ascii_end().len();
    let trimmed = line.get(..end).unwrap_or_default();
    let (body, quote) = match trimmed.split_last() {
        // A quote that is opened on this line: KEY="value".
        Some((quote @ (b'"' | b'\''), body)) if body.contains(quote) => (body, Some(*quote)),
        _ => (trimmed, None),
    };
    let mut out = body.to_vec();
    let opened = quote.is_some() && body.last() == quote.as_ref();
    if !opened && body.last().is_some_and(|last| *last != b' ') {
        out.push(b' ');
    }
    out.extend_from_slice(words.as_bytes());
    out.extend(quote);
    out.extend_from_slice(line.get(end..).unwrap_or_default());
    out
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
    fn words_are_appended_inside_the_quotes() {
        let add = || LineEdit::Append {
            words: "console=ttyS0".into(),
        };
        assert_eq!(
            changed("GRUB_CMDLINE_LINUX=\"\"\n", 1, add()).unwrap(),
            "GRUB_CMDLINE_LINUX=\"console=ttyS0\"\n"
        );
        assert_eq!(
            changed("A='quiet splash'", 1, add()).unwrap(),
            "A='quiet splash console=ttyS0'"
        );
        assert_eq!(
            changed("\tlinux /vmlinuz ro  \n", 1, add()).unwrap(),
            "\tlinux /vmlinuz ro console=ttyS0  \n"
        );
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
