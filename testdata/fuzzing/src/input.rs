//! Packed inputs: what of a file is not zero, so that images of some MiB are seeds of some hundred
//! bytes, and mutations meet structures instead of the zeroes between them.
//!
//! `rehostsp`, the length (u32), then pieces: offset (u32), length (u16), bytes; little endian.

use std::borrow::Cow;

/// What a packed input begins with.
const MAGIC: &[u8; 8] = b"rehostsp";

/// The longest file that a packed input stands for, in bytes.
const MOST: usize = 16 << 20;

/// Files up to this length are left as they are.
const SMALL: usize = 4096;

/// Zeroes between two pieces that are worth the head of another one.
const GAP: usize = 16;

/// The file that `input` stands for.
#[must_use]
pub fn expand(input: &[u8]) -> Cow<'_, [u8]> {
    let Some((len, mut rest)) = input
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Cow::Borrowed(input);
    };
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap().min(MOST);
    let mut file = vec![0; len];
    // Ends because every piece takes its head off `rest`.
    while let Some((head, tail)) = rest.split_first_chunk::<6>() {
        let [a, b, c, d, e, f] = *head;
        let at = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap();
        let (piece, tail) = tail.split_at(usize::from(u16::from_le_bytes([e, f])).min(tail.len()));
        if let Some(place) = file.get_mut(at..) {
            let len = piece.len().min(place.len());
            place[..len].copy_from_slice(&piece[..len]);
        }
        rest = tail;
    }
    Cow::Owned(file)
}

/// `file`, packed where that makes it shorter. Nothing for a file that is too long.
#[must_use]
pub fn pack(file: &[u8]) -> Option<Vec<u8>> {
    if file.len() > MOST {
        return None;
    }
    let mut packed = MAGIC.to_vec();
    packed.extend(u32::try_from(file.len()).ok()?.to_le_bytes());
    let mut at = 0;
    // Ends because every round goes on by at least one byte.
    while let Some(skip) = file[at..].iter().position(|byte| *byte != 0) {
        let start = at + skip;
        let most = file.len().min(start + usize::from(u16::MAX));
        let mut end = start + 1;
        for (nth, byte) in file[start..most].iter().enumerate() {
            if *byte != 0 {
                end = start + nth + 1;
            } else if start + nth >= end + GAP {
                break;
            }
        }
        packed.extend(u32::try_from(start).ok()?.to_le_bytes());
        packed.extend(u16::try_from(end - start).ok()?.to_le_bytes());
        packed.extend(&file[start..end]);
        at = end;
    }
    Some(if file.len() <= SMALL || packed.len() >= file.len() {
        file.to_vec()
    } else {
        packed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_file_expands_to_itself() {
        let mut file = vec![0; 3 << 20];
        file[5] = 1;
        file[1000..1100].fill(7);
        file[1 << 20..(1 << 20) + 70_000].fill(9);
        *file.last_mut().unwrap() = 3;
        let packed = pack(&file).unwrap();
        assert!(packed.len() < 71_000, "{}", packed.len());
        assert_eq!(expand(&packed), file);
        for small in [&b""[..], b"KDMV", &[0; 100]] {
            assert_eq!(pack(small).unwrap(), small);
            assert_eq!(expand(small), small);
        }
    }
}
