//! Text files of a guest: lines with their numbers, shell assignments, INI sections.
//!
//! Everything here is bounded by the length of the text; nothing is executed or expanded.

use crate::model::Place;

/// A text file of the guest, in memory.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    /// Its path in the guest.
    pub(crate) path: String,
    /// Its content; bytes that are not UTF-8 are replaced.
    pub(crate) content: String,
}

impl Text {
    /// The text of a file read as bytes.
    pub(crate) fn new(path: impl Into<String>, bytes: &[u8]) -> Self {
        Self {
            path: path.into(),
            content: String::from_utf8_lossy(bytes).into_owned(),
        }
    }

    /// The lines and their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (u32, &str)> {
        (1u32..).zip(self.content.lines())
    }

    /// The lines that say something: trimmed, without empty ones and `#` comments.
    pub(crate) fn statements(&self) -> impl Iterator<Item = (u32, &str)> {
        self.lines()
            .map(|(number, line)| (number, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }

    /// A line of this file as evidence.
    pub(crate) fn place(&self, line: u32) -> Place {
        Place::line(&self.path, line)
    }

    /// Shell assignments (`KEY=value`, quotes removed, `export` skipped), in order.
    pub(crate) fn assignments(&self) -> Vec<Assignment> {
        self.statements()
            .filter_map(|(line, text)| {
                let text = text.strip_prefix("export ").unwrap_or(text).trim_start();
                let (key, value) = text.split_once('=')?;
                let key = key.strip_suffix('+').unwrap_or(key);
                is_name(key).then(|| Assignment {
                    key: key.to_owned(),
                    value: unquote(value),
                    line,
                })
            })
            .collect()
    }

    /// The last assignment of `key`: the one that a shell would end up with.
    pub(crate) fn assigned(&self, key: &str) -> Option<Assignment> {
        self.assignments()
            .into_iter()
            .rev()
            .find(|assignment| assignment.key == key)
    }

    /// `key = value` lines under their `[section]` (INI, systemd and NetworkManager files).
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let mut section = String::new();
        let mut block = 0usize;
        let mut settings = Vec::new();
        for (line, text) in self.statements() {
            if text.starts_with(';') {
                continue;
            }
            if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                section = name.trim().to_owned();
                block = block.saturating_add(1);
            } else if let Some((key, value)) = text.split_once('=') {
                settings.push(Setting {
                    section: section.clone(),
                    block,
                    key: key.trim().to_owned(),
                    value: value.trim().to_owned(),
                    line,
                });
            }
        }
        settings
    }
}

/// `KEY=value` of a shell file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Left of `=`.
    pub(crate) key: String,
    /// Right of it, without quotes.
    pub(crate) value: String,
    /// Line, from 1.
    pub(crate) line: u32,
}

/// `key=value` of a file with sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The section it stands in, without brackets.
    pub(crate) section: String,
    /// How many section headers came before: tells two sections of one name apart.
    pub(crate) block: usize,
    /// Left of `=`, trimmed.
    pub(crate) key: String,
    /// Right of it, trimmed.
    pub(crate) value: String,
    /// Line, from 1.
    pub(crate) line: u32,
}

fn is_name(key: &str) -> bool {
    !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// The value of a shell word: quotes and backslashes resolved, up to an unquoted blank, `;` or
/// comment. Variables stay as written: nothing of the guest's is evaluated.
pub(crate) fn unquote(word: &str) -> String {
    let mut value = String::new();
    let mut quote: Option<char> = None;
    let mut chars = word.trim_start().chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"'), '\\') => match chars.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => value.push(next),
                Some(next) => value.extend(['\\', next]),
                None => value.push('\\'),
            },
            (Some(_), _) => value.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '\\') => value.extend(chars.next()),
            (None, ';') => break,
            (None, _) if c.is_whitespace() => break,
            (None, _) => value.push(c),
        }
    }
    value
}

/// Resolves the octal escapes of mount tables: `\040` is a blank.
pub(crate) fn unescape_octal(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    // Ends because every round takes at least one byte of `rest`.
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.first_chunk::<3>().filter(|_| *first == b'\\');
        let value = octal.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Orders version strings as people mean them: runs of digits by value, the rest by letters;
/// `~` sorts before everything (`6.1~rc1` before `6.1`).
pub(crate) fn compare_versions(left: &str, right: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    // Ends because every round that does not return takes at least one byte of both sides.
    loop {
        let (Some(a), Some(b)) = (left.first(), right.first()) else {
            return match (left.first(), right.first()) {
                (Some(b'~'), None) => Ordering::Less,
                (None, Some(b'~')) => Ordering::Greater,
                (a, b) => a.is_some().cmp(&b.is_some()),
            };
        };
        if a.is_ascii_digit() && b.is_ascii_digit() {
            let (x, rest_x) = digits(left);
            let (y, rest_y) = digits(right);
            let by_value = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if by_value != Ordering::Equal {
                return by_value;
            }
            left = rest_x;
            right = rest_y;
        } else if a != b {
            return match (a, b) {
                (b'~', _) => Ordering::Less,
                (_, b'~') => Ordering::Greater,
                _ => a.cmp(b),
            };
        } else {
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        }
    }
}

/// The leading digits, without leading zeroes, and the rest.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeroes = number.iter().take_while(|byte| **byte == b'0').count();
    (number.get(zeroes..).unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    #[test]
    fn shell_values_lose_their_quotes_and_comments() {
        for (written, meant) in [
            (
                "\"Debian GNU/Linux 12 (bookworm)\"",
                "Debian GNU/Linux 12 (bookworm)",
            ),
            ("'it'\\''s'", "it's"),
            ("plain # comment", "plain"),
            ("\"a \\\"b\\\" \\n\"", "a \"b\" \\n"),
            ("", ""),
            ("\"unterminated", "unterminated"),
        ] {
            assert_eq!(unquote(written), meant, "{written}");
        }
    }

    #[test]
    fn the_last_assignment_wins_and_knows_its_line() {
        let text = Text::new("/etc/default/grub", b"A=1\n# A=9\nexport A=\"2 3\"\nB+=x\n");
        let last = text.assigned("A").unwrap();
        assert_eq!((last.value.as_str(), last.line), ("2 3", 3));
        assert_eq!(text.assigned("B").unwrap().value, "x");
        assert!(text.assigned("C").is_none());
    }

    #[test]
    fn mount_table_escapes_are_resolved() {
        assert_eq!(unescape_octal("/mnt/my\\040disk"), "/mnt/my disk");
        assert_eq!(unescape_octal("a\\"), "a\\");
        assert_eq!(unescape_octal("a\\04"), "a\\04");
        assert_eq!(unescape_octal("\\777x"), "\\777x");
    }

    #[test]
    fn versions_are_ordered_by_value_of_their_numbers() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-18-amd64"),
            ("4.18.0-80.el8", "4.18.0-193.el8"),
            ("6.1~rc1", "6.1"),
            ("6.1", "6.1.1"),
            ("5.10.0", "6.1"),
        ] {
            assert_eq!(
                compare_versions(older, newer),
                Ordering::Less,
                "{older} {newer}"
            );
            assert_eq!(compare_versions(newer, older), Ordering::Greater);
        }
        assert_eq!(compare_versions("6.01", "6.1"), Ordering::Equal);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn arbitrary_text_never_panics_and_versions_are_ordered(a in ".{0,40}", b in ".{0,40}") {
            let text = Text::new("/x", a.as_bytes());
            text.assignments();
            text.settings();
            unescape_octal(&a);
            assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
        }
    }
}
