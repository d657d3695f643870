//! The table of what is recognised on a guest's serial console.
//!
//! Flat data, one file for each step of a boot: an entry says where to look, for what, and what it
//! means. The words are those of the programs named beside them. Where two entries match one line, the
//! earlier one explains it.

mod firmware;
mod initramfs;
mod kernel;
mod system;

use crate::recognise::{Meaning, Recogniser, Shape};

/// Everything that is recognised, in the order of a boot.
pub fn recognisers() -> impl Iterator<Item = &'static Recogniser> {
    [
        firmware::TABLE,
        kernel::TABLE,
        initramfs::TABLE,
        system::TABLE,
    ]
    .into_iter()
    .flatten()
}

const fn entry(
    id: &'static str,
    shape: Shape,
    pattern: &'static str,
    meaning: Meaning,
    says: &'static str,
) -> Recogniser {
    Recogniser {
        id,
        shape,
        pattern,
        except: None,
        meaning,
        says,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recognise::Meaning::{Login, Stuck};
    use crate::recognise::Shape::Prompt;
    use regex::Regex;

    #[test]
    fn every_entry_has_a_name_of_its_own_and_compiles() {
        for (nth, entry) in recognisers().enumerate() {
            Regex::new(entry.pattern).unwrap_or_else(|error| panic!("{}: {error}", entry.id));
            assert!(recognisers().take(nth).all(|other| other.id != entry.id));
            assert!(!entry.says.is_empty());
            if let Some(except) = entry.except {
                Regex::new(except).unwrap();
            }
            assert_eq!(
                entry.shape == Prompt,
                matches!(entry.meaning, Login | Stuck),
                "{}: prompts wait for a person",
                entry.id
            );
        }
    }
}
