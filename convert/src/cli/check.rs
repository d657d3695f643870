//! `rehost check`: what is wrong with an image, and mending it.

use std::path::Path;

use anyhow::Result;
use rehost_image::{self as images, Finding, Severity};
use serde::Serialize;

use super::args::Check;
use super::undo::sentence;
use super::{Answer, output};
use crate::guest::opener;
use crate::verbs::check::{can_be_mended, check, mend, roll_back};
use crate::verbs::in_place::settled;
use crate::voice::plain;

/// The result as JSON: the counters under the names of `qemu-img check`, and what was found.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    filename: &'a Path,
    format: images::Format,
    check_errors: u64,
    corruptions: u64,
    leaks: u64,
    /// As many as were mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    corruptions_fixed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks_fixed: Option<u64>,
    total_clusters: u64,
    allocated_clusters: u64,
    compressed_clusters: u64,
    fragmented_clusters: u64,
    image_end_offset: u64,
    findings: &'a [Finding],
}

/// Runs the command.
pub(super) fn run(args: &Check) -> Result<Answer> {
    let voice = args.reporting.voice();
    let opener = opener(&args.opening.allow_paths)?;
    if args.repair {
        if let Some(recovered) = roll_back(&args.image, &opener)? {
            voice.step(sentence(&recovered));
        }
    } else {
        settled(&args.image)?;
    }
    let before = check(&args.image, args.opening.format, &opener)?;
    let mut after = None;
    if args.repair && can_be_mended(&before.check) {
        voice.step(format_args!("Mending {}.", args.image.display()));
        after = Some(mend(&before, &opener)?);
    }
    let found = after.as_ref().unwrap_or(&before.check);
    let fixed = |count: fn(&images::Check) -> u64| {
        let after = after.as_ref()?;
        Some(count(&before.check).saturating_sub(count(after)))
    };
    if args.reporting.json {
        output::json(&Report {
            filename: &args.image,
            format: before.format,
            check_errors: 0,
            corruptions: found.corruptions,
            leaks: found.leaks,
            corruptions_fixed: fixed(|check| check.corruptions),
            leaks_fixed: fixed(|check| check.leaks),
            total_clusters: found.total_units,
            allocated_clusters: found.allocated_units,
            compressed_clusters: found.compressed_units,
            fragmented_clusters: found.fragmented_units,
            image_end_offset: found.image_end,
            findings: &found.findings,
        })?;
    } else {
        if let Some(after) = &after {
            output::line(format_args!(
                "mended: {} of {} corruptions, {} of {} leaks",
                before.check.corruptions.saturating_sub(after.corruptions),
                before.check.corruptions,
                before.check.leaks.saturating_sub(after.leaks),
                before.check.leaks
            ))?;
        }
        print(found, args.repair)?;
    }
    Ok(if found.is_clean() {
        Answer::Done
    } else {
        Answer::No
    })
}

fn print(check: &images::Check, tried: bool) -> Result<()> {
    for severity in [Severity::Corruption, Severity::Leak] {
        let word = match severity {
            Severity::Corruption => "corruption",
            Severity::Leak => "leak",
        };
        let of_it = |finding: &&Finding| finding.severity == severity;
        for finding in check.findings.iter().filter(of_it) {
            output::line(plain(&format!(
                "{word}: {} at byte {}: {}",
                finding.structure, finding.offset, finding.text
            )))?;
        }
    }
    let told = u64::try_from(check.findings.len()).unwrap_or(u64::MAX);
    let untold = (check.corruptions.saturating_add(check.leaks)).saturating_sub(told);
    if untold > 0 {
        output::line(format_args!("… and {untold} more"))?;
    }
    if check.is_clean() {
        output::line("Nothing is wrong with the image.")?;
    } else {
        let hint = match (tried, can_be_mended(check)) {
            (false, true) => "; `rehost check --repair` mends some of it",
            _ => "",
        };
        output::line(format_args!(
            "{} corruptions, {} leaks{hint}",
            check.corruptions, check.leaks
        ))?;
    }
    if check.total_units > 0 {
        output::line(format_args!(
            "{} of {} units stored, {} of them compressed, {} apart from their neighbours; in use up \
             to byte {}",
            check.allocated_units,
            check.total_units,
            check.compressed_units,
            check.fragmented_units,
            check.image_end
        ))?;
    }
    Ok(())
}
