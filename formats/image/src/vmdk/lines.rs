//! Changing a descriptor that exists: only the words that change are touched, everything else stays
//! as its writer left it.

use rehost_block::{Error, Result};

use super::text::cylinders;

/// A descriptor's text as lines.
#[derive(Debug)]
pub(super) struct Lines(Vec<Line>);

/// A line and its number in the text as it was read, from 1; `None` for one that came later. Extents are
/// known by that number, whatever was put in or taken out before them.
#[derive(Debug)]
struct Line {
    number: Option<u64>,
    text: Vec<u8>,
}

impl Lines {
    /// The lines of `text`, without the padding behind it.
    pub(super) fn new(text: &[u8]) -> Self {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Self(
            text.split(|byte| *byte == b'\n')
                .zip(1..)
                .map(|(text, number)| Line {
                    number: Some(number),
                    text: text.to_vec(),
                })
                .collect(),
        )
    }

    /// The text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let lines: Vec<&[u8]> = self.0.iter().map(|line| line.text.as_slice()).collect();
        lines.join(&b'\n')
    }

    /// The line that assigns `key`, and where its value begins.
    fn find(&self, key: &str) -> Option<(usize, usize)> {
        self.0.iter().enumerate().find_map(|(nth, line)| {
            let line = &line.text;
            let split = line.iter().position(|byte| *byte == b'=')?;
            let (name, _) = line.split_at(split);
            name.trim_ascii()
                .eq_ignore_ascii_case(key.as_bytes())
                .then(|| (nth, split.saturating_add(1)))
        })
    }

    /// The value of `key`, without quotes.
    fn value(&self, key: &str) -> Option<String> {
        let (nth, at) = self.find(key)?;
        let value = self.0.get(nth)?.text.get(at..)?.trim_ascii();
        let text = String::from_utf8_lossy(value);
        Some(text.trim_matches('"').to_owned())
    }

    /// Writes `value` behind the `=` of `key`; the line is made behind that of `after` where there
    /// is none.
    ///
    /// # Errors
    /// Corrupt when there is neither.
    pub(super) fn set(&mut self, key: &str, value: &str, after: &str) -> Result<()> {
        let line = format!("{key}={value}").into_bytes();
        if let Some((nth, _)) = self.find(key) {
            if let Some(place) = self.0.get_mut(nth) {
                place.text = line;
            }
            return Ok(());
        }
        let (nth, _) = self.find(after).ok_or_else(|| {
            Error::corrupt(format!("has neither {key} nor {after}")).in_structure("descriptor")
        })?;
        let line = Line {
            number: None,
            text: line,
        };
        self.0.insert(nth.saturating_add(1), line);
        Ok(())
    }

    /// Takes the line of `key` out.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some((nth, _)) = self.find(key) {
            self.0.remove(nth);
        }
    }

    /// Changes the size in the extent line that was number `number`, counted from 1.
    pub(super) fn set_extent(&mut self, number: u64, sectors: u64) {
        let is_it = |line: &&mut Line| line.number == Some(number);
        let Some(Line { text: line, .. }) = self.0.iter_mut().find(is_it) else {
            return;
        };
        let words: Vec<&[u8]> = line.splitn(3, u8::is_ascii_whitespace).collect();
        if let [access, _, rest] = words.as_slice() {
            let sectors = sectors.to_string();
            *line = [access, sectors.as_bytes(), rest].join(&b' ');
        }
    }

    /// Makes the cylinders those of a disk of `sectors`, where heads and sectors per track are named.
    pub(super) fn set_cylinders(&mut self, sectors: u64) {
        const KEY: &str = "ddb.geometry.cylinders";
        let number = |key| self.value(key).and_then(|value| value.parse().ok());
        let (Some(heads), Some(track)) =
            (number("ddb.geometry.heads"), number("ddb.geometry.sectors"))
        else {
            return;
        };
        // ATA's limit.
        let ide = self
            .value("ddb.adapterType")
            .is_some_and(|word| word == "ide");
        let most = if ide { 16_383 } else { u64::from(u32::MAX) };
        let count = cylinders(sectors, heads, track, most);
        if let Some((nth, _)) = self.find(KEY)
            && let Some(line) = self.0.get_mut(nth)
        {
            line.text = format!("{KEY} = \"{count}\"").into_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
        createType=\"x\"\nRW 64 SPARSE \"a b.vmdk\"\nddb.geometry.cylinders = \"1\"\n\
        ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n\0\0\0";

    #[test]
    fn only_what_is_set_changes() {
        let mut lines = Lines::new(TEXT);
        lines.set("CID", "00000002", "version").unwrap();
        lines
            .set("parentFileNameHint", "\"p\"", "createType")
            .unwrap();
        lines.set_extent(6, 10_080);
        lines.set_cylinders(10_080);
        let text = String::from_utf8(lines.encode()).unwrap();
        let expected = String::from_utf8_lossy(TEXT)
            .trim_end_matches('\0')
            .replace("00000001", "00000002")
            .replace("\"x\"\n", "\"x\"\nparentFileNameHint=\"p\"\n")
            .replace("RW 64", "RW 10080")
            .replace("cylinders = \"1\"", "cylinders = \"10\"");
        assert_eq!(text, expected);
        lines.remove("parentFileNameHint");
        assert!(!String::from_utf8(lines.encode()).unwrap().contains("Hint"));
        assert!(lines.set("a", "b", "c").is_err());
    }
}
