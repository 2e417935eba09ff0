//! SipHash-2-4 (Aumasson, Bernstein 2012) over whole words, in the kernel and on the host.
//!
//! A heartbeat is answered in the driver path, where neither ChaCha20 nor HMAC fits; SipHash was made for exactly
//! this: a short authenticator under a secret key. The message is words as they are on the wire (big endian), so its
//! bytes are those of the frame.

/// Key of 128 bits: two little-endian words, as the definition has it.
pub type Key = [u64; 2];

/// The tag of `words`, whose bytes are hashed in big-endian (network) order.
#[inline(always)]
pub fn siphash24<const N: usize>(key: Key, words: &[u64; N]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        // The definition reads little-endian words from the bytes.
        absorb(&mut v, word.swap_bytes());
    }
    // The last word: no bytes left over, and the length in bytes in the top byte.
    absorb(&mut v, ((N as u64 * 8) & 0xff) << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors (key 00…0f, message 00, 01, …) of the lengths that are whole words.
    #[test]
    fn published_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash24(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(key, &[0x0001_0203_0405_0607]), 0x93f5_f579_9a93_2462);
    }
}
