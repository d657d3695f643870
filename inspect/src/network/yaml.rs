//! YAML as netplan files are written in it: one document as a tree of maps, lists and scalars, each with
//! its line.
//!
//! YAML 1.2.2, read by saphyr-parser's events. Aliases stand for what their anchor named. Left out on
//! purpose, refused by name with the line: several documents, keys that are no scalars. Tags are passed
//! over, and so is the merge key `<<`, which netplan does not know either. Nothing here recurses deeper than
//! [`DEEPEST`], and aliases do not make a tree of more than [`MOST`] values, long ones counted by length.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};

/// Deepest nesting that is followed. Ours: netplan needs eight.
const DEEPEST: usize = 32;

/// Most values of a document, those behind aliases counted each time. Ours: a machine with a thousand
/// interfaces has ten thousand.
const MOST: usize = 1 << 16;

/// Bytes of a scalar that count as one more value: an alias copies them all. Ours: addresses and names
/// are about as long.
const PART: usize = 16;

/// A value with the line on which it begins; that of a key, where it is behind one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
    /// How many values it is, itself among them; a scalar is one more for each [`PART`] of it, and so
    /// is a key.
    count: usize,
    /// How many of them are within each other.
    depth: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Why and where a text is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) line: u32,
    pub(super) why: String,
}

impl Node {
    /// The value of `key` of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().find(|(name, _)| name == key)?;
        Some(&found.1)
    }

    /// The pairs of a map; none of anything else.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// A scalar's text.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    fn new(line: u32, value: Value) -> Self {
        let within: Vec<&Self> = match &value {
            Value::Scalar(_) => Vec::new(),
            Value::List(items) => items.iter().collect(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node).collect(),
        };
        let parts = |text: &str| text.len().checked_div(PART).unwrap_or_default();
        let own = match &value {
            Value::Scalar(text) => parts(text),
            Value::List(_) => 0,
            Value::Map(entries) => entries
                .iter()
                .fold(0usize, |sum, (key, _)| sum.saturating_add(parts(key))),
        };
        let count = within.iter().fold(own.saturating_add(1), |sum, node| {
            sum.saturating_add(node.count)
        });
        let depth = within.iter().map(|node| node.depth).max().unwrap_or(0);
        Self {
            line,
            count,
            depth: depth.saturating_add(1),
            value,
        }
    }
}

/// A list or map whose end was not reached yet.
struct Open {
    line: u32,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    /// Pairs, and a key that waits for its value.
    Map(Vec<(String, Node)>, Option<(String, u32)>),
}

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, Refused> {
    let refuse = |line: u32, why: &str| Refused {
        line,
        why: why.to_owned(),
    };
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: BTreeMap<usize, Node> = BTreeMap::new();
    let mut root: Option<Node> = None;
    let mut room = MOST;
    let left = |room: usize, node: &Node, line: u32| {
        room.checked_sub(node.count)
            .ok_or_else(|| refuse(line, "more values than any netplan file has"))
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Refused {
            line: number(error.marker().line()),
            why: error.info().to_owned(),
        })?;
        let line = number(span.start.line());
        let (node, anchor) = match event {
            Event::Scalar(text, _, anchor, _) => {
                (Node::new(line, Value::Scalar(text.into_owned())), anchor)
            }
            Event::SequenceStart(anchor, _) => {
                open.push(Open {
                    line,
                    anchor,
                    kind: Kind::List(Vec::new()),
                });
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open.push(Open {
                    line,
                    anchor,
                    kind: Kind::Map(Vec::new(), None),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(ended) = open.pop() else {
                    return Err(refuse(line, "an end without a beginning"));
                };
                let value = match ended.kind {
                    Kind::List(items) => Value::List(items),
                    Kind::Map(entries, _) => Value::Map(entries),
                };
                (Node::new(ended.line, value), ended.anchor)
            }
            Event::Alias(anchor) => match anchors.get(&anchor) {
                Some(node) => {
                    // Before the copy, which is what the room is for.
                    left(room, node, line)?;
                    (node.clone(), 0)
                }
                None => return Err(refuse(line, "an alias within what it stands for")),
            },
            Event::DocumentStart(_) if root.is_some() => {
                return Err(refuse(line, "several documents"));
            }
            _ => continue,
        };
        room = left(room, &node, line)?;
        if open.len().saturating_add(node.depth) > DEEPEST {
            return Err(refuse(line, "nesting deeper than any netplan file's"));
        }
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut().map(|last| &mut last.kind) {
            None => root = Some(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map(entries, waiting)) => match (waiting.take(), node.value) {
                (Some((key, at)), value) => entries.push((
                    key,
                    Node {
                        line: at,
                        value,
                        ..node
                    },
                )),
                (None, Value::Scalar(key)) => *waiting = Some((key, line)),
                (None, _) => return Err(refuse(line, "a key that is no scalar")),
            },
        }
    }
    Ok(root.unwrap_or_else(|| Node::new(1, Value::Scalar(String::new()))))
}

fn number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lists_and_flow_values_nest() {
        let node = parse(
            "# c\n---\na:\n  b: [x, 'y z', {k: v}]\n  c:\n  - to: default # d\n    via: \"1.2.3.4\"\n  \
             - plain\n  e: {}\nf: a#b\n",
        )
        .unwrap();
        let a = node.get("a").unwrap();
        assert_eq!(a.line, 3);
        assert_eq!(a.get("b").unwrap().items()[1].scalar(), Some("y z"));
        assert_eq!(
            a.get("b").unwrap().items()[2].get("k").unwrap().scalar(),
            Some("v")
        );
        let c = a.get("c").unwrap().items();
        assert_eq!(c[0].get("via").unwrap().scalar(), Some("1.2.3.4"));
        assert_eq!(c[0].get("via").unwrap().line, 7);
        assert_eq!(c[1].scalar(), Some("plain"));
        assert_eq!(node.get("f").unwrap().scalar(), Some("a#b"));
    }

    #[test]
    fn aliases_stand_for_what_they_name_and_values_may_go_over_lines() {
        let node = parse(
            "base: &base\n  mtu: 9000\n  names: [a,\n    b]\none: *base\ntwo:\n  text: >-\n    x\n    y\n  \
             mtu: &m 1\n  same: *m\n",
        )
        .unwrap();
        let one = node.get("one").unwrap();
        assert_eq!(one.get("mtu").unwrap().scalar(), Some("9000"));
        assert_eq!(one.get("names").unwrap().items().len(), 2);
        assert_eq!(one.line, 5);
        let two = node.get("two").unwrap();
        assert_eq!(two.get("text").unwrap().scalar(), Some("x y"));
        assert_eq!(two.get("same").unwrap().scalar(), Some("1"));
    }

    #[test]
    fn what_is_left_out_or_wrong_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\n---\nb: 1\n", 2),
            ("a: *nobody\n", 1),
            ("a: 1\n? [x]\n: 2\n", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
        for text in ["a: 'x\n", "a:\n  b: 1\n plain\n", "a: &x [*x]\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn deep_nesting_and_aliases_of_aliases_end_with_a_refusal() {
        assert!(parse(&format!("a: {}{}", "[".repeat(1000), "]".repeat(1000))).is_err());
        let mut deep = String::new();
        for depth in 0..1000 {
            deep.push_str(&format!("{}a:\n", " ".repeat(depth)));
        }
        assert!(parse(&deep).is_err());
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let alias = format!("*a{}", level - 1);
            laughs.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![alias; 9].join(", ")
            ));
        }
        let long = |aliases: usize| {
            let scalar = "x".repeat(500 << 10);
            format!("a: &x \"{scalar}\"\nb:\n{}", "- *x\n".repeat(aliases))
        };
        assert!(parse(&long(0)).is_ok());
        // A key is at most 1 KiB long.
        let keys = format!(
            "a: &x {{{}: 1}}\nb:\n{}",
            "k".repeat(1000),
            "- *x\n".repeat(10_000)
        );
        for text in [laughs, long(60_000), keys] {
            let error = parse(&text).unwrap_err();
            assert!(error.why.contains("more values"), "{error:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn arbitrary_text_never_panics(text in "[a-c:\\- \\[\\]{},'\"#&*!?|>%\\n\\t]{0,120}") {
            let _ = parse(&text);
        }
    }
}
