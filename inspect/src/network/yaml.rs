//! The part of YAML that netplan files are written in: nested maps, lists and plain scalars by
//! indentation, and `[…]`/`{…}` on one line.
//!
//! Left out on purpose, refused by name with the line: anchors, aliases, tags, multi-line scalars,
//! several documents. Nothing here recurses deeper than [`DEEPEST`].

/// Deepest nesting that is followed. Ours: netplan needs eight.
const DEEPEST: usize = 32;

/// A value with the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
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
    pub(super) why: &'static str,
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
}

struct Line<'a> {
    number: u32,
    indent: usize,
    text: &'a str,
}

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, Refused> {
    let mut lines = Vec::new();
    for (number, raw) in (1u32..).zip(text.lines()) {
        let text = without_comment(raw).trim_end();
        let body = text.trim_start_matches(' ');
        if body.is_empty() || (body == "---" && lines.is_empty()) {
            continue;
        }
        if body.starts_with('\t') {
            return Err(refuse(number, "tabs in the indentation"));
        }
        if body == "---" || body == "..." || body.starts_with('%') {
            return Err(refuse(number, "several documents"));
        }
        lines.push(Line {
            number,
            indent: text.len().saturating_sub(body.len()),
            text: body,
        });
    }
    let mut rest = lines.as_slice();
    let Some(first) = rest.first() else {
        return Ok(scalar(1, ""));
    };
    let indent = first.indent;
    let node = block(&mut rest, indent, 0)?;
    match rest.first() {
        Some(line) => Err(refuse(line.number, "indentation that fits nothing above")),
        None => Ok(node),
    }
}

fn refuse(line: u32, why: &'static str) -> Refused {
    Refused { line, why }
}

fn scalar(line: u32, text: &str) -> Node {
    Node {
        line,
        value: Value::Scalar(text.to_owned()),
    }
}

/// A `#` at the start or after a blank, outside quotes, begins a comment.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(c),
            (None, '#') if before.is_whitespace() => return line.get(..at).unwrap_or(line),
            _ => {}
        }
        before = c;
    }
    line
}

/// The map, list or scalar whose lines are indented by `indent`; takes them from `lines`.
fn block(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Node, Refused> {
    let Some(first) = lines.first() else {
        return Ok(scalar(1, ""));
    };
    let line = first.number;
    if depth > DEEPEST {
        return Err(refuse(line, "nesting deeper than any netplan file's"));
    }
    if is_item(first.text) {
        return list(lines, indent, depth);
    }
    if split_key(first.text).is_none() {
        let node = inline(line, first.text, depth)?;
        *lines = lines.get(1..).unwrap_or_default();
        return Ok(node);
    }
    let mut entries = Vec::new();
    // Ends because every round takes at least one line.
    while let Some(here) = lines.first().filter(|here| here.indent == indent) {
        let number = here.number;
        let Some((key, value)) = split_key(here.text) else {
            return Err(refuse(number, "a line without a key in a map"));
        };
        *lines = lines.get(1..).unwrap_or_default();
        let node = after_key(lines, number, value, indent, depth)?;
        entries.push((key, node));
    }
    Ok(Node {
        line,
        value: Value::Map(entries),
    })
}

/// The value behind `key:`, on its line or below it.
fn after_key(
    lines: &mut &[Line<'_>],
    number: u32,
    value: &str,
    indent: usize,
    depth: usize,
) -> Result<Node, Refused> {
    let deeper = depth.saturating_add(1);
    if !value.is_empty() {
        return inline(number, value, deeper);
    }
    match lines.first() {
        Some(next) if next.indent > indent => {
            let below = next.indent;
            let mut node = block(lines, below, deeper)?;
            node.line = number;
            Ok(node)
        }
        // A list may stand at the indentation of its key.
        Some(next) if next.indent == indent && is_item(next.text) => list(lines, indent, deeper),
        _ => Ok(scalar(number, "")),
    }
}

fn list(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Node, Refused> {
    let line = lines.first().map_or(1, |line| line.number);
    if depth > DEEPEST {
        return Err(refuse(line, "nesting deeper than any netplan file's"));
    }
    let deeper = depth.saturating_add(1);
    let mut items = Vec::new();
    // Ends because every round takes at least one line.
    while let Some(here) = lines
        .first()
        .filter(|here| here.indent == indent && is_item(here.text))
    {
        let number = here.number;
        let after = here.text.get(1..).unwrap_or_default();
        let value = after.trim_start();
        let inner = indent
            .saturating_add(1)
            .saturating_add(after.len().saturating_sub(value.len()));
        *lines = lines.get(1..).unwrap_or_default();
        if value.is_empty() {
            let below = lines.first().filter(|next| next.indent > indent);
            items.push(match below.map(|next| next.indent) {
                Some(below) => block(lines, below, deeper)?,
                None => scalar(number, ""),
            });
            continue;
        }
        let Some((key, value)) = split_key(value) else {
            items.push(inline(number, value, deeper)?);
            continue;
        };
        // `- to: default` begins a map whose other keys are indented like `to`.
        let mut entries = vec![(key, after_key(lines, number, value, inner, deeper)?)];
        if lines.first().is_some_and(|next| next.indent == inner) {
            match block(lines, inner, deeper)?.value {
                Value::Map(more) => entries.extend(more),
                _ => return Err(refuse(number, "a map that goes on as something else")),
            }
        }
        items.push(Node {
            line: number,
            value: Value::Map(entries),
        });
    }
    Ok(Node {
        line,
        value: Value::List(items),
    })
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

/// `key: value` or `key:`; quotes around the key are removed.
fn split_key(text: &str) -> Option<(String, &str)> {
    let (key, value) = match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = text.get(1..)?.split_once(quote)?;
            (key, rest.strip_prefix(':')?)
        }
        '[' | '{' => return None,
        _ => match text.split_once(": ") {
            Some(parts) => parts,
            None => (text.strip_suffix(':')?, ""),
        },
    };
    Some((key.trim().to_owned(), value.trim()))
}

/// A value that stands on one line.
fn inline(line: u32, text: &str, depth: usize) -> Result<Node, Refused> {
    if depth > DEEPEST {
        return Err(refuse(line, "nesting deeper than any netplan file's"));
    }
    let deeper = depth.saturating_add(1);
    match text.chars().next() {
        Some('&' | '*' | '!') => Err(refuse(line, "anchors, aliases and tags")),
        Some('|' | '>') => Err(refuse(line, "scalars of several lines")),
        Some('[') => {
            let inside = text.get(1..).and_then(|rest| rest.strip_suffix(']'));
            let inside =
                inside.ok_or_else(|| refuse(line, "a list of several lines in brackets"))?;
            let items: Result<Vec<Node>, Refused> = split_flow(inside)
                .into_iter()
                .map(|part| inline(line, part, deeper))
                .collect();
            Ok(Node {
                line,
                value: Value::List(items?),
            })
        }
        Some('{') => {
            let inside = text.get(1..).and_then(|rest| rest.strip_suffix('}'));
            let inside = inside.ok_or_else(|| refuse(line, "a map of several lines in braces"))?;
            let mut entries = Vec::new();
            for part in split_flow(inside) {
                let (key, value) =
                    split_key(part).ok_or_else(|| refuse(line, "a value without a key"))?;
                entries.push((key, inline(line, value, deeper)?));
            }
            Ok(Node {
                line,
                value: Value::Map(entries),
            })
        }
        Some(quote @ ('"' | '\'')) => {
            let inside = text.get(1..).and_then(|rest| rest.strip_suffix(quote));
            inside
                .map(|inside| scalar(line, inside))
                .ok_or_else(|| refuse(line, "a quote that does not end on its line"))
        }
        _ => Ok(scalar(line, text)),
    }
}

/// Splits at commas outside brackets, braces and quotes.
fn split_flow(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start, mut quote) = (0usize, 0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth = depth.saturating_add(1),
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at.saturating_add(1);
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
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
    fn what_is_left_out_is_refused_with_its_line() {
        for (text, line) in [
            ("a: &x 1\n", 1),
            ("a:\n  b: |\n    text\n", 2),
            ("a: 1\n---\nb: 1\n", 2),
            ("a: 1\n   b: 2\n", 2),
            ("a: [1,\n  2]\n", 1),
            ("a: 'x\n", 1),
            ("\ta: 1\n", 1),
            ("a:\n  b: 1\n plain\n", 3),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn deep_nesting_ends_with_a_refusal() {
        assert!(parse(&format!("a: {}{}", "[".repeat(1000), "]".repeat(1000))).is_err());
        let mut deep = String::new();
        for depth in 0..1000 {
            deep.push_str(&format!("{}a:\n", " ".repeat(depth)));
        }
        assert!(parse(&deep).is_err());
        assert!(parse(&"- ".repeat(1000)).is_ok());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn arbitrary_text_never_panics(text in "[a-c:\\- \\[\\]{},'\"#\\n]{0,120}") {
            let _ = parse(&text);
        }
    }
}
