//! Rebuilds an initramfs with more modules and changed files, without running anything of the guest.
//!
//! The new file is: the raw archives that the old one begins with (microcode), byte for byte; then
//! one compressed stream of all other archives followed by a supplement. The supplement holds the new
//! modules with what they need, the module indexes over old and new modules, and the changed files.
//! The kernel unpacks later entries over earlier ones.
//!
//! Left out on purpose, refused by name: images whose modules are inside a squashfs or erofs file
//! (dracut's `squash` module).

mod additions;
mod archive;
mod loading;
mod pack;

use std::collections::{BTreeMap, BTreeSet};

use rehost_block::{Error, Result};
use rehost_inspect::initramfs::{Compression, Initramfs};
use rehost_inspect::modules::ModuleName;
use rehost_inspect::modules::index;
use serde::Serialize;

use additions::{Additions, Guest, module_directory};
use archive::Supplement;
pub use loading::{Loading, Shell};
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
    /// What loads the modules.
    pub loading: Loading,
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
    let loading = Loading::of(old);
    let additions = Additions::find(old, wanted, &guest, loading, read)?;
    let hints = loading.hints(old, &additions.hinted);
    let overrides: Vec<&Override> = wanted
        .overrides
        .iter()
        .chain(&hints)
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
        loading,
    };
    let built = Initramfs::parse(rebuilt.content.clone())?;
    check(&built, wanted, &guest, &rebuilt.missing, wanted.overrides)?;
    check(&built, wanted, &guest, &rebuilt.missing, &hints)?;
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
