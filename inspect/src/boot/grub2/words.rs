//! GRUB 2 scripts as tokens: words with their quotes and variables, separators, braces.
//!
//! After the GRUB manual, "Writing configuration files directly" (2.06, section 6.3): single
//! quotes keep everything, double quotes keep all but `$`, `"` and `\`. `|`, `&`, `<` and `>` are
//! reserved there and kept as text here.

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As written.
    Text(String),
    /// `$name` or `${name}`; an unquoted one is split at blanks when it is expanded.
    Variable {
        /// Its name.
        name: String,
        /// Whether it stands in double quotes.
        quoted: bool,
    },
}

/// A word, before expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Word {
    /// Its parts, in order.
    pub(super) pieces: Vec<Piece>,
    /// Whether any part was quoted: such a word stays, even when it is empty.
    pub(super) quoted: bool,
}

impl Word {
    /// The word when it is plain text without quotes: only such words are keywords.
    pub(super) fn keyword(&self) -> Option<&str> {
        match (self.quoted, self.pieces.as_slice()) {
            (false, [Piece::Text(text)]) => Some(text),
            _ => None,
        }
    }

    fn push(&mut self, c: char) {
        if let Some(Piece::Text(text)) = self.pieces.last_mut() {
            text.push(c);
        } else {
            self.pieces.push(Piece::Text(c.to_string()));
        }
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word.
    Word(Word),
    /// End of line or `;`.
    End,
    /// `{` standing alone.
    Open,
    /// `}` standing alone.
    Close,
}

/// All tokens with the line (from 1) on which each begins. An unterminated quote ends with the
/// text; the parser sees what there is, as GRUB does.
pub(super) fn tokens(text: &str) -> Vec<(u32, Token)> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1u32;
    // Ends because every round takes at least one character.
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                tokens.push((line, Token::End));
                line = line.saturating_add(1);
            }
            ';' => tokens.push((line, Token::End)),
            '{' => tokens.push((line, Token::Open)),
            '}' => tokens.push((line, Token::Close)),
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            _ if c.is_whitespace() => {}
            _ => {
                let start = line;
                let word = word(c, &mut chars, &mut line);
                if !word.pieces.is_empty() || word.quoted {
                    tokens.push((start, Token::Word(word)));
                }
            }
        }
    }
    tokens
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// The word that begins with `first`.
fn word(first: char, chars: &mut Chars<'_>, line: &mut u32) -> Word {
    let mut word = Word::default();
    let mut next = Some(first);
    let mut quote: Option<char> = None;
    // Ends because every round takes one character, or leaves at a separator.
    while let Some(c) = next {
        if c == '\n' {
            *line = line.saturating_add(1);
        }
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('\''), _) => word.push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.quoted = true;
            }
            (_, '\\') => match chars.next() {
                Some('\n') => *line = line.saturating_add(1),
                Some(escaped) => {
                    if quote.is_some() && !matches!(escaped, '$' | '"' | '\\') {
                        word.push('\\');
                    }
                    word.push(escaped);
                }
                None => word.push('\\'),
            },
            (_, '$') => match variable(chars) {
                Some(name) => word.pieces.push(Piece::Variable {
                    name,
                    quoted: quote.is_some(),
                }),
                None => word.push('$'),
            },
            _ => word.push(c),
        }
        let separates = |c: char| c.is_whitespace() || c == ';';
        next = chars.next_if(|c| quote.is_some() || !separates(*c));
    }
    word
}

/// The name after `$`, if there is one.
fn variable(chars: &mut Chars<'_>) -> Option<String> {
    let mut name = String::new();
    if chars.next_if_eq(&'{').is_some() {
        while let Some(c) = chars.next_if(|c| !matches!(c, '}' | '\n')) {
            name.push(c);
        }
        chars.next_if_eq(&'}');
        return Some(name);
    }
    if let Some(special) = chars.next_if(|c| matches!(c, '?' | '#' | '*' | '@')) {
        return Some(special.to_string());
    }
    if let Some(digit) = chars.next_if(char::is_ascii_digit) {
        return Some(digit.to_string());
    }
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Vec<String> {
        tokens(text)
            .into_iter()
            .map(|(line, token)| match token {
                Token::Word(word) => {
                    let pieces: String = word
                        .pieces
                        .iter()
                        .map(|piece| match piece {
                            Piece::Text(text) => text.clone(),
                            Piece::Variable { name, quoted } => format!("<{name}{quoted}>"),
                        })
                        .collect();
                    format!("{line}:{pieces}")
                }
                Token::End => format!("{line};"),
                Token::Open => format!("{line}{{"),
                Token::Close => format!("{line}}}"),
            })
            .collect()
    }

    #[test]
    fn quotes_variables_and_continuations_make_words() {
        assert_eq!(
            shape("set a='x $b' \"y $c\\\"\"z${d}e # no\nfoo\\\nbar;baz $1 \"\" \\$x"),
            [
                "1:set",
                "1:a=x $b",
                "1:y <ctrue>\"z<dfalse>e",
                "1;",
                "2:foobar",
                "3;",
                "3:baz",
                "3:<1false>",
                "3:",
                "3:$x"
            ]
        );
        assert_eq!(shape("f { a\n}"), ["1:f", "1{", "1:a", "1;", "2}"]);
    }

    #[test]
    fn unterminated_quotes_and_variables_end_with_the_text() {
        for text in ["'abc", "\"a$", "a\\", "${x", "\"${", "$"] {
            assert_eq!(tokens(text).len(), 1, "{text}");
        }
    }
}
