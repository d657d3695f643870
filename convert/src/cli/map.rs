//! `rehost map`: where each part of a disk is stored.

use anyhow::Result;

use super::args::ImageCommand;
use super::{Answer, output};
use crate::copy::{Extent, Kind, map};

/// Runs the command.
pub(super) fn run(args: &ImageCommand) -> Result<Answer> {
    let image = args.opening.image_at(&args.image, &args.earlier)?;
    let disk = image.disk();
    if args.json {
        let extents: Vec<Extent> = map(&*disk).collect::<rehost_block::Result<_>>()?;
        output::json(&extents)?;
        return Ok(Answer::Done);
    }
    output::line(format_args!(
        "{:>16} {:>16}  {:<8} {}",
        "start", "length", "kind", "stored at"
    ))?;
    for extent in map(&*disk) {
        let extent = extent?;
        let place = match (&extent.file, extent.offset) {
            (Some(file), Some(offset)) => format!("{} at {offset}", file.display()),
            _ => String::new(),
        };
        let kind = match extent.kind {
            Kind::Data => "data",
            Kind::Zero => "zero",
            Kind::Packed => "packed",
        };
        let row = format!(
            "{:>16} {:>16}  {kind:<8} {place}",
            extent.start, extent.length
        );
        output::line(row.trim_end())?;
    }
    Ok(Answer::Done)
}
