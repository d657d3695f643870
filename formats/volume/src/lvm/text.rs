//! The text of LVM2 metadata: sections, numbers, strings and lists.
//!
//! After `lvm.conf(5)` and `lib/config`'s description of the syntax: `name = value`, `name { … }`,
//! values are integers, quoted strings or `[ … ]` of them; `#` begins a comment. Every node keeps
//! its byte offset, so that what is wrong with it can be pointed at. Left out on purpose: floating
//! point numbers and `@tag` values, which the metadata of a volume group never holds.

use rehost_block::{Error, Result};

/// Sections inside one another. LVM's own metadata nests four deep.
const DEEPEST: usize = 12;

/// One `name = value` or `name { … }`.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) value: Value,
    /// Where the name begins, in bytes from the start of the disk.
    pub(crate) at: u64,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Vec<Node>),
}

/// A section being read: its nodes by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    pub(crate) name: &'a str,
    pub(crate) nodes: &'a [Node],
    pub(crate) at: u64,
}

impl Node {
    pub(crate) fn section(&self) -> Result<Section<'_>> {
        match &self.value {
            Value::Section(nodes) => Ok(Section {
                name: &self.name,
                nodes,
                at: self.at,
            }),
            _ => Err(broken(format!("{} is not a section", self.name), self.at)),
        }
    }
}

impl<'a> Section<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    fn need(&self, name: &str) -> Result<&'a Node> {
        self.get(name)
            .ok_or_else(|| broken(format!("{} has no {name}", self.name), self.at))
    }

    /// A number that must be there and must not be negative.
    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let node = self.need(name)?;
        match node.value {
            Value::Number(number) => {
                u64::try_from(number).map_err(|_| broken(format!("{name} is negative"), node.at))
            }
            _ => Err(broken(format!("{name} is not a number"), node.at)),
        }
    }

    /// A string that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str> {
        let node = self.need(name)?;
        match &node.value {
            Value::Text(text) => Ok(text),
            _ => Err(broken(format!("{name} is not a string"), node.at)),
        }
    }

    /// A string that may be missing.
    pub(crate) fn text_if(&self, name: &str) -> Option<&'a str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list that must be there.
    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value]> {
        let node = self.need(name)?;
        match &node.value {
            Value::List(list) => Ok(list),
            _ => Err(broken(format!("{name} is not a list"), node.at)),
        }
    }

    /// Whether the list of strings called `name` holds `word`.
    pub(crate) fn lists(&self, name: &str, word: &str) -> bool {
        self.list(name).is_ok_and(|list| {
            list.iter()
                .any(|value| matches!(value, Value::Text(text) if text == word))
        })
    }

    /// The sections inside the section called `name`; none where it is missing.
    pub(crate) fn sections(&self, name: &str) -> Result<Vec<Section<'a>>> {
        let Some(node) = self.get(name) else {
            return Ok(Vec::new());
        };
        let inner = node.section()?;
        inner.nodes.iter().map(Node::section).collect()
    }
}

/// An error about the text, at byte `at` of the disk.
pub(crate) fn broken(what: impl Into<String>, at: u64) -> Error {
    Error::corrupt(what).in_structure("LVM2 metadata").at(at)
}

/// Parses `text`, which begins at byte `base` of the disk. The number of nodes is bounded by its
/// length.
pub(crate) fn parse(text: &[u8], base: u64) -> Result<Vec<Node>> {
    let mut reader = Reader { text, at: 0, base };
    let nodes = reader.nodes(0)?;
    Ok(nodes)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    base: u64,
}

impl Reader<'_> {
    fn place(&self) -> u64 {
        self.base
            .saturating_add(u64::try_from(self.at).unwrap_or(u64::MAX))
    }

    /// The next byte that is no blank and in no comment; a zero byte ends the text.
    fn peek(&mut self) -> Option<u8> {
        // Ends because every step moves on.
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                0 => return None,
                b'#' => {
                    let rest = self.text.get(self.at..).unwrap_or_default();
                    let line = rest.iter().position(|byte| *byte == b'\n');
                    self.at = self.at.saturating_add(line.unwrap_or(rest.len()));
                }
                byte if byte.is_ascii_whitespace() => self.at = self.at.saturating_add(1),
                byte => return Some(*byte),
            }
        }
        None
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn expected(&self, what: &str) -> Error {
        broken(format!("expected {what}"), self.place())
    }

    fn nodes(&mut self, depth: usize) -> Result<Vec<Node>> {
        if depth > DEEPEST {
            return Err(broken("sections lie too deep in one another", self.place()));
        }
        let mut nodes = Vec::new();
        // Ends because every round takes a name off the text.
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(nodes),
                None => return Err(self.expected("} before the end of the text")),
                Some(b'}') if depth > 0 => {
                    self.step();
                    return Ok(nodes);
                }
                Some(_) => {}
            }
            let at = self.place();
            let name = self.word()?;
            let value = match self.peek() {
                Some(b'=') => {
                    self.step();
                    self.value(true)?
                }
                Some(b'{') => {
                    self.step();
                    Value::Section(self.nodes(depth.saturating_add(1))?)
                }
                _ => return Err(self.expected("= or {")),
            };
            nodes.push(Node { name, value, at });
        }
    }

    fn word(&mut self) -> Result<String> {
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.+/".contains(byte);
        let len = rest
            .iter()
            .position(|byte| !known(byte))
            .unwrap_or(rest.len());
        if len == 0 {
            return Err(self.expected("a name"));
        }
        let word = String::from_utf8_lossy(rest.get(..len).unwrap_or_default()).into_owned();
        self.at = self.at.saturating_add(len);
        Ok(word)
    }

    fn quoted(&mut self) -> Result<String> {
        self.step();
        let mut bytes = Vec::new();
        // Ends because every round takes a byte off the text.
        while let Some(byte) = self.text.get(self.at) {
            self.step();
            match byte {
                b'"' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => {
                    let next = self.text.get(self.at).copied();
                    bytes.extend(next);
                    self.step();
                }
                byte => bytes.push(*byte),
            }
        }
        Err(self.expected("a quote before the end of the text"))
    }

    fn value(&mut self, lists: bool) -> Result<Value> {
        match self.peek() {
            Some(b'"') => self.quoted().map(Value::Text),
            Some(b'[') if lists => self.list(),
            Some(b'-' | b'0'..=b'9') => {
                let at = self.place();
                let word = self.word()?;
                word.parse()
                    .map(Value::Number)
                    .map_err(|_| broken(format!("{word} is not a whole number"), at))
            }
            _ => Err(self.expected("a value")),
        }
    }

    fn list(&mut self) -> Result<Value> {
        self.step();
        let mut values = Vec::new();
        // Ends because every round takes at least one byte off the text.
        loop {
            match self.peek() {
                Some(b']') => {
                    self.step();
                    return Ok(Value::List(values));
                }
                Some(b',') => self.step(),
                _ => values.push(self.value(false)?),
            }
        }
    }
}
