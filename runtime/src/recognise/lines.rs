//! `Lines`: lines of text out of the bytes a guest sends to a terminal.
//!
//! Escape sequences (ECMA-48: CSI, OSC and the short ones) are taken out; those that move the cursor
//! to another place end the line, because what follows is shown elsewhere. A carriage return
//! without a line feed means that the line is about to be overwritten, as progress displays do.
//! Memory is bounded whatever the guest sends: a line is cut at [`LINE_MAX`] bytes, an escape
//! sequence that does not end is given up after [`ESCAPE_MAX`].
//!
//! Left out on purpose: a screen model. Text that a full-screen program paints is seen as the pieces
//! it sends.

/// Bytes of a line that are looked at.
pub(crate) const LINE_MAX: usize = 4096;
/// Bytes of an escape sequence before it is taken for text gone wrong.
const ESCAPE_MAX: usize = 256;

/// What the assembler hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A line that has ended.
    Line(&'a str),
    /// A line that is being overwritten.
    Overwritten(&'a str),
    /// The beginning of a line that has not ended yet, as a prompt is. It comes again, longer,
    /// and at last as one of the others.
    Open(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte: one more byte belongs to it.
    Short,
    /// Inside a control sequence.
    Csi,
    /// Inside an operating system command or another string.
    Str,
    /// Inside such a string, after ESC.
    StrEscape,
}

/// Assembles lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    state: State,
    escape_len: usize,
    returned: bool,
    cut: bool,
}

impl Lines {
    /// Takes what the guest sent and hands out what it makes.
    pub(crate) fn push(&mut self, bytes: &[u8], mut see: impl FnMut(Piece<'_>)) {
        for &byte in bytes {
            self.byte(byte, &mut see);
        }
        if !self.line.is_empty() && !self.returned {
            see(Piece::Open(&String::from_utf8_lossy(&self.line)));
        }
    }

    /// The unfinished line.
    pub(crate) fn open(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    /// Nothing more will come: what is left is the last line.
    pub(crate) fn finish(&mut self, mut see: impl FnMut(Piece<'_>)) {
        self.end(&mut see);
    }

    fn byte(&mut self, byte: u8, see: &mut impl FnMut(Piece<'_>)) {
        if self.state != State::Text {
            self.escape_len = self.escape_len.saturating_add(1);
            // A line feed belongs to no escape sequence.
            if self.escape_len > ESCAPE_MAX || byte == b'\n' {
                self.state = State::Text;
            }
        }
        match self.state {
            State::Text => self.text(byte, see),
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Csi,
                    b']' | b'P' | b'X' | b'^' | b'_' => State::Str,
                    0x20..=0x2f => State::Short,
                    _ => State::Text,
                };
            }
            State::Short => self.state = State::Text,
            State::Csi => match byte {
                0x20..=0x3f => {}
                0x40..=0x7e => {
                    self.state = State::Text;
                    // Cursor up, down, next and previous line, position, row; clear the screen.
                    if matches!(byte, b'A' | b'B' | b'E' | b'F' | b'H' | b'J' | b'd' | b'f') {
                        self.end(see);
                    }
                }
                _ => self.state = State::Text,
            },
            State::Str => match byte {
                0x07 => self.state = State::Text,
                0x1b => self.state = State::StrEscape,
                _ => {}
            },
            State::StrEscape => {
                self.state = if byte == b'\\' {
                    State::Text
                } else {
                    State::Str
                };
            }
        }
    }

    fn text(&mut self, byte: u8, see: &mut impl FnMut(Piece<'_>)) {
        match byte {
            0x1b => {
                self.state = State::Escape;
                self.escape_len = 0;
            }
            b'\n' => self.end(see),
            b'\r' => self.returned = true,
            0x08 | 0x7f => {
                if !self.cut {
                    self.line.pop();
                }
            }
            b'\t' => self.put(b' ', see),
            0x00..=0x1f => {}
            _ => self.put(byte, see),
        }
    }

    fn put(&mut self, byte: u8, see: &mut impl FnMut(Piece<'_>)) {
        if self.returned {
            if !self.line.is_empty() {
                see(Piece::Overwritten(&String::from_utf8_lossy(&self.line)));
            }
            self.clear();
        }
        if self.line.len() < LINE_MAX {
            self.line.push(byte);
        } else {
            self.cut = true;
        }
    }

    fn end(&mut self, see: &mut impl FnMut(Piece<'_>)) {
        if !self.line.is_empty() {
            see(Piece::Line(&String::from_utf8_lossy(&self.line)));
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.line.clear();
        self.returned = false;
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finished lines, and the open one at the end.
    fn lines(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let mut all = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, |piece| match piece {
                Piece::Line(line) => all.push(line.to_owned()),
                Piece::Overwritten(line) => all.push(format!("~{line}")),
                Piece::Open(_) => {}
            });
        }
        (all, lines.open())
    }

    #[test]
    fn colours_titles_and_charsets_vanish() {
        let (all, open) = lines(&[
            b"[\x1b[0;32m  OK  \x1b[0m] Reached \x1b[0;1;39mmulti-user.target\x1b[0m\r\n",
            b"\x1b]0;title\x07\x1b]2;other\x1b\\\x1b(B\x1b7\x1bMhost login: ",
        ]);
        assert_eq!(all, ["[  OK  ] Reached multi-user.target"]);
        assert_eq!(open, "host login: ");
    }

    #[test]
    fn cursor_moves_end_a_line() {
        let (all, open) = lines(&[b"\x1b[2J\x1b[1;1HSeaBIOS\x1b[2;1HBooting\x1b[H\x1b[0mgrub> "]);
        assert_eq!(all, ["SeaBIOS", "Booting"]);
        assert_eq!(open, "grub> ");
    }

    #[test]
    fn a_lone_carriage_return_overwrites() {
        let (all, open) = lines(&[b"a job (1s)\r", b"\x1b[Ka job (2s)\r", b"\n\0done\r\n"]);
        assert_eq!(all, ["~a job (1s)", "a job (2s)", "done"]);
        assert_eq!(open, "");
    }

    #[test]
    fn an_endless_line_is_cut_and_the_next_one_is_seen() {
        let mut assembler = Lines::default();
        let mut longest = 0;
        for _ in 0..1000 {
            assembler.push(&[b'x'; 1000], |piece| {
                if let Piece::Open(line) = piece {
                    longest = longest.max(line.len());
                }
            });
        }
        assert_eq!(longest, LINE_MAX);
        let mut ended = Vec::new();
        assembler.push(b"\nhost login: ", |piece| match piece {
            Piece::Line(line) => ended.push(line.len()),
            Piece::Open(line) => assert_eq!(line, "host login: "),
            Piece::Overwritten(_) => {}
        });
        assert_eq!(ended, [LINE_MAX]);
    }

    #[test]
    fn an_escape_sequence_without_end_swallows_little() {
        let mut bytes = b"\x1b]0;".to_vec();
        bytes.extend([b'x'; 10_000]);
        bytes.extend(b"\nhost login: ");
        assert_eq!(lines(&[&bytes]).1, "host login: ");
        assert_eq!(lines(&[b"\x1b]no end\nhost login: "]).1, "host login: ");
    }
}
