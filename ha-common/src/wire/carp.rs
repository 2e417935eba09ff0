//! The 36-byte CARP advertisement (`reference/carp-wire.md` section 2).

/// Length of a CARP advertisement in bytes.
pub const ADVERT_LEN: usize = 36;
/// IP protocol number CARP shares with VRRP.
pub const PROTOCOL: u8 = 112;
/// The only `authlen` there is: counter and digest in 32-bit words.
pub const AUTH_LEN: u8 = 7;

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
