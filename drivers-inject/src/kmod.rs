//! The indexes that `depmod` writes, written here: text and binary, from the same values.
//!
//! Format: [`rehost_inspect::modules::index`]. kmod (systemd-udevd, modprobe) reads only the binary
//! files and busybox only the text files, so [`Indexes::files`] always gives both. Judged by
//! `depmod` itself: the same keys, values and priorities for whole kernel trees.

use std::collections::BTreeMap;

use rehost_block::{Error, Result};
use rehost_inspect::modules::index::{
    HAS_CHILDREN, HAS_PREFIX, HAS_VALUES, MAGIC, OFFSET, VERSION,
};
use rehost_inspect::modules::{Alias, Dependencies, ModuleName};

/// Longest key taken. Ours, and what the reader takes.
const LONGEST_KEY: usize = 4096;

/// Bytes before the root node.
const HEADER: usize = 12;

/// What the indexes of one module directory say.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    /// `modules.dep`; a module's position is its priority everywhere.
    pub dependencies: Dependencies,
    /// `modules.alias`.
    pub aliases: Vec<Alias>,
    /// `modules.symbols`; the patterns begin with `symbol:`.
    pub symbols: Vec<Alias>,
}

impl Indexes {
    /// The files, by name: `modules.dep`, `.alias` and `.symbols`, each also with `.bin`.
    ///
    /// # Errors
    /// Corrupt when a name holds bytes that an index cannot.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut dep = Trie::default();
        for (position, file) in self.dependencies.files().iter().enumerate() {
            dep.insert(
                file.name.as_str().as_bytes(),
                file.line().as_bytes(),
                priority(position),
            )?;
        }
        let mut alias = Trie::default();
        for one in &self.aliases {
            let key = normal_alias(&one.pattern);
            alias.insert(
                key.as_bytes(),
                one.module.as_str().as_bytes(),
                self.rank(&one.module),
            )?;
        }
        let mut symbols = Trie::default();
        for one in &self.symbols {
            symbols.insert(
                one.pattern.as_bytes(),
                one.module.as_str().as_bytes(),
                self.rank(&one.module),
            )?;
        }
        Ok(vec![
            ("modules.dep", self.dependencies.to_text().into_bytes()),
            ("modules.dep.bin", dep.to_bytes()?),
            (
                "modules.alias",
                text(
                    "# Aliases extracted from modules themselves.\n",
                    &self.aliases,
                ),
            ),
            ("modules.alias.bin", alias.to_bytes()?),
            (
                "modules.symbols",
                text(
                    "# Aliases for symbols, used by symbol_request().\n",
                    &self.symbols,
                ),
            ),
            ("modules.symbols.bin", symbols.to_bytes()?),
        ])
    }

    fn rank(&self, module: &ModuleName) -> u32 {
        self.dependencies.position(module).map_or(0, priority)
    }
}

fn priority(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn text(title: &str, aliases: &[Alias]) -> Vec<u8> {
    let mut text = title.to_owned();
    for alias in aliases {
        text.push_str(&format!("alias {} {}\n", alias.pattern, alias.module));
    }
    text.into_bytes()
}

/// An alias as it is looked up: `-` is `_` outside of `[…]`.
#[must_use]
pub fn normal_alias(pattern: &str) -> String {
    let mut inside = false;
    pattern
        .chars()
        .map(|character| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                '-' if !inside => return '_',
                _ => {}
            }
            character
        })
        .collect()
}

/// A binary index being built: a Patricia trie, nodes by number, the root first.
#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    prefix: Vec<u8>,
    children: BTreeMap<u8, usize>,
    values: Vec<(u32, Vec<u8>)>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    fn insert(&mut self, key: &[u8], value: &[u8], priority: u32) -> Result<()> {
        let fits = |bytes: &[u8]| bytes.iter().all(|byte| (1..128).contains(byte));
        if key.is_empty() || key.len() > LONGEST_KEY || !fits(key) || value.contains(&0) {
            return Err(Error::corrupt(format!(
                "module name or alias {:?} cannot be in an index",
                String::from_utf8_lossy(key.get(..80).unwrap_or(key))
            ))
            .in_structure("module index")
            .hint("run depmod in the guest and look at /lib/modules/*/modules.alias"));
        }
        let mut here = 0;
        let mut rest = key;
        // Ends because every round but the last takes at least one byte of `rest`.
        loop {
            let Some(node) = self.nodes.get(here) else {
                return Err(Error::internal("a trie link leads nowhere"));
            };
            let common = node
                .prefix
                .iter()
                .zip(rest)
                .take_while(|(a, b)| a == b)
                .count();
            if common < node.prefix.len() {
                self.split(here, common);
            }
            rest = rest.get(common..).unwrap_or_default();
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(here) else {
                return Err(Error::internal("a trie link leads nowhere"));
            };
            let Some((first, after)) = rest.split_first() else {
                // As depmod: before the first value that does not come earlier.
                let at = node.values.partition_point(|(other, _)| *other < priority);
                node.values.insert(at, (priority, value.to_vec()));
                return Ok(());
            };
            let child = *node.children.entry(*first).or_insert(next);
            if child == next {
                self.nodes.push(Node {
                    prefix: after.to_vec(),
                    children: BTreeMap::new(),
                    values: vec![(priority, value.to_vec())],
                });
                return Ok(());
            }
            here = child;
            rest = after;
        }
    }

    /// Cuts the prefix of node `here` after `common` bytes; what hung below it goes to a new node.
    fn split(&mut self, here: usize, common: usize) {
        let next = self.nodes.len();
        let Some(node) = self.nodes.get_mut(here) else {
            return;
        };
        let tail = node.prefix.split_off(common);
        let Some((first, after)) = tail.split_first() else {
            return;
        };
        let below = Node {
            prefix: after.to_vec(),
            children: std::mem::take(&mut node.children),
            values: std::mem::take(&mut node.values),
        };
        node.children.insert(*first, next);
        self.nodes.push(below);
    }

    /// The file: nodes in pre-order.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut offsets = vec![0usize; self.nodes.len()];
        let mut end = HEADER;
        let mut stack = vec![0usize];
        // Ends because the nodes are a tree: each is on the stack once.
        while let Some(number) = stack.pop() {
            let (Some(node), Some(offset)) = (self.nodes.get(number), offsets.get_mut(number))
            else {
                continue;
            };
            *offset = end;
            end += node.size();
            order.push(node);
            stack.extend(node.children.values().rev());
        }
        let most = usize::try_from(OFFSET).unwrap_or(usize::MAX);
        if end > most {
            return Err(
                Error::unsupported(format!("module index of more than {most} bytes"))
                    .in_structure("module index"),
            );
        }
        let link = |number: usize| -> u32 {
            let offset = offsets.get(number).copied().unwrap_or_default();
            let parts = self.nodes.get(number).map_or(0, Node::parts);
            u32::try_from(offset).unwrap_or_default() | parts
        };
        let mut bytes = Vec::with_capacity(end);
        for word in [MAGIC, VERSION, link(0)] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for node in order {
            node.write(&mut bytes, &link);
        }
        Ok(bytes)
    }
}

impl Node {
    fn span(&self) -> Option<(u8, u8)> {
        Some((
            *self.children.first_key_value()?.0,
            *self.children.last_key_value()?.0,
        ))
    }

    fn parts(&self) -> u32 {
        let part = |there: bool, bit: u32| if there { bit } else { 0 };
        part(!self.prefix.is_empty(), HAS_PREFIX)
            | part(!self.children.is_empty(), HAS_CHILDREN)
            | part(!self.values.is_empty(), HAS_VALUES)
    }

    fn size(&self) -> usize {
        let prefix = match self.prefix.len() {
            0 => 0,
            len => len + 1,
        };
        let children = self
            .span()
            .map_or(0, |(first, last)| 2 + 4 * (usize::from(last - first) + 1));
        let values = match self.values.len() {
            0 => 0,
            _ => self
                .values
                .iter()
                .fold(4, |sum, (_, value)| sum + 4 + value.len() + 1),
        };
        prefix + children + values
    }

    fn write(&self, bytes: &mut Vec<u8>, link: &dyn Fn(usize) -> u32) {
        if !self.prefix.is_empty() {
            bytes.extend_from_slice(&self.prefix);
            bytes.push(0);
        }
        if let Some((first, last)) = self.span() {
            bytes.extend_from_slice(&[first, last]);
            for character in first..=last {
                let child = self
                    .children
                    .get(&character)
                    .map_or(0, |child| link(*child));
                bytes.extend_from_slice(&child.to_be_bytes());
            }
        }
        if !self.values.is_empty() {
            bytes.extend_from_slice(&priority(self.values.len()).to_be_bytes());
            for (priority, value) in &self.values {
                bytes.extend_from_slice(&priority.to_be_bytes());
                bytes.extend_from_slice(value);
                bytes.push(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rehost_inspect::modules::index;

    #[test]
    fn dashes_in_brackets_stay() {
        assert_eq!(normal_alias("usb:v-p[0-9]d-[a-f]x"), "usb:v_p[0-9]d_[a-f]x");
    }

    #[test]
    fn a_name_that_no_index_can_hold_is_refused() {
        let mut trie = Trie::default();
        assert!(trie.insert("vîrtio".as_bytes(), b"v", 0).is_err());
        assert!(trie.insert(b"", b"v", 0).is_err());
        assert!(trie.insert(b"a", b"v\0w", 0).is_err());
    }

    #[test]
    fn an_empty_index_is_still_one() {
        assert!(
            index::read(&Trie::default().to_bytes().unwrap())
                .unwrap()
                .is_empty()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_inserted_is_what_is_read(
            pairs in prop::collection::vec(("[a-c:*-]{1,6}", "[a-z]{0,3}", 0..4u32), 0..40),
        ) {
            let mut trie = Trie::default();
            let mut expected: BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
            for (key, value, priority) in &pairs {
                trie.insert(key.as_bytes(), value.as_bytes(), *priority).unwrap();
                let values = expected.entry(key.clone().into_bytes()).or_default();
                let at = values.iter().position(|(other, _)| other >= priority).unwrap_or(values.len());
                values.insert(at, (*priority, value.clone().into_bytes()));
            }
            let mut found: BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
            for entry in index::read(&trie.to_bytes().unwrap()).unwrap() {
                found.entry(entry.key).or_default().push((entry.priority, entry.value));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
