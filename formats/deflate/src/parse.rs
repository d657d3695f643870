//! Cuts a unit into literals and repeats.

use crate::Level;
use crate::block::Blocks;
use crate::effort::{Effort, Patience};
use crate::matcher::{Matcher, Repeat};
use crate::symbols::SHORTEST;

/// Repeats of three bytes from further away than this cost more than three literals mostly.
const NEAR: usize = 2048;

/// Goes through `plain` once and tells `blocks` what it is made of.
pub(crate) fn parse(plain: &[u8], level: Level, matcher: &mut Matcher, blocks: &mut Blocks) {
    let effort = level.effort();
    // One copy of the loop each, so that none asks what it knows.
    match effort.patience {
        Patience::None => walk::<0>(plain, effort, matcher, blocks),
        Patience::One => walk::<1>(plain, effort, matcher, blocks),
        Patience::Two => walk::<2>(plain, effort, matcher, blocks),
    }
}

/// `PATIENCE`: how many bytes on a better repeat is looked for.
fn walk<const PATIENCE: u8>(
    plain: &[u8],
    effort: Effort,
    matcher: &mut Matcher,
    blocks: &mut Blocks,
) {
    let Effort { depth, nice, .. } = effort;
    let shortest = shortest(plain);
    let mut at = 0;
    // Ends because every round moves `at` on by a byte or more.
    while at < plain.len() {
        blocks.cut(plain, at);
        let mut repeat = matcher.find(plain, at, SHORTEST - 1, depth, nice);
        if !worth(&repeat, shortest) {
            blocks.literal(plain[at]);
            at += 1;
            continue;
        }
        // Places up to here are entered.
        let mut entered = at + 1;
        // Ends because every round moves `at` on or leaves.
        while PATIENCE > 0 && repeat.length < nice {
            let next = matcher.find(plain, at + 1, repeat.length - 1, depth / 2, nice);
            entered = at + 2;
            if better(&next, &repeat, 2) {
                blocks.literal(plain[at]);
                at += 1;
                repeat = next;
                continue;
            }
            if PATIENCE > 1 && at + 2 < plain.len() {
                let next = matcher.find(plain, at + 2, repeat.length - 1, depth / 4, nice);
                entered = at + 3;
                if better(&next, &repeat, 6) {
                    blocks.literal(plain[at]);
                    blocks.literal(plain[at + 1]);
                    at += 2;
                    repeat = next;
                    continue;
                }
            }
            break;
        }
        blocks.repeat(repeat.length, repeat.distance);
        at += repeat.length;
        matcher.skip(plain, entered..at);
    }
}

/// Whether `repeat` is shorter to say than its bytes.
#[inline(always)]
fn worth(repeat: &Repeat, shortest: usize) -> bool {
    repeat.distance > 0
        && repeat.length >= shortest
        && (repeat.length > SHORTEST || repeat.distance <= NEAR)
}

/// Whether `next`, which begins later, is better than `repeat` by `much`, about in bits: a byte more
/// is worth four, and so is a distance sixteen times shorter.
#[inline(always)]
fn better(next: &Repeat, repeat: &Repeat, much: i32) -> bool {
    let longer = next.length as i32 - repeat.length as i32;
    let nearer = repeat.distance.max(1).ilog2() as i32 - next.distance.max(1).ilog2() as i32;
    next.distance > 0 && longer >= 0 && 4 * longer + nearer > much
}

/// The shortest repeat that is worth it: where few bytes occur, literals are cheap.
fn shortest(plain: &[u8]) -> usize {
    let mut seen = [0u8; 256];
    for byte in plain.iter().take(4096) {
        seen[usize::from(*byte)] = 1;
    }
    match seen.iter().map(|seen| u32::from(*seen)).sum() {
        0..5 => 8,
        5..12 => 6,
        12..40 => 5,
        40..80 => 4,
        _ => 3,
    }
}
