//! The 36-byte CARP advertisement (`carp-wire` section 2).

use super::bytes::Window;
use super::checksum;
use crate::reason::DropReason;

/// Length of a CARP advertisement in bytes.
pub const ADVERT_LEN: usize = 36;
/// IP protocol number CARP shares with VRRP.
pub const PROTOCOL: u8 = 112;
/// The only `authlen` there is: counter and digest in 32-bit words.
pub const AUTH_LEN: u8 = 7;
/// CARP version, high nibble of the first byte.
const VERSION: u8 = 2;
/// Message type "advertisement", low nibble of the first byte.
const TYPE_ADVERTISEMENT: u8 = 1;
/// What can be read of any message of protocol 112, CARP or VRRP.
pub(super) const HEAD_LEN: usize = 8;

/// One CARP advertisement as a value (host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    pub vhid: u8,
    pub advskew: u8,
    /// Seconds.
    pub advbase: u8,
    /// Byte 4: zero from ucarp and FreeBSD, OpenBSD's demotion counter.
    pub demotion: u8,
    pub counter: u64,
    /// HMAC-SHA1 over version, type, VHID, addresses and counter.
    pub digest: [u8; 20],
}

impl Advert {
    /// The fields of 36 bytes; [`check`] says whether they are an advertisement.
    pub fn read<W: Window>(bytes: W) -> Self {
        Self {
            vhid: bytes.byte(1),
            advskew: bytes.byte(2),
            demotion: bytes.byte(4),
            advbase: bytes.byte(5),
            counter: bytes.be64(8),
            digest: core::array::from_fn(|i| bytes.byte(16 + i)),
        }
    }

    /// Checks and reads 36 bytes, the whole IP payload.
    ///
    /// # Errors
    /// The first check of [`check`] that fails.
    pub fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        match <&[u8; ADVERT_LEN]>::try_from(payload) {
            Ok(bytes) => check(bytes).map(|()| Self::read(bytes)),
            Err(_) => Err(DropReason::CarpLength),
        }
    }

    /// The 36 bytes on the wire, checksum included (no pseudo header, `carp-wire` section 3).
    pub fn emit(&self) -> [u8; ADVERT_LEN] {
        let mut out = [0; ADVERT_LEN];
        out[0] = VERSION << 4 | TYPE_ADVERTISEMENT;
        out[1] = self.vhid;
        out[2] = self.advskew;
        out[3] = AUTH_LEN;
        out[4] = self.demotion;
        out[5] = self.advbase;
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out[16..36].copy_from_slice(&self.digest);
        let checksum = checksum::compute(&out);
        out[6..8].copy_from_slice(&checksum.to_be_bytes());
        out
    }
}

/// Checks version, type, `authlen` and checksum of 36 bytes.
///
/// # Errors
/// The first check that fails.
#[inline(always)]
pub fn check<W: Window>(bytes: W) -> Result<(), DropReason> {
    check_kind(bytes)?;
    if bytes.byte(3) != AUTH_LEN {
        return Err(DropReason::CarpAuthLen);
    }
    if !checksum_is_valid(bytes) {
        return Err(DropReason::CarpChecksum);
    }
    Ok(())
}

/// Checks version and type in the first byte.
///
/// # Errors
/// [`DropReason::CarpVersion`] or [`DropReason::CarpType`].
#[inline(always)]
pub(super) fn check_kind<W: Window>(bytes: W) -> Result<(), DropReason> {
    if bytes.byte(0) >> 4 != VERSION {
        return Err(DropReason::CarpVersion);
    }
    if bytes.byte(0) & 0x0f != TYPE_ADVERTISEMENT {
        return Err(DropReason::CarpType);
    }
    Ok(())
}

/// The checksum over exactly the 36 bytes.
#[inline(always)]
pub(super) fn checksum_is_valid<W: Window>(bytes: W) -> bool {
    checksum::is_valid(checksum::sum(bytes, 0, ADVERT_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVERT: Advert = Advert {
        vhid: 3,
        advskew: 100,
        advbase: 1,
        demotion: 0,
        counter: 0xa636_e396_d90e_7ef4,
        digest: [
            0xec, 0x16, 0xac, 0x7f, 0x90, 0xfe, 0x4f, 0x4d, 0x0e, 0x34, 0xd7, 0x03, 0x24, 0xde, 0x46, 0x8c, 0x85, 0xfb,
            0xbc, 0xa9,
        ],
    };

    /// Emit then parse gives the same value, and every advert of ucarp has the same first bytes (vector 3's checksum aside).
    #[test]
    fn round_trip() {
        let bytes = ADVERT.emit();
        assert_eq!(Advert::parse(&bytes), Ok(ADVERT));
        assert_eq!(bytes[..6], [0x21, 3, 100, 7, 0, 1]);
    }

    /// Each broken field is refused under its own name.
    #[test]
    fn each_refusal_has_its_reason() {
        let with = |at: usize, value: u8| {
            let mut bytes = ADVERT.emit();
            bytes[at] = value;
            Advert::parse(&bytes)
        };
        assert_eq!(with(0, 0x31), Err(DropReason::CarpVersion));
        assert_eq!(with(0, 0x22), Err(DropReason::CarpType));
        assert_eq!(with(3, 5), Err(DropReason::CarpAuthLen));
        assert_eq!(with(35, 0), Err(DropReason::CarpChecksum));
        assert_eq!(Advert::parse(&ADVERT.emit()[..35]), Err(DropReason::CarpLength));
        assert_eq!(Advert::parse(&[0; 37]), Err(DropReason::CarpLength));
    }

    /// Every single flipped bit is noticed: most by the checksum, the first bytes by their own checks.
    #[test]
    fn every_flipped_bit_is_refused() {
        for bit in 0..ADVERT_LEN * 8 {
            let mut bytes = ADVERT.emit();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Advert::parse(&bytes).is_err(), "bit {bit}");
        }
    }
}
