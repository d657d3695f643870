//! Rebuilds an initramfs with more modules and changed files, without running anything of the guest.
//!
//! The new file is: the raw archives that the old one begins with (microcode), byte for byte; then
//! one compressed stream of all other archives followed by a supplement. The supplement holds the new
//! modules with what they need, the module indexes over old and new modules, and the changed files.
//! The kernel unpacks later entries over earlier ones.
//!
//! Left out on purpose, refused by name: images whose modules are inside a squashfs or erofs file
//! (dracut's `squash` module).

mod archive;
mod pack;

use std::collections::{BTreeMap, BTreeSet};

use rehost_block::{Error, Result};
use rehost_inspect::initramfs::{Compression, Initramfs, unpack_module};
use rehost_inspect::modules::index;
use rehost_inspect::modules::{
    Alias, Dependencies, ModuleFile, ModuleName, parse_aliases, parse_names,
    parse_soft_dependencies,
};
use serde::Serialize;

use crate::kmod::Indexes;
use archive::Supplement;
pub use pack::Unpackers;

/// Reads a file of the guest's module directory (`/lib/modules/VERSION`) by its path in it.
pub type ModuleReader<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>>;

/// A file to be different in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Its path without a leading `/`.
    pub path: String,
    /// Its whole new content.
    pub content: Vec<u8>,
}

/// What an initramfs shall hold.
#[derive(Debug, Clone, Default)]
pub struct Wanted<'a> {
    /// Kernel version: the name of its module directory.
    pub version: &'a str,
    /// Modules that must be there; built-in ones are passed over.
    pub modules: &'a [ModuleName],
    /// Modules that go along where the guest has them.
    pub optional: &'a [ModuleName],
    /// Changed files.
    pub overrides: &'a [Override],
    /// What the kernel unpacks, where its build configuration is known.
    pub unpackers: Option<&'a Unpackers>,
}

/// A module that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddedModule {
    /// Its name.
    pub name: ModuleName,
    /// Its path in the initramfs.
    pub path: String,
    /// Bytes of the file as added.
    pub size: u64,
}

/// A rebuilt initramfs.
#[derive(Debug)]
pub struct Rebuilt {
    /// The whole file. Exactly as long as the old one when it fits into that.
    pub content: Vec<u8>,
    /// Whether it fits into the old file.
    pub fits: bool,
    /// Bytes before padding.
    pub packed: u64,
    /// The modules that were added, in load order.
    pub added: Vec<AddedModule>,
    /// Module names that the kernel has neither built in nor as a file, optional ones excluded.
    pub missing: Vec<ModuleName>,
    /// Files that were changed, by path.
    pub overridden: Vec<String>,
    /// How the main stream is compressed now.
    pub compression: Compression,
    /// The compressor's setting, for people.
    pub how: String,
}

/// Adds what is `wanted` to `old`; `None` when everything that the guest has is there already.
///
/// # Errors
/// Unsupported for images that hide their modules; Corrupt when the guest's module tree contradicts
/// itself; Internal when the finished file, read back, lacks something.
pub fn rebuild(
    old: &Initramfs,
    wanted: &Wanted<'_>,
    read: ModuleReader<'_>,
) -> Result<Option<Rebuilt>> {
    for hidden in ["squash-root.img", "squashfs-root.img", "erofs-root.img"] {
        if old.node(hidden.as_bytes()).is_some() {
            return Err(Error::unsupported(format!(
                "the initramfs keeps its modules inside {hidden}"
            ))
            .in_structure("initramfs")
            .hint("rebuild it in the guest without dracut's squash module"));
        }
    }
    let guest = Guest::read(read)?;
    let additions = Additions::find(old, wanted, &guest, read)?;
    let overrides: Vec<&Override> = wanted
        .overrides
        .iter()
        .filter(|one| old.read(one.path.as_bytes()) != Some(one.content.as_slice()))
        .collect();
    // Files without an index that names them are as good as absent.
    let stale = check(old, wanted, &guest, &additions.missing, &[]).is_err();
    if additions.new.is_empty() && overrides.is_empty() && !stale {
        return Ok(None);
    }
    let mut supplement = Supplement::new(old);
    if !additions.new.is_empty() || stale {
        for module in &additions.new {
            supplement.put(&module.added.path, &module.content)?;
        }
        for (path, content) in &additions.indexes {
            supplement.put(path, content)?;
        }
    }
    for one in &overrides {
        supplement.put(&one.path, &one.content)?;
    }
    let rebuilt = join(old, &supplement.finish()?, wanted.unpackers)?;
    let (content, packed) = rebuilt;
    let rebuilt = Rebuilt {
        fits: content.len() == old.file().len(),
        packed: packed.len,
        compression: packed.compression,
        how: packed.how,
        content,
        added: additions
            .new
            .into_iter()
            .map(|module| module.added)
            .collect(),
        missing: additions.missing,
        overridden: overrides.iter().map(|one| one.path.clone()).collect(),
    };
    let built = Initramfs::parse(rebuilt.content.clone())?;
    check(&built, wanted, &guest, &rebuilt.missing, wanted.overrides)?;
    Ok(Some(rebuilt))
}

struct Joined {
    len: u64,
    compression: Compression,
    how: String,
}

/// Raw archives at the beginning verbatim, then everything else and the supplement in one stream,
/// zero padded to the old size where it fits.
fn join(
    old: &Initramfs,
    supplement: &[u8],
    unpackers: Option<&Unpackers>,
) -> Result<(Vec<u8>, Joined)> {
    let segments = old.segments();
    let main = segments
        .iter()
        .position(|segment| segment.compression != Compression::None)
        .unwrap_or(segments.len().saturating_sub(1));
    let first = segments
        .get(main)
        .ok_or_else(|| Error::internal("an initramfs without segments"))?;
    let head = usize::try_from(first.offset).unwrap_or(usize::MAX);
    let head = old.file().get(..head).unwrap_or_default();
    let mut plain = Vec::new();
    for index in main..segments.len() {
        plain.extend_from_slice(old.plain(index));
        // An archive begins at a multiple of 4; zero bytes between two are free.
        plain.resize(plain.len().next_multiple_of(4), 0);
    }
    plain.extend_from_slice(supplement);
    let most = old.file().len().saturating_sub(head.len());
    let packed = pack::pack(&plain, first.compression, unpackers, most)?;
    let mut content = head.to_vec();
    content.extend_from_slice(&packed.bytes);
    let joined = Joined {
        len: content.len() as u64,
        compression: packed.compression,
        how: packed.how,
    };
    let gap = old.file().len().saturating_sub(content.len());
    // Linux takes up to three bytes after an lz4 stream for a broken block ("Decoding failed"), and
    // four zero bytes for its end.
    if packed.compression != Compression::Lz4 || gap >= 4 {
        content.resize(content.len() + gap, 0);
    }
    Ok((content, joined))
}

struct NewModule {
    added: AddedModule,
    content: Vec<u8>,
}

/// The modules to add and the indexes over all modules.
struct Additions {
    new: Vec<NewModule>,
    missing: Vec<ModuleName>,
    indexes: Vec<(String, Vec<u8>)>,
}

impl Additions {
    fn find(
        old: &Initramfs,
        wanted: &Wanted<'_>,
        guest: &Guest,
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
        let plain = !present.is_empty() && present.values().all(|path| path.ends_with(".ko"));
        let mut paths = present.clone();
        let mut new = Vec::new();
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
        Ok(Self {
            new,
            missing,
            indexes: files,
        })
    }
}

/// Where the archive keeps, or would keep, the modules of `version`.
fn module_directory(old: &Initramfs, version: &str) -> String {
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
struct Guest {
    dependencies: Dependencies,
    builtin: BTreeSet<ModuleName>,
    aliases: Vec<Alias>,
    symbols: Vec<Alias>,
    soft: String,
}

impl Guest {
    fn read(read: ModuleReader<'_>) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let content = read(name)?.unwrap_or_default();
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
    fn needed(&self, wanted: &Wanted<'_>) -> (Vec<ModuleFile>, Vec<ModuleName>) {
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

/// Checks that in `built` every module that was asked for can be found by udev: its file, its
/// dependencies' files, and the binary indexes; and that the `overrides` are as they should be.
fn check(
    built: &Initramfs,
    wanted: &Wanted<'_>,
    guest: &Guest,
    missing: &[ModuleName],
    overrides: &[Override],
) -> Result<()> {
    let lacking = |what: String| Error::internal(format!("the rebuilt initramfs lacks {what}"));
    let (needed, _) = guest.needed(wanted);
    let directory = module_directory(built, wanted.version);
    let index = |name: &str| -> Result<Vec<index::IndexEntry>> {
        let path = format!("{directory}/{name}");
        let bytes = built
            .read(path.as_bytes())
            .ok_or_else(|| lacking(path.clone()))?;
        index::read(bytes)
    };
    if !needed.is_empty() {
        let dep: BTreeMap<Vec<u8>, Vec<u8>> = index("modules.dep.bin")?
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        let aliased: BTreeSet<Vec<u8>> = index("modules.alias.bin")?
            .into_iter()
            .map(|entry| entry.value)
            .collect();
        for file in &needed {
            let name = file.name.as_str();
            let line = dep
                .get(name.as_bytes())
                .ok_or_else(|| lacking(format!("{name} in modules.dep.bin")))?;
            let line = String::from_utf8_lossy(line).into_owned();
            for path in line.split([':', ' ']).filter(|path| !path.is_empty()) {
                if built
                    .read(format!("{directory}/{path}").as_bytes())
                    .is_none_or(<[u8]>::is_empty)
                {
                    return Err(lacking(format!("{path}, which {name} needs")));
                }
            }
            let has_alias = guest.aliases.iter().any(|alias| alias.module == file.name);
            if has_alias && !aliased.contains(name.as_bytes()) {
                return Err(lacking(format!("an alias of {name} in modules.alias.bin")));
            }
        }
    }
    let have: BTreeSet<ModuleName> = built
        .modules(wanted.version)
        .into_iter()
        .map(|module| module.name)
        .collect();
    for name in wanted.modules {
        let accounted =
            have.contains(name) || guest.builtin.contains(name) || missing.contains(name);
        if !accounted {
            return Err(lacking(format!("module {name}")));
        }
    }
    for one in overrides {
        if built.read(one.path.as_bytes()) != Some(one.content.as_slice()) {
            return Err(lacking(format!("the new content of {}", one.path)));
        }
    }
    Ok(())
}
