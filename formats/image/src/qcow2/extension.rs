//! Header extensions: backing format, data file name, feature names, bitmaps.
//!
//! QEMU `docs/interop/qcow2.txt`, "Header extensions". Unknown ones are skipped, as it asks.

use rehost_block::{Fields, Result};

use super::areas::Extension;

/// No extension of the file may begin after this many others. Ours: QEMU writes at most five.
const MAX_EXTENSIONS: u32 = 1024;

/// The type of the feature name table.
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
/// The type of the backing file's format.
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The type of the data file's name.
pub(super) const DATA_FILE_NAME: u32 = 0x4441_5441;

/// What the extensions of one image say.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) backing_format: Option<Vec<u8>>,
    pub(super) data_file: Option<Vec<u8>>,
    pub(super) bitmaps: u32,
    feature_names: Vec<FeatureName>,
}

#[derive(Debug)]
struct FeatureName {
    kind: u8,
    bit: u8,
    name: String,
}

/// Every extension between byte `at` and byte `end` of the header cluster, as it is.
pub(super) fn list(header: &Fields<'_>, mut at: usize, end: usize) -> Result<Vec<Extension>> {
    let mut extensions = Vec::new();
    // Ends because `at` grows by at least 8 a round; the count bounds the work besides.
    for _ in 0..MAX_EXTENSIONS {
        if at.saturating_add(8) > end {
            return Ok(extensions);
        }
        let kind = header.u32_be(at)?;
        let len = usize::try_from(header.u32_be(at.saturating_add(4))?).unwrap_or(usize::MAX);
        let body = at.saturating_add(8);
        if kind == 0 {
            return Ok(extensions);
        }
        if len > end.saturating_sub(body) {
            return Err(header
                .corrupt(at, format!("extension {kind:#010x} is too long"))
                .mismatch(format!("at most {} bytes", end.saturating_sub(body)), len));
        }
        extensions.push(Extension {
            kind,
            body: header.bytes(body, len)?.to_vec(),
        });
        at = body.saturating_add(len.next_multiple_of(8));
    }
    Err(header.corrupt(at, "too many header extensions"))
}

impl Extensions {
    /// The extensions between byte `at` and byte `end` of the header cluster.
    pub(super) fn parse(header: &Fields<'_>, at: usize, end: usize) -> Result<Self> {
        let mut extensions = Self::default();
        for extension in list(header, at, end)? {
            extensions.take(extension.kind, &extension.body);
        }
        Ok(extensions)
    }

    fn take(&mut self, kind: u32, body: &[u8]) {
        match kind {
            BACKING_FORMAT => self.backing_format = Some(body.to_vec()),
            DATA_FILE_NAME => self.data_file = Some(body.to_vec()),
            0x2385_2875 => {
                self.bitmaps = body.first_chunk().map_or(0, |n| u32::from_be_bytes(*n));
            }
            FEATURE_NAMES => {
                for entry in body.as_chunks::<48>().0 {
                    let [kind, bit, name @ ..] = entry;
                    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                    self.feature_names.push(FeatureName {
                        kind: *kind,
                        bit: *bit,
                        name: String::from_utf8_lossy(name).into_owned(),
                    });
                }
            }
            _ => {}
        }
    }

    /// The name the image itself gives to an incompatible feature.
    pub(super) fn incompatible_name(&self, bit: u32) -> Option<&str> {
        self.feature_names
            .iter()
            .find(|feature| feature.kind == 0 && u32::from(feature.bit) == bit)
            .map(|feature| feature.name.as_str())
    }
}
