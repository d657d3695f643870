//! Unified kernel images: kernel, initramfs and command line as sections of one EFI program.
//!
//! <https://uapi-group.org/specifications/specs/unified_kernel_image/>, inside Microsoft's "PE Format".
//! Only the headers are read, and sections by name; where a section is listed twice (profiles), the
//! first one counts, which is the one that is booted without a choice. Left out on purpose: the
//! signature is noticed, not verified.

use std::ops::Range;

use rehost_block::{Error, Fields, Result};

use crate::packages::Bytes;

/// The most of a file that its headers take. Ours: a hundred sections have 4 KiB.
const MOST_HEADERS: usize = 64 << 10;

/// Largest section of text. Ours: a command line has at most 4 KiB, an os-release 1 KiB.
const MOST_TEXT: u64 = 64 << 10;

/// Largest section that is read whole: an initramfs.
const MOST_SECTION: u64 = 1 << 30;

/// A section of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name: `.linux`.
    pub name: String,
    /// Its bytes in the file, without the padding after them.
    pub range: Range<u64>,
}

/// The headers of an EFI program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// `Machine` of the COFF header: `0x8664` for x86-64.
    pub machine: u16,
    /// The sections, in file order.
    pub sections: Vec<Section>,
    /// The certificate table: where the signature is, if there is one.
    pub signature: Option<Range<u64>>,
}

impl Program {
    /// Reads the headers.
    ///
    /// # Errors
    /// Corrupt, with the byte, when it is no such program or a section lies outside of the file.
    pub fn parse(file: &(impl Bytes + ?Sized)) -> Result<Self> {
        let most = usize::try_from(file.size()).unwrap_or(usize::MAX);
        let mut head = vec![0; most.min(MOST_HEADERS)];
        let read = file.read_at(&mut head, 0)?;
        head.truncate(read);
        let fields = Fields::new(&head, "pe header", 0);
        if fields.bytes(0, 2)? != b"MZ" {
            return Err(fields.corrupt(0, "no EFI program: the magic MZ is missing"));
        }
        let pe = place(fields.u32_le(0x3c)?);
        if fields.bytes(pe, 4)? != b"PE\0\0" {
            return Err(fields.corrupt(pe, "no EFI program: the signature PE is missing"));
        }
        let coff = pe.saturating_add(4);
        let machine = fields.u16_le(coff)?;
        let count = usize::from(fields.u16_le(coff.saturating_add(2))?);
        let optional = coff.saturating_add(20);
        let table = optional.saturating_add(usize::from(fields.u16_le(coff.saturating_add(16))?));
        let directories = optional.saturating_add(match fields.u16_le(optional)? {
            0x10b => 96,
            0x20b => 112,
            other => {
                return Err(fields
                    .corrupt(
                        optional,
                        "an optional header that is neither PE32 nor PE32+",
                    )
                    .mismatch("0x10b or 0x20b", format!("{other:#x}")));
            }
        });
        let mut sections = Vec::new();
        for index in 0..count {
            let at = table.saturating_add(index.saturating_mul(40));
            let name = fields.bytes(at, 8)?;
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(8);
            let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
            let virtual_size = fields.u32_le(at.saturating_add(8))?;
            let stored = fields.u32_le(at.saturating_add(16))?;
            let from = u64::from(fields.u32_le(at.saturating_add(20))?);
            // What is stored is padded to the file's alignment; older tools leave VirtualSize 0.
            let len = if virtual_size == 0 {
                stored
            } else {
                stored.min(virtual_size)
            };
            let to = from.saturating_add(u64::from(len));
            if to > file.size() {
                return Err(fields
                    .corrupt(
                        at.saturating_add(16),
                        format!("section {name} lies outside of the file"),
                    )
                    .mismatch(format!("at most {}", file.size()), to));
            }
            sections.push(Section {
                name,
                range: from..to,
            });
        }
        // The fifth directory is the certificate table, by place in the file.
        let known = fields.u32_le(directories.saturating_sub(4))?;
        let signature = if known > 4 {
            let at = directories.saturating_add(32);
            let from = u64::from(fields.u32_le(at)?);
            let len = u64::from(fields.u32_le(at.saturating_add(4))?);
            (from != 0 && len != 0).then(|| from..from.saturating_add(len))
        } else {
            None
        };
        Ok(Self {
            machine,
            sections,
            signature,
        })
    }

    /// The first section called `name`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether it is a unified kernel image: it has a kernel and says what it is.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.section(".linux").is_some()
    }

    /// The content of the section called `name`; `None` when there is none.
    ///
    /// # Errors
    /// Unsupported when it is longer than 1 GiB; otherwise as the file.
    pub fn read(&self, file: &(impl Bytes + ?Sized), name: &str) -> Result<Option<Vec<u8>>> {
        self.read_at_most(file, name, MOST_SECTION)
    }

    /// The text in the section called `name`, without what follows its first zero byte.
    ///
    /// # Errors
    /// Unsupported when it is longer than 64 KiB; otherwise as the file.
    pub fn text(&self, file: &(impl Bytes + ?Sized), name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read_at_most(file, name, MOST_TEXT)? else {
            return Ok(None);
        };
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).trim().to_owned()))
    }

    /// The first `len` bytes of the section called `name`; fewer when it is shorter, none when there
    /// is none.
    ///
    /// # Errors
    /// As the file.
    pub fn start(&self, file: &(impl Bytes + ?Sized), name: &str, len: usize) -> Result<Vec<u8>> {
        let range = self.section(name).map(|section| section.range.clone());
        let Range { start, end } = range.unwrap_or_default();
        let mut bytes = vec![0; len.min(place_of(end.saturating_sub(start)))];
        let read = file.read_at(&mut bytes, start)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn read_at_most(
        &self,
        file: &(impl Bytes + ?Sized),
        name: &str,
        most: u64,
    ) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.section(name) else {
            return Ok(None);
        };
        let Range { start, end } = section.range;
        let len = end.saturating_sub(start);
        if len > most {
            return Err(Error::unsupported(format!(
                "section {name} is too large to be what it should be"
            ))
            .in_structure("pe section")
            .at(start)
            .mismatch(format!("at most {most} bytes"), len));
        }
        let mut bytes = vec![0; place_of(len)];
        let read = file.read_at(&mut bytes, start)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }
}

fn place(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn place_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An EFI program with these sections, as a linker lays one out.
    pub(crate) fn program(sections: &[(&str, &[u8])], signed: bool) -> Vec<u8> {
        let mut file = vec![0u8; 0x400];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x80;
        file[0x80..0x84].copy_from_slice(b"PE\0\0");
        file[0x84..0x86].copy_from_slice(&0x8664u16.to_le_bytes());
        file[0x86..0x88].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        file[0x94..0x96].copy_from_slice(&240u16.to_le_bytes());
        let optional = 0x98;
        file[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
        file[optional + 108] = 16;
        for (index, (name, content)) in sections.iter().enumerate() {
            let at = optional + 240 + index * 40;
            let from = file.len() as u32;
            file[at..at + name.len()].copy_from_slice(name.as_bytes());
            let len = content.len() as u32;
            file[at + 8..at + 12].copy_from_slice(&len.to_le_bytes());
            file[at + 16..at + 20].copy_from_slice(&len.next_multiple_of(512).to_le_bytes());
            file[at + 20..at + 24].copy_from_slice(&from.to_le_bytes());
            file.extend(*content);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        if signed {
            let at = optional + 112 + 32;
            let from = file.len() as u32;
            file[at..at + 4].copy_from_slice(&from.to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&64u32.to_le_bytes());
            file.extend([7; 64]);
        }
        file
    }

    #[test]
    fn sections_are_read_by_name_without_their_padding() {
        let file = program(
            &[
                (".osrel", b"ID=arch\n"),
                (".cmdline", b"root=UUID=1 ro\n\0"),
                (".linux", b"kernel"),
            ],
            false,
        );
        let found = Program::parse(&file[..]).unwrap();
        assert!(found.is_unified() && found.signature.is_none());
        assert_eq!(found.machine, 0x8664);
        assert_eq!(
            found.text(&file[..], ".cmdline").unwrap().unwrap(),
            "root=UUID=1 ro"
        );
        assert_eq!(found.read(&file[..], ".linux").unwrap().unwrap(), b"kernel");
        assert_eq!(found.read(&file[..], ".initrd").unwrap(), None);
        let signed = program(&[(".linux", b"kernel")], true);
        assert!(Program::parse(&signed[..]).unwrap().signature.is_some());
    }

    #[test]
    fn what_is_no_program_or_leads_outside_is_an_error_with_its_byte() {
        let good = program(&[(".linux", b"kernel")], false);
        for (at, value, offset) in [(0, 0u8, 0), (0x80, 0, 0x80), (0x98, 0, 0x98)] {
            let mut file = good.clone();
            file[at] = value;
            assert_eq!(
                Program::parse(&file[..]).unwrap_err().offset(),
                Some(offset)
            );
        }
        let mut file = good.clone();
        let at = 0x98 + 240 + 20;
        file[at + 3] = 0x7f;
        let error = Program::parse(&file[..]).unwrap_err().to_string();
        assert!(error.contains(".linux lies outside"), "{error}");
        assert!(Program::parse(&good[..0x90]).is_err());
        assert!(Program::parse(&b""[..]).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        #[test]
        fn damaged_programs_never_panic(at in 0usize..0x200, byte: u8, cut in 0usize..0x800) {
            let mut file = program(&[(".cmdline", b"ro"), (".linux", b"kernel")], true);
            file[at] = byte;
            file.truncate(cut);
            if let Ok(found) = Program::parse(&file[..]) {
                let _ = found.text(&file[..], ".cmdline");
                let _ = found.read(&file[..], ".linux");
            }
        }
    }
}
