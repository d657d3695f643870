//! `Level`: how much time the search for repeats may take.

/// A compression level from 1 (fast) to 9 (small). 6 makes streams no larger than zlib's 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(u8);

/// When a repeat is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The first one found is taken.
    None,
    /// Unless the next byte begins a better one.
    One,
    /// Unless one of the next two bytes does.
    Two,
}

/// What a level means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) patience: Patience,
    /// Places looked at for one repeat.
    pub(crate) depth: u32,
    /// A repeat of this length is not improved on.
    pub(crate) nice: usize,
}

impl Level {
    /// Level `level`; nothing when it is not one from 1 to 9.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if matches!(level, 1..=9) {
            Some(Self(level))
        } else {
            None
        }
    }

    pub(crate) const fn effort(self) -> Effort {
        let (patience, depth, nice) = match self.0 {
            0 | 1 => (Patience::None, 2, 16),
            2 => (Patience::None, 6, 16),
            3 => (Patience::None, 12, 24),
            4 => (Patience::One, 8, 24),
            5 => (Patience::One, 16, 32),
            6 => (Patience::One, 32, 64),
            7 => (Patience::Two, 48, 96),
            8 => (Patience::Two, 96, 160),
            _ => (Patience::Two, 512, 258),
        };
        Effort {
            patience,
            depth,
            nice,
        }
    }
}
