//! `NAME[:LEVEL]`: a codec and how hard it is to try.

use rehost_block::{Error, Result};

/// The two parts as they were typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leveled<'a> {
    /// What stands before the colon.
    pub(super) name: &'a str,
    level: Option<&'a str>,
}

impl<'a> Leveled<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((name, level)) => Self {
                name,
                level: Some(level),
            },
            None => Self {
                name: text,
                level: None,
            },
        }
    }

    /// The level, from 1 to `most`, or `default` without one.
    ///
    /// # Errors
    /// Usage for a level that there is not.
    pub(super) fn level(&self, default: u8, most: u8) -> Result<u8> {
        let Some(level) = self.level else {
            return Ok(default);
        };
        level
            .parse()
            .ok()
            .filter(|level| (1..=most).contains(level))
            .ok_or_else(|| {
                Error::usage(format!("{} has no level {level:?}", self.name))
                    .hint(format!("levels go from 1 (fast) to {most} (small)"))
            })
    }
}
