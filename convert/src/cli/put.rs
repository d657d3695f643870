//! Where changes inside an image go: a new image, or the image itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rehost_block::{Error, Overlay};
use rehost_image::Image;

use super::args::{self, Destination, Opening};
use super::convert::{summary, writing};
use crate::change::Changes;
use crate::guest::{OpenedVm, opener};
use crate::interrupt;
use crate::verbs::part::write_changed;
use crate::voice::Voice;
use crate::write::{Outcome, write_image};

/// Refuses a change that has nowhere to go, before anything is done.
pub(super) fn decided(destination: &Destination, image: &Path) -> Result<()> {
    if destination.output.is_some() || destination.in_place {
        return Ok(());
    }
    Err(Error::usage("says not where the changed image goes")
        .in_file(image)
        .hint("write a new image with --output FILE, or change this one with --in-place")
        .into())
}

/// Writes what was changed on the disks of `opened` to where it is to go.
pub(super) fn put(
    changes: Changes,
    opened: &OpenedVm,
    (destination, opening, typed): (&Destination, &Opening, &args::Writing),
    what: &str,
    voice: Voice,
) -> Result<Option<Outcome>> {
    let changed: Vec<(&Image, Arc<Overlay>)> = changes
        .finish()
        .into_iter()
        .filter_map(|(nth, overlay)| Some((opened.images.get(nth)?, overlay)))
        .collect();
    match (&changed[..], &destination.output) {
        ([], _) => {
            voice.step("Nothing was changed.");
            Ok(None)
        }
        ([(image, overlay)], Some(output)) => {
            let writing = writing(typed, output, image.files())?;
            voice.step(format_args!("Writing {}: {what}.", output.display()));
            let outcome = write_image(&**overlay, output, &writing, voice)?;
            voice.step(summary(&outcome));
            Ok(Some(outcome))
        }
        (_, Some(output)) => Err(Error::unsupported(format!(
            "the change reaches {} disks, which one image cannot hold",
            changed.len()
        ))
        .in_file(output)
        .hint("change the images themselves with --in-place, all or nothing")
        .into()),
        (_, None) => {
            for (image, _) in &changed {
                let name = image.files().first().map(|file| file.display());
                voice.step(format_args!(
                    "Changing {}: {what}.",
                    name.map_or_else(String::new, |name| name.to_string())
                ));
            }
            let allowed = opener(&opening.allow_paths)?;
            write_changed(&changed, &allowed, interrupt::flag()?)?;
            Ok(None)
        }
    }
}
