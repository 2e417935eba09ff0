//! How every header is read, in the kernel and on the host: through a window of fixed size.
//!
//! The BPF verifier wants one comparison with the end of the packet and then reads at constant offsets; the
//! host has a slice. Both are a [`Packet`], so each parser exists once. The only unsafe implementation is
//! the XDP programs' `cursor.rs`.

/// The bytes of one frame or datagram.
pub trait Packet: Copy {
    /// `N` bytes that are known to be there.
    type Window<const N: usize>: Window;

    /// How many bytes there are.
    fn bytes(self) -> usize;

    /// The `N` bytes from `offset`, or `None` when the packet ends before.
    fn window<const N: usize>(self, offset: usize) -> Option<Self::Window<N>>;
}

/// Bytes that were bounds-checked once. Offsets are constants in every caller; one outside of the window reads zero.
///
/// Headers stand at even offsets, and words are read at even offsets only: the kernel edge loads them whole.
pub trait Window: Copy {
    /// The byte at `at`.
    fn byte(self, at: usize) -> u8;

    /// The 16-bit word at the even offset `at` as it lies in memory, not converted to host order.
    fn word(self, at: usize) -> u16;

    /// The big-endian 16-bit number at the even offset `at`.
    #[inline(always)]
    fn be16(self, at: usize) -> u16 {
        u16::from_be(self.word(at))
    }

    /// The big-endian 32-bit number at the even offset `at`.
    #[inline(always)]
    fn be32(self, at: usize) -> u32 {
        u32::from(self.be16(at)) << 16 | u32::from(self.be16(at + 2))
    }

    /// The big-endian 64-bit number at the even offset `at`.
    #[inline(always)]
    fn be64(self, at: usize) -> u64 {
        u64::from(self.be32(at)) << 32 | u64::from(self.be32(at + 4))
    }

    /// `N` words from the even offset `at`, as they lie in memory.
    #[inline(always)]
    fn words<const N: usize>(self, at: usize) -> [u16; N] {
        core::array::from_fn(|i| self.word(at + 2 * i))
    }
}

impl<'a> Packet for &'a [u8] {
    type Window<const N: usize> = &'a [u8; N];

    fn bytes(self) -> usize {
        self.len()
    }

    fn window<const N: usize>(self, offset: usize) -> Option<&'a [u8; N]> {
        self.get(offset..)?.first_chunk()
    }
}

impl<const N: usize> Window for &[u8; N] {
    fn byte(self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }

    fn word(self, at: usize) -> u16 {
        u16::from_ne_bytes([self.byte(at), self.byte(at + 1)])
    }
}

/// The bytes of words that were read with [`Window::words`].
pub fn word_bytes<const WORDS: usize, const BYTES: usize>(words: &[u16; WORDS]) -> [u8; BYTES] {
    core::array::from_fn(|i| match words.get(i / 2) {
        Some(word) => word.to_ne_bytes()[i % 2],
        None => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window exists exactly where all of its bytes do, and numbers are big endian.
    #[test]
    fn windows_are_bounds_checked() {
        let packet: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let window = packet.window::<8>(2).unwrap();
        assert_eq!((window.byte(0), window.be16(0), window.be32(2)), (2, 0x0203, 0x0405_0607));
        assert_eq!(window.be64(0), 0x0203_0405_0607_0809);
        assert_eq!(window.byte(8), 0);
        assert!(packet.window::<8>(3).is_none());
        assert!(packet.window::<1>(usize::MAX).is_none());
    }

    /// Words keep their place in memory on the way back to bytes.
    #[test]
    fn words_become_the_same_bytes() {
        let packet: &[u8] = &[1, 2, 3, 4];
        let words = packet.window::<4>(0).unwrap().words::<2>(0);
        assert_eq!(word_bytes::<2, 4>(&words), [1, 2, 3, 4]);
    }
}
