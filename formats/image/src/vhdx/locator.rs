//! The parent locator: which file a differencing disk's parent is, and what it must be.
//!
//! \[MS-VHDX\] §2.6.2.6. Keys and values are UTF-16. Paths are Windows': a relative one is taken as a
//! path here, and of one that begins with a drive or a volume only the file's name counts, beside
//! the child. The parent's `DataWriteGuid` says whether it is the right file, unchanged.

use std::path::{Path, PathBuf};

use rehost_block::{Error, Fields, Result};
use uuid::Uuid;

use crate::Format;
use crate::create::TargetBacking;
use crate::details::Details;

/// The only locator type that the standard defines: a VHDX parent.
const VHDX: Uuid = Uuid::from_u128(0xB04A_EFB7_D19E_4A81_B789_25B8_E944_5913);

/// Keys that name the parent, in the order in which they are tried.
const PATHS: [&str; 3] = ["relative_path", "volume_path", "absolute_win32_path"];

/// A parent as its child describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locator {
    /// `DataWriteGuid`s that the parent may have: `parent_linkage`, and `parent_linkage2` where
    /// there is one.
    pub(super) linkages: Vec<Uuid>,
    /// Paths to try, as names for this machine.
    pub(super) paths: Vec<PathBuf>,
}

impl Locator {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let kind = Uuid::from_bytes_le(fields.array(0)?);
        if kind != VHDX {
            return Err(fields
                .unsupported(0, format!("parents of type {kind} are not read"))
                .mismatch(VHDX, kind));
        }
        let mut linkages = Vec::new();
        let mut linkage = None;
        let mut paths: [Option<String>; 3] = [const { None }; 3];
        let count = usize::from(fields.u16_le(18)?);
        for at in (20usize..).step_by(12).take(count) {
            let text = |offset: usize, len: usize| -> Result<String> {
                let offset_at = at.saturating_add(offset);
                let offset = fields.u32_le(offset_at)?;
                let len = usize::from(fields.u16_le(at.saturating_add(len))?);
                let bytes = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| fields.bytes(offset, len).ok())
                    .ok_or_else(|| {
                        fields.corrupt(offset_at, "text lies outside the parent locator")
                    })?;
                let units: Vec<u16> = bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|unit| u16::from_le_bytes(*unit))
                    .collect();
                String::from_utf16(&units)
                    .map_err(|_| fields.corrupt(offset_at, "text is not UTF-16"))
            };
            let (key, value) = (text(0, 8)?, text(4, 10)?);
            if key == "parent_linkage" || key == "parent_linkage2" {
                let guid = Uuid::parse_str(value.trim()).map_err(|_| {
                    fields
                        .corrupt(at.saturating_add(4), format!("{key} is no GUID"))
                        .mismatch("{00000000-0000-0000-0000-000000000000}", &value)
                })?;
                if key == "parent_linkage" {
                    linkage = Some(guid);
                }
                linkages.push(guid);
            }
            for (name, path) in PATHS.iter().zip(&mut paths) {
                if key == *name {
                    *path = Some(value.clone());
                }
            }
        }
        if linkage.is_none() {
            return Err(fields.corrupt(18, "has no parent_linkage"));
        }
        let mut names: Vec<PathBuf> = Vec::new();
        for path in paths.iter().flatten() {
            let name = PathBuf::from(local(path));
            if !name.as_os_str().is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(fields.corrupt(18, "names no path of the parent"));
        }
        Ok(Self {
            linkages,
            paths: names,
        })
    }
}

/// The parent locator of a disk over `backing`.
///
/// # Errors
/// Usage when the parent is no VHDX, or has a name that cannot be stored.
pub(super) fn encode(backing: &TargetBacking) -> Result<Vec<u8>> {
    let refused = |what: String| Error::usage(what).in_file(&backing.path);
    let Details::Vhdx(details) = &backing.details else {
        return Err(
            refused(format!("{} cannot be the parent of a VHDX", backing.format))
                .mismatch(Format::Vhdx, backing.format)
                .hint("convert the parent, or write qcow2"),
        );
    };
    let text = |path: &Path| {
        path.to_str()
            .filter(|name| !name.contains('\\'))
            .map(str::to_owned)
            .ok_or_else(|| {
                refused("has a name that a VHDX cannot store".to_owned())
                    .hint("rename it: only UTF-8 without backslashes will do")
            })
    };
    let linkage = format!("{{{}}}", details.data_write_guid).to_uppercase();
    let mut pairs = vec![("parent_linkage", linkage)];
    // An absolute path keeps this machine's separators: it means nothing on another one.
    if backing.name.is_absolute() {
        pairs.push(("absolute_win32_path", text(&backing.name)?));
    } else {
        let name = text(&backing.name)?.replace('/', "\\");
        let relative = if name.starts_with('.') {
            name
        } else {
            format!(".\\{name}")
        };
        pairs.push(("relative_path", relative));
        pairs.push(("absolute_win32_path", text(&backing.path)?));
    }
    let too_long = || refused("has a name that is too long for a VHDX".to_owned());
    let mut head = VHDX.to_bytes_le().to_vec();
    head.extend([0; 2]);
    head.extend(
        u16::try_from(pairs.len())
            .map_err(|_| too_long())?
            .to_le_bytes(),
    );
    let entries = pairs.len().saturating_mul(12).saturating_add(head.len());
    let mut texts: Vec<u8> = Vec::new();
    for (key, value) in &pairs {
        let [key, value] = [*key, value.as_str()]
            .map(|text| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() });
        let at = entries.saturating_add(texts.len());
        for at in [at, at.saturating_add(key.len())] {
            head.extend(u32::try_from(at).map_err(|_| too_long())?.to_le_bytes());
        }
        for len in [key.len(), value.len()] {
            head.extend(u16::try_from(len).map_err(|_| too_long())?.to_le_bytes());
        }
        texts.extend(key);
        texts.extend(value);
    }
    Ok([head, texts].concat())
}

/// A Windows path as a path of this machine.
fn local(path: &str) -> String {
    let path = path.trim_end_matches('\0');
    // A path of this kind of machine, as tools here write it.
    if path.starts_with('/') {
        return path.to_owned();
    }
    let rooted = path.starts_with('\\') || path.as_bytes().get(1) == Some(&b':');
    if rooted {
        path.rsplit(['\\', '/'])
            .next()
            .unwrap_or_default()
            .to_owned()
    } else {
        let path = path.replace('\\', "/");
        path.strip_prefix("./").unwrap_or(&path).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Kind;

    fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
        let utf16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let mut bytes = VHDX.to_bytes_le().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(u16::try_from(pairs.len()).unwrap().to_le_bytes());
        let mut texts = Vec::new();
        let base = 20 + 12 * pairs.len();
        for (key, value) in pairs {
            let (key, value) = (utf16(key), utf16(value));
            for at in [base + texts.len(), base + texts.len() + key.len()] {
                bytes.extend(u32::try_from(at).unwrap().to_le_bytes());
            }
            for len in [key.len(), value.len()] {
                bytes.extend(u16::try_from(len).unwrap().to_le_bytes());
            }
            texts.extend([key, value].concat());
        }
        [bytes, texts].concat()
    }

    fn parse(bytes: &[u8]) -> Result<Locator> {
        Locator::parse(&Fields::new(bytes, "parent locator", 0))
    }

    const GUID: &str = "{B04AEFB7-D19E-4A81-B789-25B8E9445913}";

    #[test]
    fn windows_paths_become_names_beside_the_child() {
        let bytes = locator(&[
            (
                "absolute_win32_path",
                r"\\?\C:\Hyper-V\Virtual Hard Disks\base.vhdx",
            ),
            ("parent_linkage", GUID),
            ("relative_path", r".\..\base\base.vhdx"),
            (
                "volume_path",
                r"\\?\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\d\vol.vhdx",
            ),
        ]);
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.linkages, [VHDX]);
        let names = ["../base/base.vhdx", "vol.vhdx", "base.vhdx"].map(PathBuf::from);
        assert_eq!(parsed.paths, names);
    }

    #[test]
    fn what_a_locator_lacks_is_named() {
        for (pairs, named) in [
            (&[("relative_path", "x")][..], "no parent_linkage"),
            (&[("parent_linkage", GUID)], "names no path"),
            (
                &[("parent_linkage", "{B04A"), ("relative_path", "x")],
                "no GUID",
            ),
        ] {
            let error = parse(&locator(pairs)).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains(named), "{error}");
        }
        let mut bytes = locator(&[("parent_linkage", GUID), ("relative_path", "x")]);
        bytes[20] = 0xff;
        bytes[21] = 0xff;
        assert!(parse(&bytes).unwrap_err().to_string().contains("outside"));
        bytes[0] ^= 1;
        assert_eq!(parse(&bytes).unwrap_err().kind(), Kind::Unsupported);
    }
}
