//! The Internet checksum (RFC 1071): one's complement of the one's complement sum of 16-bit words.
//!
//! The sum does not depend on the byte order in which words are loaded (RFC 1071 section 2 B), so the
//! readers add words as they lie in memory and compare with all ones.

use super::bytes::Window;

/// The unfolded sum of the words in `from..to` of a window; both even.
#[inline(always)]
pub fn sum<W: Window>(window: W, from: usize, to: usize) -> u32 {
    let mut total = 0u32;
    let mut at = from;
    while at < to {
        total += u32::from(window.word(at));
        at += 2;
    }
    total
}

/// True when a sum over data that includes its checksum field is right.
#[inline(always)]
pub fn is_valid(sum: u32) -> bool {
    fold(sum) == 0xffff
}

/// The checksum to write into `bytes`, whose checksum field must be zero now; an odd last byte is padded with zero.
pub fn compute(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    !fold(total)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    // Two carries are enough for fewer than 65536 words.
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3: the words sum to ddf2.
    #[test]
    fn rfc1071_example() {
        assert_eq!(compute(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    /// Data with its checksum filled in is valid, and one flipped bit makes it invalid.
    #[test]
    fn a_filled_in_checksum_is_valid() {
        let mut bytes = [0x45, 0, 0, 0, 0x12, 0xff, 0xfe, 0xed];
        let checksum = compute(&bytes);
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        assert!(is_valid(sum(&bytes, 0, 8)));
        bytes[7] ^= 0x10;
        assert!(!is_valid(sum(&bytes, 0, 8)));
    }
}
