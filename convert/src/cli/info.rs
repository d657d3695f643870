//! `rehost info`: what an image is, and the files it is made of.

use std::sync::Arc;

use anyhow::Result;
use rehost_block::File;
use rehost_image::{Access, Backing, Bitmap, LayerDescription, Snapshot, bitmaps, snapshots};
use serde::Serialize;

use super::args::ImageCommand;
use super::snapshot::listed;
use super::{Answer, output};
use crate::guest::evidence;
use crate::voice::{bytes, plain};

/// The result as JSON.
#[derive(Serialize)]
struct Info<'a> {
    virtual_size: u64,
    layers: Vec<Layer<'a>>,
}

/// One file of the chain, and what it keeps besides its disk.
#[derive(Serialize)]
struct Layer<'a> {
    #[serde(flatten)]
    layer: &'a LayerDescription,
    snapshots: Vec<Snapshot>,
    bitmaps: Vec<Bitmap>,
}

impl<'a> Layer<'a> {
    fn of(layer: &'a LayerDescription) -> Result<Self> {
        let mut kept = Self {
            layer,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
        };
        if layer.wrapper.is_none() {
            let storage = Arc::new(File::open(&layer.path)?);
            kept.snapshots = snapshots(&layer.path, layer.format, storage.clone())?;
            kept.bitmaps = bitmaps(&layer.path, layer.format, storage)?;
        }
        Ok(kept)
    }
}

/// Runs the command.
pub(super) fn run(args: &ImageCommand) -> Result<Answer> {
    let image = args.opening.image_at(&args.image, &args.earlier)?;
    let layers: Vec<Layer<'_>> = image
        .layers()
        .iter()
        .map(Layer::of)
        .collect::<Result<_>>()?;
    if args.json {
        output::json(&Info {
            virtual_size: image.size(),
            layers,
        })?;
    } else {
        print(&layers)?;
    }
    Ok(Answer::Done)
}

fn print(layers: &[Layer<'_>]) -> Result<()> {
    for (nth, kept) in layers.iter().enumerate() {
        let layer = kept.layer;
        if nth > 0 {
            output::line("")?;
        }
        let how = evidence(layer).map_or(String::new(), |how| format!(" ({how})"));
        let wrapper = layer.wrapper.as_ref();
        let outer = wrapper.map_or(String::new(), |found| format!("{} > ", found.wrapper));
        let size = |size: u64| format!("{} ({size} bytes)", bytes(size));
        let mut facts = vec![
            ("image", layer.path.display().to_string()),
            ("format", format!("{outer}{}{how}", layer.format)),
        ];
        if let Some(found) = wrapper {
            let access = match &found.access {
                Access::Index { pieces } => format!("read by its index of {pieces} pieces"),
                Access::TemporaryFile { folder } => format!(
                    "unpacked as a whole into a temporary file in {}",
                    folder.display()
                ),
            };
            facts.push(("wrapper", access));
        }
        facts.push(("virtual size", size(layer.virtual_size)));
        facts.push(("file size", size(layer.file_size)));
        facts.extend(layer.unit.map(|unit| ("unit", bytes(unit).to_string())));
        facts.extend(
            layer
                .compression
                .map(|codec| ("compression", codec.to_owned())),
        );
        let parent = |backing: &Backing| ("parent", backing.name.display().to_string());
        facts.extend(layer.backing.as_ref().map(parent));
        let of_format = details(layer)?;
        let named = of_format
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in facts.into_iter().chain(named) {
            // A file name, or what a header holds, may have line feeds in it.
            let value = plain(&value);
            output::line(format_args!("{:<20}{value}", format!("{name}:")))?;
        }
        for snapshot in &kept.snapshots {
            output::line(format_args!("  snapshot {}", listed(snapshot)))?;
        }
        for bitmap in &kept.bitmaps {
            output::line(format_args!(
                "  bitmap {}: {} per bit{}{}",
                plain(&bitmap.name),
                bytes(bitmap.granularity),
                if bitmap.recording { ", recording" } else { "" },
                match (bitmap.in_use, bitmap.bits_set) {
                    (true, _) => ", its writer did not finish".to_owned(),
                    (false, Some(set)) => format!(", {set} bits set"),
                    (false, None) => String::new(),
                }
            ))?;
        }
    }
    Ok(())
}

/// The format's own facts, as they are in the JSON, one a line.
fn details(layer: &LayerDescription) -> Result<Vec<(String, String)>> {
    let serde_json::Value::Object(fields) = serde_json::to_value(&layer.details)? else {
        return Ok(Vec::new());
    };
    Ok(fields
        .into_iter()
        .filter(|(name, value)| name != "type" && !value.is_null())
        .map(|(name, value)| (name.replace('_', " "), value))
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => (name, text),
            other => (name, other.to_string()),
        })
        .collect())
}
