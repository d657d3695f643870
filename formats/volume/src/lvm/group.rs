//! A volume group as its metadata describes it: physical volumes, logical volumes, segments.
//!
//! After LVM2's `lib/format_text/import_vsn1.c` and the `text_import` of each segment type. Kinds
//! of segments that are not read are kept by name, so that a volume made of one is refused and the
//! rest of the group stays usable.

use std::collections::{BTreeMap, BTreeSet};

use rehost_block::Result;

use super::text::{Node, Section, Value, broken, parse};

/// Segments of one logical volume. Ours.
const MOST_SEGMENTS: usize = 65_536;

/// Areas (stripes, legs) of one segment. LVM's own limit is 128 stripes.
const MOST_AREAS: usize = 1024;

/// A volume group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) seqno: u64,
    /// Bytes per extent.
    pub(crate) extent: u64,
    /// By the name that the metadata gives them (`pv0`).
    pub(crate) physical: BTreeMap<String, Physical>,
    pub(crate) logical: Vec<Logical>,
}

/// A physical volume of a group.
#[derive(Debug)]
pub(crate) struct Physical {
    /// UUID without dashes.
    pub(crate) uuid: String,
    /// The device that it was last seen on: a hint for people.
    pub(crate) device: Option<String>,
    pub(crate) missing: bool,
    /// Byte at which its first extent begins.
    pub(crate) first: u64,
    pub(crate) extents: u64,
}

/// A logical volume.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// Whether it is meant for users, and not a part of another one.
    pub(crate) visible: bool,
    /// Whether its permission is to be written, and not only read.
    pub(crate) writable: bool,
    pub(crate) segments: Vec<Segment>,
    pub(crate) at: u64,
}

/// A stretch of a logical volume.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) extents: u64,
    pub(crate) kind: Kind,
    pub(crate) at: u64,
}

/// How it is made.
#[derive(Debug)]
pub(crate) enum Kind {
    /// One area after the other in chunks; one area is a linear segment.
    Striped { chunk: u64, areas: Vec<Area> },
    /// Areas that all hold the same.
    Mirror { areas: Vec<Area> },
    /// Metadata volume (may be absent) and image volume of each leg, by name.
    Raid1 { legs: Vec<(Option<String>, String)> },
    /// Zeroes.
    Zero,
    /// A snapshot: not data of its own, it ties these together.
    Snapshot {
        store: String,
        origin: String,
        merging: bool,
    },
    /// Blocks that are given to thin volumes as they are written.
    ThinPool(ThinPool),
    /// A volume whose blocks are in a pool.
    Thin {
        pool: String,
        /// Its number in the pool's metadata.
        device: u64,
        /// What it reads as where it has no block.
        origin: Option<String>,
        /// The volume that this one, a snapshot of it, takes the place of when it is next used.
        merges_into: Option<String>,
    },
    /// Anything else, by LVM's name for it.
    Other(String),
}

/// Where a thin pool keeps what.
#[derive(Debug)]
pub(crate) struct ThinPool {
    pub(crate) data: String,
    pub(crate) metadata: String,
    /// Bytes per block.
    pub(crate) chunk: u64,
    /// Changes of the pool that LVM knows of.
    pub(crate) transaction: u64,
    /// Whether the last of them waits until the pool is next used.
    pub(crate) pending: bool,
}

/// A place on a physical volume, or in a logical one: name and extent.
pub(crate) type Area = (String, u64);

/// Without the dashes that LVM prints.
fn bare(uuid: &str) -> String {
    uuid.replace('-', "")
}

/// Parses the metadata text that begins at byte `base`.
pub(crate) fn parse_group(text: &[u8], base: u64) -> Result<Group> {
    let nodes = parse(text, base)?;
    let root = Section {
        name: "the metadata",
        nodes: &nodes,
        at: base,
    };
    let contents = root.text("contents")?;
    if contents != "Text Format Volume Group" {
        return Err(broken(format!("contents are {contents:?}"), base));
    }
    let group = nodes
        .iter()
        .find_map(|node| node.section().ok())
        .ok_or_else(|| broken("no volume group in the text", base))?;
    let extent = group.number("extent_size")?.checked_mul(512);
    let extent = extent
        .filter(|bytes| *bytes != 0)
        .ok_or_else(|| broken("extent_size is impossible", group.at))?;
    let mut physical = BTreeMap::new();
    for section in group.sections("physical_volumes")? {
        physical.insert(section.name.to_owned(), parse_physical(&section)?);
    }
    let mut logical = Vec::new();
    let mut names = BTreeSet::new();
    for section in group.sections("logical_volumes")? {
        if !names.insert(section.name.to_owned()) {
            let what = format!("two logical volumes are called {}", section.name);
            return Err(broken(what, section.at));
        }
        logical.push(parse_logical(&section)?);
    }
    Ok(Group {
        name: group.name.to_owned(),
        uuid: group.text("id")?.to_owned(),
        seqno: group.number("seqno")?,
        extent,
        physical,
        logical,
    })
}

fn parse_physical(section: &Section<'_>) -> Result<Physical> {
    let first = section.number("pe_start")?.checked_mul(512);
    Ok(Physical {
        uuid: bare(section.text("id")?),
        device: section.text_if("device").map(str::to_owned),
        missing: section.lists("flags", "MISSING") || section.lists("status", "MISSING"),
        first: first.ok_or_else(|| broken("pe_start is impossible", section.at))?,
        extents: section.number("pe_count")?,
    })
}

fn parse_logical(section: &Section<'_>) -> Result<Logical> {
    let mut segments = Vec::new();
    for node in section.nodes {
        // Other sections than `segmentN` may be added by later versions.
        if !node.name.starts_with("segment") || node.name == "segment_count" {
            continue;
        }
        if segments.len() >= MOST_SEGMENTS {
            return Err(broken("too many segments", node.at));
        }
        segments.push(parse_segment(&node.section()?)?);
    }
    segments.sort_by_key(|segment| segment.start);
    let mut next = 0u64;
    for segment in &segments {
        if segment.start != next || segment.extents == 0 {
            return Err(broken(
                format!("the segments of {} leave gaps or overlap", section.name),
                segment.at,
            )
            .mismatch(next, segment.start));
        }
        next = next
            .checked_add(segment.extents)
            .ok_or_else(|| broken("extent_count is impossible", segment.at))?;
    }
    Ok(Logical {
        name: section.name.to_owned(),
        uuid: section.text("id")?.to_owned(),
        visible: section.lists("status", "VISIBLE"),
        writable: section.lists("status", "WRITE"),
        segments,
        at: section.at,
    })
}

fn parse_segment(section: &Section<'_>) -> Result<Segment> {
    // Flags may follow the type: `thin+DEGRADED`.
    let kind = section.text("type")?;
    let plain = kind.split('+').next().unwrap_or_default();
    let kind = match plain {
        "striped" | "linear" => parse_striped(section)?,
        "mirror" => Kind::Mirror {
            areas: areas(section, "mirrors")?,
        },
        "raid1" => Kind::Raid1 {
            legs: legs(section)?,
        },
        "zero" => Kind::Zero,
        "snapshot" => {
            let merging = section.text_if("merging_store");
            let store = match merging {
                Some(store) => store,
                None => section.text("cow_store")?,
            };
            Kind::Snapshot {
                store: store.to_owned(),
                origin: section.text("origin")?.to_owned(),
                merging: merging.is_some(),
            }
        }
        "thin-pool" => Kind::ThinPool(parse_pool(section)?),
        "thin" => Kind::Thin {
            pool: section.text("thin_pool")?.to_owned(),
            device: section.number("device_id")?,
            origin: section.text_if("external_origin").map(str::to_owned),
            merges_into: section.text_if("merge").map(str::to_owned),
        },
        other => Kind::Other(other.to_owned()),
    };
    Ok(Segment {
        start: section.number("start_extent")?,
        extents: section.number("extent_count")?,
        kind,
        at: section.at,
    })
}

fn parse_pool(section: &Section<'_>) -> Result<ThinPool> {
    let chunk = section.number("chunk_size")?.checked_mul(512);
    let message = |node: &Node| node.name.starts_with("message");
    Ok(ThinPool {
        data: section.text("pool")?.to_owned(),
        metadata: section.text("metadata")?.to_owned(),
        chunk: chunk
            .filter(|bytes| *bytes != 0)
            .ok_or_else(|| broken("chunk_size is impossible", section.at))?,
        transaction: section.number("transaction_id")?,
        pending: section.nodes.iter().any(message),
    })
}

fn parse_striped(section: &Section<'_>) -> Result<Kind> {
    let areas = areas(section, "stripes")?;
    let count = u64::try_from(areas.len()).unwrap_or(u64::MAX);
    if section.number("stripe_count")? != count {
        return Err(
            broken("stripe_count is not the number of stripes", section.at)
                .mismatch(count, section.number("stripe_count")?),
        );
    }
    let chunk = if count > 1 {
        let chunk = section.number("stripe_size")?.checked_mul(512);
        chunk
            .filter(|bytes| *bytes != 0)
            .ok_or_else(|| broken("stripe_size is impossible", section.at))?
    } else {
        0
    };
    Ok(Kind::Striped { chunk, areas })
}

/// A list of names and extents in turn.
fn areas(section: &Section<'_>, name: &str) -> Result<Vec<Area>> {
    let list = section.list(name)?;
    let mut areas = Vec::new();
    let (pairs, rest) = list.as_chunks::<2>();
    for pair in pairs {
        let [Value::Text(name), Value::Number(extent)] = pair else {
            return Err(broken("an area is not a name and an extent", section.at));
        };
        let extent =
            u64::try_from(*extent).map_err(|_| broken("an extent is negative", section.at))?;
        areas.push((name.clone(), extent));
    }
    if areas.is_empty() || !rest.is_empty() || areas.len() > MOST_AREAS {
        return Err(broken(format!("{name} is no list of areas"), section.at));
    }
    Ok(areas)
}

fn legs(section: &Section<'_>) -> Result<Vec<(Option<String>, String)>> {
    let list = section.list("raids")?;
    let wrong = || broken("raids is no list of volumes", section.at);
    let mut names = Vec::new();
    for value in list {
        let Value::Text(name) = value else {
            return Err(wrong());
        };
        names.push(name.clone());
    }
    let count = section.get("device_count").map_or_else(
        || section.number("stripe_count"),
        |_| section.number("device_count"),
    )?;
    let count = usize::try_from(count).map_err(|_| wrong())?;
    if count == 0 || count > MOST_AREAS || names.len() != count.saturating_mul(2) {
        return Err(wrong());
    }
    let (pairs, _) = names.as_chunks::<2>();
    Ok(pairs
        .iter()
        .map(|[meta, image]| {
            (
                Some(meta.clone()).filter(|name| !name.is_empty()),
                image.clone(),
            )
        })
        .collect())
}
