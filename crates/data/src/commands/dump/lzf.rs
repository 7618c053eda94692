//! Decompression of LZF, which Redis applies to strings from 20 bytes on.
//!
//! ```text
//! 000nnnnn                          n + 1 literal bytes follow
//! nnnhhhhh │ llllllll               copy n + 2 bytes from h·256 + l + 1 bytes back, n from 1 to 6
//! 111hhhhh │ nnnnnnnn │ llllllll    the same with n + 9 bytes
//! ```

use quorate_base::codec::Reader;

/// The `len` bytes that `compressed` holds; `None` if it holds anything else. Takes memory as the
/// output grows, which is at most 88 times as long as the input.
pub(super) fn decompress(compressed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut input = Reader::new(compressed);
    let mut out = Vec::with_capacity(len.min(compressed.len() * 4));
    while !input.is_empty() {
        let head = usize::from(input.u8()?);
        if head < 32 {
            out.extend_from_slice(input.take(head + 1)?);
        } else {
            let mut count = head >> 5;
            if count == 7 {
                count += usize::from(input.u8()?);
            }
            let back = (head & 31) << 8 | usize::from(input.u8()?);
            let from = out.len().checked_sub(back + 1)?;
            // The copy may reach into what it appends itself.
            for at in from..from + count + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_overlap_and_stay_inside() {
        assert_eq!(decompress(&[0, b'a', 0xe0, 2, 0], 12), Some(vec![b'a'; 12]));
        assert_eq!(decompress(&[1, b'a', b'b', 0x20, 1], 5), Some(b"ababa".to_vec()));
        for (bad, len) in [
            (&[0, b'a', 0xe0, 2, 0][..], 11),
            (&[0, b'a', 0xe0, 2, 0], 13),
            (&[0, b'a', 0x20, 1], 4),
            (&[0, b'a', 0x20], 4),
            (&[0, b'a', 0xe0], 4),
            (&[1, b'a'], 2),
            (&[], 1),
        ] {
            assert_eq!(decompress(bad, len), None, "{bad:?}");
        }
    }
}
