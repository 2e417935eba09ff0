//! Who is the better master: intervals, and the tie-break between equal ones (carp-wire §8).

use crate::wire::carp::Advert;
use std::net::IpAddr;

/// The interval that a node advertises, ordered as the time it stands for. The order is lexicographic because
/// `advskew / 256` is always below one second. Smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    /// Seconds; wider than on the wire because the dead ratio multiplies it.
    pub advbase: u16,
    /// 1/256 s.
    pub advskew: u8,
}

impl Interval {
    /// What a leaving master advertises: the longest interval there is.
    pub const GOODBYE: Interval = Interval { advbase: 255, advskew: 255 };

    /// The interval in an advert.
    pub fn of(advert: &Advert) -> Self {
        Self { advbase: u16::from(advert.advbase), advskew: advert.advskew }
    }

    /// Whether a backup takes over at once from a master that advertises this: it will be silent for longer than
    /// the backup's `(advbase * dead_ratio, advskew)`. 255/255 is meant as a goodbye however patient the backup is.
    pub fn is_goodbye(self, own: Interval, dead_ratio: u8) -> bool {
        let patience = Interval { advbase: own.advbase.saturating_mul(u16::from(dead_ratio)), ..own };
        self == Self::GOODBYE || patience < self
    }
}

/// Whether `own` wins against `other` at equal intervals, by ucarp's rule: the address that is lower as a raw
/// memory word of a little-endian machine wins, so that the *last* octet counts most and 10.77.1.5 wins over
/// 10.77.0.9 (carp-wire §8, the "lower IP" trap). IPv6, unknown to ucarp, is compared bytewise, lower wins.
/// Addresses of different families are no tie on the wire; the IPv4 one wins to keep the order total.
pub fn wins_tie(own: IpAddr, other: IpAddr) -> bool {
    match (own, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => u32::from_le_bytes(own.octets()) < u32::from_le_bytes(other.octets()),
        (IpAddr::V6(own), IpAddr::V6(other)) => own.octets() < other.octets(),
        (IpAddr::V4(_), IpAddr::V6(_)) => true,
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(advbase: u16, advskew: u8) -> Interval {
        Interval { advbase, advskew }
    }

    fn wins(own: &str, other: &str) -> bool {
        wins_tie(own.parse().unwrap(), other.parse().unwrap())
    }

    /// Seconds first, then 1/256 seconds.
    #[test]
    fn intervals_compare_as_time() {
        assert!(interval(0, 255) < interval(1, 0));
        assert!(interval(1, 0) < interval(1, 1));
        assert!(interval(1, 255) < interval(2, 0));
        assert!(interval(254, 255) < Interval::GOODBYE);
    }

    /// The rule "going to time out" is strict, uses own values only, and 255/255 passes it always.
    #[test]
    fn goodbye() {
        assert!(!interval(3, 100).is_goodbye(interval(1, 100), 3));
        assert!(interval(3, 101).is_goodbye(interval(1, 100), 3));
        assert!(interval(4, 0).is_goodbye(interval(1, 100), 3));
        assert!(Interval::GOODBYE.is_goodbye(interval(1, 0), 3));
        assert!(Interval::GOODBYE.is_goodbye(interval(100, 0), 255), "255 * 100 s is longer, but it is a goodbye");
        assert!(!interval(255, 254).is_goodbye(interval(100, 0), 3));
    }

    /// The pair seen in the split-brain capture of real ucarp, and a pair within one /24.
    #[test]
    fn tie_goes_by_the_last_octet_first() {
        assert!(wins("10.77.1.5", "10.77.0.9"));
        assert!(!wins("10.77.0.9", "10.77.1.5"));
        assert!(wins("192.168.103.208", "192.168.103.209"));
        assert!(!wins("192.168.103.209", "192.168.103.208"));
        assert!(wins("fe80::1", "fe80::2"));
        assert!(!wins("fe80::1:0:0:1", "fe80::2"));
    }

    /// Of two different addresses exactly one wins; equal ones both lose (they refuse each other as own adverts).
    #[test]
    fn exactly_one_wins() {
        let all = ["10.0.0.1", "10.0.1.0", "1.0.0.10", "fe80::1", "fe80::1:0", "fe80::"];
        for a in all {
            for b in all {
                assert_eq!(u8::from(wins(a, b)) + u8::from(wins(b, a)), u8::from(a != b), "{a} {b}");
            }
        }
    }
}
