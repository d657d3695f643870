//! Kernel module trees: what `depmod` wrote under `/lib/modules/VERSION`, and what it means.
//!
//! Format: the man pages `modules.dep(5)`, `depmod(8)` and `modprobe.d(5)` for the text files,
//! [`index`] for the binary ones. A module's name is that of its file without `.ko` and what follows,
//! with `-` and `_` being the same letter.
//!
//! Left out on purpose: `modules.symbols` beyond its aliases, and `modprobe.d` options.

pub mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// A module's name, with `_` for every `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ModuleName(String);

impl ModuleName {
    /// The name written `name` or with any of its `-` as `_`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.replace('-', "_"))
    }

    /// The module in the file at `path`: `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
    /// `None` when it is not the name of a module file.
    #[must_use]
    pub fn of_file(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?;
        let (stem, suffix) = name.rsplit_once(".ko")?;
        (!stem.is_empty() && matches!(suffix, "" | ".xz" | ".zst" | ".gz")).then(|| Self::new(stem))
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of `modules.dep`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// Its name.
    pub name: ModuleName,
    /// Its file, relative to the module directory.
    pub path: String,
    /// The files of all modules that it needs, direct and indirect, as listed: the last is loaded
    /// first.
    pub needs: Vec<String>,
}

/// `modules.dep`, in file order (which is the priority of a module).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies {
    files: Vec<ModuleFile>,
    by_name: BTreeMap<ModuleName, usize>,
}

impl Dependencies {
    /// Reads the text of a `modules.dep`. Lines that are not of its form are passed over, as kmod
    /// does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut dependencies = Self::default();
        for line in text.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let Some(name) = ModuleName::of_file(path) else {
                continue;
            };
            dependencies.push(ModuleFile {
                name,
                path: path.to_owned(),
                needs: needs.split_whitespace().map(str::to_owned).collect(),
            });
        }
        dependencies
    }

    /// Appends a module; one that is there already stays as it is.
    pub fn push(&mut self, file: ModuleFile) {
        let next = self.files.len();
        if *self.by_name.entry(file.name.clone()).or_insert(next) == next {
            self.files.push(file);
        }
    }

    /// The modules in file order.
    #[must_use]
    pub fn files(&self) -> &[ModuleFile] {
        &self.files
    }

    /// The module called `name`.
    #[must_use]
    pub fn get(&self, name: &ModuleName) -> Option<&ModuleFile> {
        self.files.get(*self.by_name.get(name)?)
    }

    /// Its position in the file.
    #[must_use]
    pub fn position(&self, name: &ModuleName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// `wanted` and everything they need, each once, every module after those it needs. Names that
    /// this tree does not have come back in the second list.
    #[must_use]
    pub fn closure<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a ModuleName>,
    ) -> (Vec<&ModuleFile>, Vec<ModuleName>) {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for name in wanted {
            let Some(file) = self.get(name) else {
                missing.push(name.clone());
                continue;
            };
            // Already transitive, and the last is to be loaded first.
            let needed = file.needs.iter().rev().filter_map(|path| {
                let name = ModuleName::of_file(path)?;
                Some((name.clone(), self.get(&name)))
            });
            for (name, needed) in needed.chain([(file.name.clone(), Some(file))]) {
                if !seen.insert(name.clone()) {
                    continue;
                }
                match needed {
                    Some(file) => order.push(file),
                    None => missing.push(name),
                }
            }
        }
        (order, missing)
    }

    /// The text form.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.files.iter().fold(String::new(), |mut text, file| {
            text.push_str(&file.line());
            text.push('\n');
            text
        })
    }
}

impl ModuleFile {
    /// Its line in `modules.dep`, which is also its value in `modules.dep.bin`.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{}:", self.path);
        for path in &self.needs {
            line.push(' ');
            line.push_str(path);
        }
        line
    }
}

/// One line of `modules.alias` or `modules.symbols`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The pattern (`virtio:d00000002v*`) or symbol (`symbol:virtio_reset_device`).
    pub pattern: String,
    /// What it stands for.
    pub module: ModuleName,
}

/// Reads the text of a `modules.alias` or `modules.symbols`.
#[must_use]
pub fn parse_aliases(text: &str) -> Vec<Alias> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("alias")).then_some(())?;
            Some(Alias {
                pattern: words.next()?.to_owned(),
                module: ModuleName::new(words.next()?),
            })
        })
        .collect()
}

/// One line of `modules.softdep`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftDependency {
    /// Whose it is.
    pub module: ModuleName,
    /// Loaded before it, where they exist.
    pub before: Vec<ModuleName>,
    /// Loaded after it, where they exist.
    pub after: Vec<ModuleName>,
}

/// Reads the text of a `modules.softdep`.
#[must_use]
pub fn parse_soft_dependencies(text: &str) -> Vec<SoftDependency> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("softdep")).then_some(())?;
            let mut found = SoftDependency {
                module: ModuleName::new(words.next()?),
                before: Vec::new(),
                after: Vec::new(),
            };
            let mut after = None;
            for word in words {
                match (word, after) {
                    ("pre:", _) => after = Some(false),
                    ("post:", _) => after = Some(true),
                    (_, Some(false)) => found.before.push(ModuleName::new(word)),
                    (_, Some(true)) => found.after.push(ModuleName::new(word)),
                    (_, None) => {}
                }
            }
            Some(found)
        })
        .collect()
}

/// Reads the text of a `modules.builtin` or `modules.order`: the names of the listed modules.
#[must_use]
pub fn parse_names(text: &str) -> BTreeSet<ModuleName> {
    text.lines()
        .filter_map(|line| ModuleName::of_file(line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_in_a_module_name_is_an_underscore() {
        assert_eq!(
            ModuleName::of_file("kernel/a/virtio-rng.ko.zst"),
            Some(ModuleName::new("virtio_rng"))
        );
        assert_eq!(ModuleName::of_file("kernel/a/x.ko.bak"), None);
        assert_eq!(ModuleName::of_file("kernel/a/.ko"), None);
        assert_eq!(ModuleName::of_file("kernel/notes.txt"), None);
    }

    #[test]
    fn closure_gives_needed_modules_first_and_each_once() {
        let dependencies = Dependencies::parse(
            "k/blk.ko: k/virtio.ko k/ring.ko\nk/net.ko: k/failover.ko k/virtio.ko k/ring.ko\n\
             k/virtio.ko: k/ring.ko\nk/ring.ko:\nk/failover.ko:\nbroken line\n",
        );
        let wanted = [
            ModuleName::new("blk"),
            ModuleName::new("gone"),
            ModuleName::new("net"),
        ];
        let (order, missing) = dependencies.closure(&wanted);
        let names: Vec<&str> = order.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["ring", "virtio", "blk", "failover", "net"]);
        assert_eq!(missing, [ModuleName::new("gone")]);
    }

    #[test]
    fn a_needed_module_that_the_tree_lacks_is_missing() {
        let dependencies = Dependencies::parse("k/a.ko: k/b.ko\n");
        let (order, missing) = dependencies.closure(&[ModuleName::new("a")]);
        assert_eq!(order.len(), 1);
        assert_eq!(missing, [ModuleName::new("b")]);
    }

    #[test]
    fn text_survives_reading_and_writing() {
        let text = "kernel/b.ko.xz: kernel/a.ko.xz kernel/c.ko.xz\nkernel/a.ko.xz:\n";
        assert_eq!(Dependencies::parse(text).to_text(), text);
    }

    #[test]
    fn soft_dependencies_know_their_side() {
        let found = parse_soft_dependencies("# c\nsoftdep libcrc32c pre: crc32-c post: x y\n");
        assert_eq!(found[0].before, [ModuleName::new("crc32_c")]);
        assert_eq!(found[0].after.len(), 2);
    }
}
