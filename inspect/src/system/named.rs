//! The names that a guest gives to volumes itself: `/etc/crypttab` and `mdadm.conf`.
//!
//! crypttab(5), mdadm.conf(5).

use crate::reader::Reader;
use crate::text::Text;

const MDADM: [&str; 2] = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];

/// Of each encrypted volume: what its plain side is called, and what it is on.
pub(crate) fn crypttab(reader: &Reader<'_>) -> Vec<(String, String)> {
    let text = reader.text("/etc/crypttab");
    text.iter().flat_map(encrypted).collect()
}

/// Of each array: its name below `/dev`, and its UUID as written.
pub(crate) fn arrays(reader: &Reader<'_>) -> Vec<(String, String)> {
    let text = MDADM.into_iter().find_map(|path| reader.text(path));
    text.iter().flat_map(named).collect()
}

fn encrypted(text: &Text) -> Vec<(String, String)> {
    text.statements()
        .filter_map(|(_, statement)| {
            let mut fields = statement.split_whitespace();
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

fn named(text: &Text) -> Vec<(String, String)> {
    text.statements()
        .filter_map(|(_, statement)| {
            let mut words = statement.split_whitespace();
            // Keywords may be shortened to three letters, in either case.
            if !words.next()?.to_lowercase().starts_with("arr") {
                return None;
            }
            let device = words.next()?;
            let uuid = words.find_map(|word| {
                let (key, value) = word.split_once('=')?;
                key.eq_ignore_ascii_case("uuid").then(|| value.to_owned())
            })?;
            Some((device.trim_start_matches("/dev/").to_owned(), uuid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_what_they_name() {
        let text = Text::new(
            "/etc/crypttab",
            b"# <target> <source>\nsda5_crypt UUID=5e4d none luks,discard\nlone\n",
        );
        let expected = [("sda5_crypt".to_owned(), "UUID=5e4d".to_owned())];
        assert_eq!(encrypted(&text), expected);
        let text = Text::new(
            "/etc/mdadm/mdadm.conf",
            b"HOMEHOST <system>\nARRAY /dev/md/root metadata=1.2 UUID=c04c3dd1:7a350f35:2cff2a2b:d7bc1ba4 name=h:root\narray <ignore> UUID=0:0\nARRAY /dev/md1\n",
        );
        let expected = ("md/root", "c04c3dd1:7a350f35:2cff2a2b:d7bc1ba4");
        let found = named(&text);
        assert_eq!((&*found[0].0, &*found[0].1), expected);
        assert_eq!(found.len(), 2);
    }
}
