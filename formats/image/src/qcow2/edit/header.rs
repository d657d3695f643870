//! Writing the header of an image again, with everything in it that is not known here.

use rehost_block::{Error, Result, StorageMut};

use super::super::entry::{amount, index};
use super::super::extension::FEATURE_NAMES;
use super::super::header::Header;

/// Writes `header` into the first cluster. Header fields, extensions and bits unknown here stay.
pub(in super::super) fn write_header(storage: &dyn StorageMut, header: &mut Header) -> Result<()> {
    let areas = &mut header.areas;
    let mut bytes = vec![0; areas.header_length];
    storage.read_at(&mut bytes, 0)?;
    let name = header.backing_file.clone().unwrap_or_default();
    let cluster = header.geometry.cluster_size();
    let len = |extensions: &[super::super::areas::Extension]| {
        let extensions: u64 = extensions
            .iter()
            .map(|x| amount(x.body.len().next_multiple_of(8)).saturating_add(8))
            .sum();
        amount(areas.header_length)
            .saturating_add(extensions)
            .saturating_add(8)
            .saturating_add(amount(name.len()))
    };
    if len(&areas.extensions) > cluster {
        // It is for messages only.
        areas.extensions.retain(|x| x.kind != FEATURE_NAMES);
        let needed = len(&areas.extensions);
        if needed > cluster {
            return Err(Error::usage("backing file name does not fit the header")
                .mismatch(format!("at most {cluster} bytes"), needed));
        }
    }
    for extension in &areas.extensions {
        bytes.extend_from_slice(&extension.kind.to_be_bytes());
        let body = u32::try_from(extension.body.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&body.to_be_bytes());
        bytes.extend_from_slice(&extension.body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend_from_slice(&[0; 8]);
    areas.backing_offset = if name.is_empty() {
        0
    } else {
        amount(bytes.len())
    };
    bytes.extend_from_slice(&name);

    let short = |value: u64| {
        u32::try_from(value)
            .map(u32::to_be_bytes)
            .map_err(|_| Error::internal("a header field overflows"))
    };
    let mut put = |at: usize, field: &[u8]| {
        let end = at.saturating_add(field.len());
        if let Some(place) = bytes.get_mut(at..end) {
            place.copy_from_slice(field);
        }
    };
    put(8, &areas.backing_offset.to_be_bytes());
    put(16, &short(amount(name.len()))?);
    put(24, &header.size.to_be_bytes());
    put(36, &short(header.l1_entries)?);
    put(40, &header.l1_offset.to_be_bytes());
    put(48, &areas.refcount_table.to_be_bytes());
    put(56, &areas.refcount_clusters.to_be_bytes());
    put(60, &header.snapshots.to_be_bytes());
    put(64, &areas.snapshots.to_be_bytes());
    if header.version > 2 {
        put(72, &areas.incompatible.to_be_bytes());
        put(88, &areas.autoclear.to_be_bytes());
    }
    // Over what was longer before; names that lay further on are just not referred to any more.
    let padded = bytes.len().max(2048).min(index(cluster));
    bytes.resize(padded, 0);
    storage.write_at(&bytes, 0)
}
