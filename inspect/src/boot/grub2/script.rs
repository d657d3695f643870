//! GRUB 2 scripts as commands: simple commands with their blocks, `if`, `for`, `while`, functions.
//!
//! A script that breaks off in the middle gives the commands before the break and says where it
//! is: GRUB too runs a file command by command.

use std::iter::Peekable;
use std::rc::Rc;
use std::vec::IntoIter;

use super::words::{Token, Word, tokens};

/// Blocks within blocks that are followed. Ours: `grub-mkconfig` nests four deep.
const DEEPEST: usize = 24;

/// A list of commands, shared by those who run it.
pub(super) type Script = Rc<Vec<Command>>;

/// One command.
#[derive(Debug, Clone)]
pub(super) struct Command {
    /// Line, from 1.
    pub(super) line: u32,
    /// What it is.
    pub(super) kind: CommandKind,
}

/// What a command is.
#[derive(Debug, Clone)]
pub(super) enum CommandKind {
    /// Words, and a block for `menuentry` and `submenu`.
    Simple(Vec<Word>, Option<Script>),
    /// Conditions with what they guard, in order; then `else`.
    If(Vec<(Script, Script)>, Script),
    /// `for name in words; do body; done`.
    For(Vec<Word>, Script),
    /// `while condition; do body; done`.
    While(Script, Script),
    /// The same until the condition holds.
    Until(Script, Script),
    /// `function name { body }`.
    Function(String, Script),
}

/// Where and why a script breaks off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Break {
    /// Line, from 1.
    pub(super) line: u32,
    /// In one phrase.
    pub(super) why: &'static str,
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> (Script, Option<Break>) {
    let mut parser = Parser {
        tokens: tokens(text).into_iter().peekable(),
        line: 1,
        depth: 0,
    };
    let mut commands = Vec::new();
    let mut stop = None;
    // Ends because `list` takes at least the token at which it stopped, or there is none left.
    loop {
        match parser.list(&mut commands) {
            Ok(None) => break,
            Ok(Some(_)) => {
                stop.get_or_insert(parser.broken("a word closes what nothing opened"));
            }
            Err(error) => {
                stop.get_or_insert(error);
                break;
            }
        }
    }
    (Rc::new(commands), stop)
}

struct Parser {
    tokens: Peekable<IntoIter<(u32, Token)>>,
    line: u32,
    depth: usize,
}

/// What ended a list.
type Stop = Option<String>;

impl Parser {
    fn broken(&self, why: &'static str) -> Break {
        Break {
            line: self.line,
            why,
        }
    }

    fn next(&mut self) -> Option<Token> {
        let (line, token) = self.tokens.next()?;
        self.line = line;
        Some(token)
    }

    /// Commands up to a closing word or brace (taken and returned) or the end of the file.
    fn list(&mut self, commands: &mut Vec<Command>) -> Result<Stop, Break> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > DEEPEST {
            return Err(self.broken("blocks are nested too deep"));
        }
        // Ends because every round takes at least one token.
        let stop = loop {
            let Some(token) = self.next() else {
                break None;
            };
            let word = match token {
                Token::End => continue,
                Token::Close => break Some("}".to_owned()),
                Token::Open => return Err(self.broken("a block without its command")),
                Token::Word(word) => word,
            };
            let line = self.line;
            let kind = match word.keyword() {
                Some(close @ ("fi" | "then" | "elif" | "else" | "do" | "done")) => {
                    break Some(close.to_owned());
                }
                Some("if") => self.conditional()?,
                Some("for") => {
                    let words = self.words()?;
                    CommandKind::For(words, self.body()?)
                }
                Some("while") => {
                    let condition = self.until(&["do"])?.0;
                    CommandKind::While(condition, self.until(&["done"])?.0)
                }
                Some("until") => {
                    let condition = self.until(&["do"])?.0;
                    CommandKind::Until(condition, self.until(&["done"])?.0)
                }
                Some("function") => self.function()?,
                _ => self.simple(word)?,
            };
            commands.push(Command { line, kind });
        };
        self.depth = self.depth.saturating_sub(1);
        Ok(stop)
    }

    /// A list that must end with one of `closers`; gives which.
    fn until(&mut self, closers: &[&str]) -> Result<(Script, String), Break> {
        let mut commands = Vec::new();
        match self.list(&mut commands)? {
            Some(stop) if closers.contains(&stop.as_str()) => Ok((Rc::new(commands), stop)),
            Some(_) => Err(self.broken("a word closes another block than the open one")),
            None => Err(self.broken("the file ends inside a block")),
        }
    }

    fn conditional(&mut self) -> Result<CommandKind, Break> {
        let mut arms = Vec::new();
        // Ends because every round takes tokens, and the file ends.
        loop {
            let (condition, _) = self.until(&["then"])?;
            let (body, stop) = self.until(&["elif", "else", "fi"])?;
            arms.push((condition, body));
            match stop.as_str() {
                "elif" => {}
                "else" => return Ok(CommandKind::If(arms, self.until(&["fi"])?.0)),
                _ => return Ok(CommandKind::If(arms, Script::default())),
            }
        }
    }

    /// `do … done` after a `for` line.
    fn body(&mut self) -> Result<Script, Break> {
        let (before, _) = self.until(&["do"])?;
        if !before.is_empty() {
            return Err(self.broken("commands between for and do"));
        }
        Ok(self.until(&["done"])?.0)
    }

    fn function(&mut self) -> Result<CommandKind, Break> {
        let words = self.words_until_block()?;
        let name = match words.as_slice() {
            [name] => name.keyword().map(str::to_owned),
            _ => None,
        };
        let name = name.ok_or_else(|| self.broken("a function without a name"))?;
        if !matches!(self.next(), Some(Token::Open)) {
            return Err(self.broken("a function without a block"));
        }
        Ok(CommandKind::Function(name, self.until(&["}"])?.0))
    }

    fn simple(&mut self, first: Word) -> Result<CommandKind, Break> {
        let mut words = vec![first];
        words.extend(self.words_until_block()?);
        if self.tokens.next_if(|(_, t)| *t == Token::Open).is_some() {
            let (block, _) = self.until(&["}"])?;
            return Ok(CommandKind::Simple(words, Some(block)));
        }
        Ok(CommandKind::Simple(words, None))
    }

    /// Words up to the end of the command, which is taken.
    fn words(&mut self) -> Result<Vec<Word>, Break> {
        let words = self.words_until_block()?;
        match self.next() {
            Some(Token::End) | None => Ok(words),
            Some(_) => Err(self.broken("a block where the command should end")),
        }
    }

    /// Words up to the end of the command or a brace, which is not taken.
    fn words_until_block(&mut self) -> Result<Vec<Word>, Break> {
        let mut words = Vec::new();
        while let Some((line, token)) = self.tokens.next_if(|(_, t)| matches!(t, Token::Word(_))) {
            self.line = line;
            if let Token::Word(word) = token {
                words.push(word);
            }
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_nest_and_keep_their_lines() {
        let (script, stop) = parse(
            "if [ a = b ]; then\n  set x=1\nelif true; then y\nelse z; fi\n\
             submenu 'S' {\n menuentry 'M' { linux /k\n }\n}\n\
             for i in 1 2; do echo $i; done\nfunction f {\n true\n}\nwhile false; do a; done\n",
        );
        assert_eq!(stop, None);
        let lines: Vec<u32> = script.iter().map(|c| c.line).collect();
        assert_eq!(lines, [1, 5, 9, 10, 13]);
        let CommandKind::If(arms, other) = &script[0].kind else {
            panic!("{script:?}")
        };
        assert_eq!((arms.len(), other.len()), (2, 1));
        let CommandKind::Simple(words, Some(block)) = &script[1].kind else {
            panic!("{script:?}")
        };
        assert_eq!((words.len(), block.len(), block[0].line), (2, 1, 6));
    }

    #[test]
    fn a_script_that_breaks_off_keeps_what_came_before() {
        for (text, line) in [
            ("a\nb\nmenuentry x {\n linux\n", 4),
            ("a\nb\nif true; then\n", 3),
            ("a\nb\nfunction {\n}\n", 3),
            ("a\nb\n{ x }\n", 3),
        ] {
            let (script, stop) = parse(text);
            assert_eq!(script.len(), 2, "{text}");
            assert_eq!(stop.unwrap().line, line, "{text}");
        }
        let (script, stop) = parse("a\nfi\nb\n");
        assert_eq!((script.len(), stop.unwrap().line), (2, 2));
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_without_recursion_trouble() {
        let (_, stop) = parse(&"if true; then ".repeat(100_000));
        assert_eq!(stop.unwrap().why, "blocks are nested too deep");
        let (_, stop) = parse(&"x { ".repeat(100_000));
        assert!(stop.is_some());
    }
}
