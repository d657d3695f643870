//! Puts another initramfs or command line into a unified kernel image.
//!
//! Microsoft's "PE Format", sections 2 to 4, and
//! <https://uapi-group.org/specifications/specs/unified_kernel_image/>: systemd-stub finds the parts of
//! an image by the names of their sections, wherever these are. A part that fits into its section
//! is written there; for a longer one everything stored behind it moves, and where program code is
//! mapped behind it, the section is mapped after all others instead.
//!
//! Left out on purpose, refused by name: signed images, images with values of a TPM policy (`.pcrsig`),
//! images without the part, those with one for each of several profiles, and those whose sections share
//! bytes of the file, which no linker makes. File offsets in a debug
//! directory are not followed: nothing that boots reads them.

use rehost_block::{Error, Result};
use rehost_inspect::unified::Program;

/// A part of an image that can be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The initramfs.
    Initramfs,
    /// The kernel's command line.
    CommandLine,
}

impl Part {
    /// The name of its section.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::Initramfs => ".initrd",
            Self::CommandLine => ".cmdline",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Initramfs => "initramfs",
            Self::CommandLine => "command line",
        }
    }
}

/// Sections that systemd-stub looks up by name, and that may be mapped anywhere.
const PARTS: [&str; 15] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto", ".hwids",
    ".uname", ".sbat", ".pcrpkey", ".profile", ".efifw", ".sdmagic",
];

/// The most alignment that is taken for real. The format's own limit for file alignment is 64 KiB, and
/// no linker maps sections at more than 2 MiB.
const MOST_ALIGNMENT: u32 = 2 << 20;

/// Parts move by whole pages at least, whatever the headers ask for: systemd-stub(7) has them mapped so,
/// though Debian 12's own stub says 512 bytes.
const PAGE: u32 = 4096;

/// Bytes of a section's header.
const HEADER: usize = 40;

/// A header of the section table.
#[derive(Debug, Clone)]
struct Header {
    raw: [u8; HEADER],
}

impl Header {
    fn name(&self) -> String {
        let end = self.raw.iter().take(8).position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.raw[..end.unwrap_or(8)]).into_owned()
    }

    /// A field by its offset: 8 `VirtualSize`, 12 `VirtualAddress`, 16 `SizeOfRawData`, 20
    /// `PointerToRawData`.
    fn get(&self, at: usize) -> u32 {
        u32_at(&self.raw, at).unwrap_or(0)
    }

    fn set(&mut self, at: usize, value: u32) {
        if let Some(field) = self.raw.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The address behind its last byte in memory.
    fn end(&self) -> Result<u32> {
        let len = self.get(8).max(self.get(16));
        self.get(12).checked_add(len).ok_or_else(too_large)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    field
        .map(|field| u32::from_le_bytes(*field))
        .ok_or_else(|| {
            Error::corrupt("the headers of the program are cut off").in_structure("pe header")
        })
}

fn too_large() -> Error {
    Error::unsupported("the unified kernel image would become larger than 4 GiB")
        .in_structure("pe section")
}

/// Where the fields of the optional header are, and what they say.
struct Layout {
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the section table.
    table: usize,
    /// `PointerToSymbolTable`'s offset.
    symbols: usize,
    section_alignment: u32,
    file_alignment: u32,
}

impl Layout {
    fn read(file: &[u8]) -> Result<Self> {
        let pe = usize::try_from(u32_at(file, 0x3c)?).unwrap_or(usize::MAX);
        let coff = pe.saturating_add(4);
        let optional = coff.saturating_add(20);
        let len = u32_at(file, coff.saturating_add(16))? & 0xffff;
        let alignment = |at: usize| -> Result<u32> {
            let value = u32_at(file, optional.saturating_add(at))?;
            if value.is_power_of_two() && value <= MOST_ALIGNMENT {
                Ok(value)
            } else {
                Err(
                    Error::corrupt("sections of the program are aligned to no power of two")
                        .in_structure("pe header")
                        .at(u64::try_from(optional.saturating_add(at)).unwrap_or(u64::MAX)),
                )
            }
        };
        Ok(Self {
            optional,
            table: optional.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)),
            symbols: coff.saturating_add(8),
            section_alignment: alignment(32)?,
            file_alignment: alignment(36)?,
        })
    }
}

/// Why the image in `file` is never changed; `None` when it may be.
#[must_use]
pub fn sealed(program: &Program) -> Option<&'static str> {
    if program.signature.is_some() {
        Some("it is signed, and Secure Boot would refuse it changed")
    } else if program.section(".pcrsig").is_some() {
        Some("a TPM policy is bound to its content (.pcrsig)")
    } else {
        None
    }
}

/// The initramfs in `file`: its section, where it is a unified kernel image, and otherwise all of it.
///
/// # Errors
/// As [`Program::read`].
pub fn initramfs_of(file: Vec<u8>) -> Result<Vec<u8>> {
    match Program::parse(&file[..]) {
        Ok(program) if program.is_unified() => {
            let initramfs = program.read(&file[..], Part::Initramfs.section())?;
            Ok(initramfs.unwrap_or_default())
        }
        _ => Ok(file),
    }
}

/// The unified kernel image `file` with `content` as its `part`; everything else in it stays.
///
/// # Errors
/// Unsupported for images that must not be changed, and for one that does not have the part exactly
/// once; Corrupt when its headers contradict themselves; Internal when the result, read back, is not what
/// it should be.
pub fn with_part(file: &[u8], part: Part, content: &[u8]) -> Result<Vec<u8>> {
    let old = Program::parse(file)?;
    if let Some(why) = sealed(&old) {
        return Err(
            Error::unsupported(format!("the unified kernel image stays: {why}"))
                .hint("build it again in the guest, as it is to be and signed as before"),
        );
    }
    let (name, title) = (part.section(), part.title());
    let own = old.sections.iter().filter(|section| section.name == name);
    match own.count() {
        1 => {}
        0 => {
            return Err(Error::unsupported(format!(
                "the unified kernel image has no {title}"
            )));
        }
        count => {
            return Err(Error::unsupported(format!(
                "the unified kernel image has {count} sections {name}, one for each of its profiles"
            ))
            .hint("build it again in the guest, as it is to be"));
        }
    }
    refuse_overlaps(&old)?;
    let layout = Layout::read(file)?;
    let mut headers = Vec::new();
    for index in 0..old.sections.len() {
        let at = layout.table.saturating_add(index.saturating_mul(HEADER));
        let raw = file.get(at..).and_then(|rest| rest.first_chunk::<HEADER>());
        headers.push(Header {
            raw: *raw.ok_or_else(|| Error::corrupt("the section table is cut off"))?,
        });
    }
    let new = rewritten(file, &layout, headers, (part, content))?;
    verify(file, &old, &new, (part, content))?;
    Ok(new)
}

/// No byte of the file is in two sections: all of them together are no longer than it.
fn refuse_overlaps(program: &Program) -> Result<()> {
    let mut sections: Vec<_> = program.sections.iter().collect();
    sections.retain(|section| !section.range.is_empty());
    sections.sort_by_key(|section| section.range.start);
    for pair in sections.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            return Err(Error::corrupt(format!(
                "the sections {} and {} share bytes of the file",
                first.name, second.name
            ))
            .in_structure("pe section")
            .at(second.range.start));
        }
    }
    Ok(())
}

fn rewritten(
    file: &[u8],
    layout: &Layout,
    mut headers: Vec<Header>,
    (part, content): (Part, &[u8]),
) -> Result<Vec<u8>> {
    let at = headers
        .iter()
        .position(|header| header.name() == part.section())
        .ok_or_else(|| Error::internal("a section vanished"))?;
    let len = u32::try_from(content.len()).map_err(|_| too_large())?;
    let aligned = |value: u32, to: u32| value.checked_next_multiple_of(to).ok_or_else(too_large);
    let section = headers[at].clone();
    let (start, stored) = (section.get(20), section.get(16));
    let cut = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    // Only the shorter of the two lengths is known to lie in the file.
    let end = cut(start).saturating_add(cut(stored));
    let (Some(head), Some(tail)) = (file.get(..cut(start)), file.get(end..)) else {
        return Err(Error::corrupt(format!(
            "the {} is stored beyond the end of the file",
            part.title()
        ))
        .in_structure("pe section")
        .mismatch(format!("at most {}", file.len()), end));
    };
    // What is behind it moves by whole units, and stays as aligned as it was.
    let grown = aligned(len.saturating_sub(stored), layout.file_alignment)?;
    let room = stored.checked_add(grown).ok_or_else(too_large)?;
    let mut new = head.to_vec();
    new.extend_from_slice(content);
    new.resize(head.len() + cut(room), 0);
    new.extend_from_slice(tail);

    for header in &mut headers {
        if header.get(20) > start {
            let moved = header.get(20).checked_add(grown).ok_or_else(too_large)?;
            header.set(20, moved);
        }
    }
    headers[at].set(8, len);
    headers[at].set(16, room);
    let unit = layout.section_alignment.max(PAGE);
    let needed = section
        .get(12)
        .checked_add(aligned(len, layout.section_alignment)?);
    let needed = needed.ok_or_else(too_large)?;
    let behind = |header: &&Header| header.get(12) > section.get(12);
    let next = headers
        .iter()
        .filter(behind)
        .map(|header| header.get(12))
        .min();
    if let Some(next) = next.filter(|next| needed > *next) {
        let movable = |header: &Header| PARTS.contains(&header.name().as_str());
        if headers.iter().filter(behind).all(movable) {
            let by = aligned(needed - next, unit)?;
            for header in headers
                .iter_mut()
                .filter(|header| header.get(12) > section.get(12))
            {
                let address = header.get(12).checked_add(by).ok_or_else(too_large)?;
                header.set(12, address);
            }
        } else {
            let mut last = 0;
            for header in &headers {
                last = last.max(header.end()?);
            }
            let mut moved = headers.remove(at);
            moved.set(12, aligned(last, unit)?);
            // The table is in the order of the addresses.
            headers.push(moved);
        }
    }

    let mut size = 0;
    for header in &headers {
        size = size.max(aligned(header.end()?, layout.section_alignment)?);
    }
    for (index, header) in headers.iter().enumerate() {
        let at = layout.table + index * HEADER;
        if let Some(place) = new.get_mut(at..at + HEADER) {
            place.copy_from_slice(&header.raw);
        }
    }
    let mut put = |at: usize, value: u32| {
        if let Some(field) = new.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    };
    // SizeOfInitializedData, SizeOfImage.
    let initialized = u32_at(file, layout.optional + 8)?;
    put(
        layout.optional + 8,
        initialized.checked_add(grown).ok_or_else(too_large)?,
    );
    put(layout.optional + 56, size);
    let symbols = u32_at(file, layout.symbols)?;
    if symbols > start {
        put(
            layout.symbols,
            symbols.checked_add(grown).ok_or_else(too_large)?,
        );
    }
    let checksum = layout.optional + 64;
    if u32_at(file, checksum)? != 0 {
        let value = sum(&new, checksum);
        if let Some(field) = new.get_mut(checksum..checksum + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(new)
}

/// The checksum of an image: its 16-bit words, that of the field at `field` left out, with the carries
/// folded in, and its length.
fn sum(file: &[u8], field: usize) -> u32 {
    let mut total: u64 = 0;
    for (index, word) in file.chunks(2).enumerate() {
        if (field..field + 4).contains(&(index * 2)) {
            continue;
        }
        let low = u64::from(word.first().copied().unwrap_or(0));
        let high = u64::from(word.get(1).copied().unwrap_or(0));
        total += low | high << 8;
        total = (total & 0xffff) + (total >> 16);
    }
    let total = (total & 0xffff) + (total >> 16);
    u32::try_from(total + file.len() as u64).unwrap_or(u32::MAX)
}

/// The new image holds what the old one did, and the new part.
fn verify(file: &[u8], old: &Program, new: &[u8], (part, expected): (Part, &[u8])) -> Result<()> {
    let wrong = |what: &str| Error::internal(format!("the rewritten unified kernel image {what}"));
    let read = Program::parse(new)?;
    let name = part.section();
    if read.read(new, name)?.as_deref() != Some(expected) {
        return Err(wrong(&format!("does not hold its {}", part.title())));
    }
    if others(file, old, name) != others(new, &read, name) {
        return Err(wrong("lost another section"));
    }
    Ok(())
}

/// The sections of `file` that are not called `name`, each with its content, in order.
fn others<'a>(
    file: &'a [u8],
    program: &'a Program,
    name: &str,
) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let others = program.sections.iter();
    let mut others: Vec<_> = others
        .filter(|section| section.name != name)
        .map(|section| {
            let from = usize::try_from(section.range.start).unwrap_or(usize::MAX);
            let to = usize::try_from(section.range.end).unwrap_or(usize::MAX);
            (section.name.as_str(), file.get(from..to))
        })
        .collect();
    others.sort_unstable();
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_inspect::unified::Section;

    #[test]
    fn sections_that_share_bytes_are_refused_before_they_are_read() {
        let section = |name: &str, range| Section {
            name: name.to_owned(),
            range,
        };
        let program = |sections| Program {
            machine: 0x8664,
            sections,
            signature: None,
        };
        let apart = vec![
            section(".linux", 512..1024),
            section(".bss", 0..0),
            section(".initrd", 1024..1500),
            section(".cmdline", 300..512),
        ];
        refuse_overlaps(&program(apart.clone())).unwrap();
        for inside in [0..301, 511..513, 600..700, 1499..9000] {
            let mut sections = apart.clone();
            sections.push(section(".more", inside));
            let error = refuse_overlaps(&program(sections)).unwrap_err();
            assert_eq!(error.kind(), rehost_block::Kind::Corrupt, "{error}");
        }
    }
}
