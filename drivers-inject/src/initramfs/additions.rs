//! Which modules an initramfs lacks, and the indexes over old and new ones.
//!
//! The guest's own `modules.dep` says what a module needs. The archive keeps its own way of holding
//! modules: under its own directory, compressed where its others are, unpacked where they are.

use std::collections::{BTreeMap, BTreeSet};

use rehost_block::{Error, Result};
use rehost_inspect::initramfs::{Initramfs, unpack_module};
use rehost_inspect::modules::index;
use rehost_inspect::modules::{
    Alias, Dependencies, ModuleFile, ModuleName, parse_aliases, parse_names,
    parse_soft_dependencies,
};

use super::loading::{Hinted, Loading};
use super::{AddedModule, ModuleReader, Wanted};
use crate::kmod::Indexes;

/// Most bytes of modules that are added. Ours: the virtio drivers of a kernel have under 2 MB, and a
/// hostile module tree must not exhaust the host.
const MOST_ADDED: usize = 256 << 20;

/// Longest index file of the guest that is read. Ours: a stock kernel's `modules.alias` has 1.5 MB.
const MOST_TEXT: usize = 64 << 20;

/// A module file to be added.
pub(super) struct NewModule {
    pub(super) added: AddedModule,
    pub(super) content: Vec<u8>,
}

/// The modules to add and the indexes over all modules.
pub(super) struct Additions {
    /// In load order.
    pub(super) new: Vec<NewModule>,
    /// Wanted names that the guest has nowhere.
    pub(super) missing: Vec<ModuleName>,
    /// Index files by path.
    pub(super) indexes: Vec<(String, Vec<u8>)>,
    /// Every module that is needed, old ones included, in load order.
    pub(super) hinted: Vec<Hinted>,
}

impl Additions {
    pub(super) fn find(
        old: &Initramfs,
        wanted: &Wanted<'_>,
        guest: &Guest,
        loading: Loading,
        read: ModuleReader<'_>,
    ) -> Result<Self> {
        let directory = module_directory(old, wanted.version);
        let present: BTreeMap<ModuleName, String> = old
            .modules(wanted.version)
            .into_iter()
            .filter_map(|module| {
                let path = module.path.strip_prefix(&directory)?.strip_prefix('/')?;
                Some((module.name, path.to_owned()))
            })
            .collect();
        let (needed, missing) = guest.needed(wanted);
        let mut indexes = read_indexes(old, &directory)?;
        // Old dracut and initramfs-tools unpack modules when they copy them.
        let plain = loading.wants_plain()
            || !present.is_empty() && present.values().all(|path| path.ends_with(".ko"));
        let mut paths = present.clone();
        let mut new = Vec::new();
        let mut room = MOST_ADDED;
        for file in &needed {
            if present.contains_key(&file.name) {
                continue;
            }
            let content = read(&file.path)?.ok_or_else(|| {
                Error::corrupt(format!(
                    "modules.dep names {}, which does not exist",
                    file.path
                ))
                .in_structure("modules.dep")
                .hint("run depmod in the guest, or reinstall its kernel package")
            })?;
            let (path, content) = match file.path.rsplit_once(".ko") {
                Some((stem, suffix)) if plain && !suffix.is_empty() => {
                    (format!("{stem}.ko"), unpack_module(&content)?)
                }
                _ => (file.path.clone(), content),
            };
            room = room.checked_sub(content.len()).ok_or_else(|| {
                Error::unsupported(format!(
                    "the modules to add come to more than {MOST_ADDED} bytes"
                ))
                .in_structure("modules.dep")
                .hint("look at what modules.dep says that virtio_blk needs")
            })?;
            paths.insert(file.name.clone(), path.clone());
            new.push(NewModule {
                added: AddedModule {
                    name: file.name.clone(),
                    path: format!("{directory}/{path}"),
                    size: content.len() as u64,
                },
                content,
            });
        }
        let known: BTreeSet<ModuleName> = indexes
            .dependencies
            .files()
            .iter()
            .map(|file| file.name.clone())
            .collect();
        for (name, path) in &paths {
            if known.contains(name) {
                continue;
            }
            let needs = guest
                .dependencies
                .get(name)
                .map(|file| file.needs.as_slice())
                .unwrap_or_default()
                .iter()
                .filter_map(|need| paths.get(&ModuleName::of_file(need)?).cloned())
                .collect();
            indexes.dependencies.push(ModuleFile {
                name: name.clone(),
                path: path.clone(),
                needs,
            });
        }
        let added: BTreeSet<&ModuleName> =
            paths.keys().filter(|name| !known.contains(*name)).collect();
        extend(&mut indexes.aliases, &guest.aliases, &added);
        extend(&mut indexes.symbols, &guest.symbols, &added);
        let mut files: Vec<(String, Vec<u8>)> = indexes
            .files()?
            .into_iter()
            .map(|(name, content)| (format!("{directory}/{name}"), content))
            .collect();
        let lines: Vec<&str> = guest
            .soft
            .lines()
            .filter(|line| {
                parse_soft_dependencies(line)
                    .iter()
                    .any(|soft| added.contains(&soft.module))
            })
            .collect();
        if !lines.is_empty() {
            let path = format!("{directory}/modules.softdep");
            let mut text = old.text(&path).unwrap_or_default().into_owned();
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
            files.push((path, text.into_bytes()));
        }
        let hinted = needed
            .iter()
            .filter_map(|file| {
                Some(Hinted {
                    name: file.name.as_str().to_owned(),
                    path: format!("{directory}/{}", paths.get(&file.name)?),
                })
            })
            .collect();
        Ok(Self {
            new,
            missing,
            indexes: files,
            hinted,
        })
    }
}

/// Where the archive keeps, or would keep, the modules of `version`.
pub(super) fn module_directory(old: &Initramfs, version: &str) -> String {
    let path = format!("lib/modules/{version}");
    old.module_directory(version).unwrap_or_else(|| {
        // `lib` may be a link to `usr/lib`; the rest need not exist.
        match old.resolve(b"lib/modules") {
            Some(modules) => format!("{}/{version}", String::from_utf8_lossy(&modules)),
            None => path,
        }
    })
}

/// Appends the aliases of the modules in `added` that are not there yet.
fn extend(have: &mut Vec<Alias>, all: &[Alias], added: &BTreeSet<&ModuleName>) {
    let old: BTreeSet<(String, ModuleName)> = have
        .iter()
        .map(|alias| (alias.pattern.clone(), alias.module.clone()))
        .collect();
    have.extend(
        all.iter()
            .filter(|alias| added.contains(&alias.module))
            .filter(|alias| !old.contains(&(alias.pattern.clone(), alias.module.clone())))
            .cloned(),
    );
}

/// The indexes of the archive: from its text files, or where there are only binary ones, from those.
fn read_indexes(old: &Initramfs, directory: &str) -> Result<Indexes> {
    let text = |name: &str| old.text(&format!("{directory}/{name}"));
    let binary = |name: &str| -> Result<Vec<index::IndexEntry>> {
        match old.read(format!("{directory}/{name}").as_bytes()) {
            Some(bytes) if !bytes.is_empty() => index::read(bytes),
            _ => Ok(Vec::new()),
        }
    };
    let aliases = |name: &str| -> Result<Vec<Alias>> {
        match text(name) {
            Some(text) => Ok(parse_aliases(&text)),
            None => Ok(binary(&format!("{name}.bin"))?
                .into_iter()
                .map(|entry| Alias {
                    pattern: String::from_utf8_lossy(&entry.key).into_owned(),
                    module: ModuleName::new(&String::from_utf8_lossy(&entry.value)),
                })
                .collect()),
        }
    };
    let dependencies = match text("modules.dep") {
        Some(text) => Dependencies::parse(&text),
        None => {
            let mut entries = binary("modules.dep.bin")?;
            entries.sort_by_key(|entry| entry.priority);
            let lines: String = entries
                .iter()
                .map(|entry| format!("{}\n", String::from_utf8_lossy(&entry.value)))
                .collect();
            Dependencies::parse(&lines)
        }
    };
    Ok(Indexes {
        dependencies,
        aliases: aliases("modules.alias")?,
        symbols: aliases("modules.symbols")?,
    })
}

/// The guest's module directory.
pub(super) struct Guest {
    dependencies: Dependencies,
    pub(super) builtin: BTreeSet<ModuleName>,
    pub(super) aliases: Vec<Alias>,
    symbols: Vec<Alias>,
    soft: String,
}

impl Guest {
    pub(super) fn read(read: ModuleReader<'_>) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let content = read(name)?.unwrap_or_default();
            if content.len() > MOST_TEXT {
                return Err(Error::unsupported(format!(
                    "{name} is too large to be what it should be"
                ))
                .mismatch(format!("at most {MOST_TEXT} bytes"), content.len()));
            }
            Ok(String::from_utf8_lossy(&content).into_owned())
        };
        Ok(Self {
            dependencies: Dependencies::parse(&text("modules.dep")?),
            builtin: parse_names(&text("modules.builtin")?),
            aliases: parse_aliases(&text("modules.alias")?),
            symbols: parse_aliases(&text("modules.symbols")?),
            soft: text("modules.softdep")?,
        })
    }

    /// Every module file that `wanted` comes to, in load order, and the names that are nowhere.
    pub(super) fn needed(&self, wanted: &Wanted<'_>) -> (Vec<ModuleFile>, Vec<ModuleName>) {
        let mut names: Vec<ModuleName> = wanted
            .modules
            .iter()
            .filter(|name| !self.builtin.contains(name))
            .cloned()
            .collect();
        let there = |name: &&ModuleName| self.dependencies.get(name).is_some();
        names.extend(wanted.optional.iter().filter(there).cloned());
        // Soft dependencies go along where they exist. Ends because `names` grows only by names
        // that are not in it, and the tree has finitely many.
        let soft = parse_soft_dependencies(&self.soft);
        let mut at = 0;
        while let Some(name) = names.get(at).cloned() {
            at += 1;
            for one in soft.iter().filter(|one| one.module == name) {
                for other in one.before.iter().chain(&one.after) {
                    if self.dependencies.get(other).is_some() && !names.contains(other) {
                        names.push(other.clone());
                    }
                }
            }
        }
        let (files, mut missing) = self.dependencies.closure(&names);
        missing.retain(|name| !self.builtin.contains(name));
        (files.into_iter().cloned().collect(), missing)
    }
}
