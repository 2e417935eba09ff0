//! Networks of addresses, and sets of them that are searched fast.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, or a network of them: the bits behind `length` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prefix {
    /// Network and length, 0 to 32.
    V4(u32, u8),
    /// Network and length, 0 to 128.
    V6(u128, u8),
}

impl Prefix {
    /// The network of `address` with so many leading bits; more than the address has count as all.
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits() & mask_v4(length), length.min(32)),
            IpAddr::V6(v6) => Self::V6(v6.to_bits() & mask_v6(length), length.min(128)),
        }
    }

    /// The single address.
    pub fn host(address: IpAddr) -> Self {
        Self::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    pub(super) const fn v4(octets: [u8; 4], length: u8) -> Self {
        Self::V4(u32::from_be_bytes(octets), length)
    }

    pub(super) const fn v6(groups: [u16; 8], length: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = groups;
        Self::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(), length)
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(network, length), IpAddr::V4(v4)) => v4.to_bits() & mask_v4(length) == network,
            (Self::V6(network, length), IpAddr::V6(v6)) => v6.to_bits() & mask_v6(length) == network,
            (Self::V4(..), IpAddr::V6(_)) | (Self::V6(..), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(network, length) => write!(f, "{}/{length}", Ipv4Addr::from_bits(network)),
            Self::V6(network, length) => write!(f, "{}/{length}", Ipv6Addr::from_bits(network)),
        }
    }
}

/// The `length` leading bits.
pub const fn mask_v4(length: u8) -> u32 {
    if length == 0 { 0 } else { u32::MAX << 32u8.saturating_sub(length) }
}

/// The `length` leading bits.
pub const fn mask_v6(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << 128u8.saturating_sub(length) }
}

/// Many prefixes: one binary search for each length that occurs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    /// By rising length; the networks of each sorted.
    v4: Vec<(u8, Vec<u32>)>,
    v6: Vec<(u8, Vec<u128>)>,
}

impl PrefixSet {
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                self.v4.iter().any(|(length, networks)| networks.binary_search(&(bits & mask_v4(*length))).is_ok())
            }
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                self.v6.iter().any(|(length, networks)| networks.binary_search(&(bits & mask_v6(*length))).is_ok())
            }
        }
    }

    /// All of them, IPv4 first, by rising length.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + '_ {
        let v4 = self.v4.iter().flat_map(|(length, list)| list.iter().map(|network| Prefix::V4(*network, *length)));
        let v6 = self.v6.iter().flat_map(|(length, list)| list.iter().map(|network| Prefix::V6(*network, *length)));
        v4.chain(v6)
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut set = Self::default();
        set.extend(prefixes);
        set
    }
}

impl Extend<Prefix> for PrefixSet {
    fn extend<I: IntoIterator<Item = Prefix>>(&mut self, prefixes: I) {
        for prefix in prefixes {
            match prefix {
                Prefix::V4(network, length) => insert(&mut self.v4, length, network),
                Prefix::V6(network, length) => insert(&mut self.v6, length, network),
            }
        }
    }
}

fn insert<T: Ord>(groups: &mut Vec<(u8, Vec<T>)>, length: u8, network: T) {
    let at = match groups.binary_search_by_key(&length, |(length, _)| *length) {
        Ok(at) => at,
        Err(at) => {
            groups.insert(at, (length, Vec::new()));
            at
        }
    };
    if let Some((_, networks)) = groups.get_mut(at)
        && let Err(place) = networks.binary_search(&network)
    {
        networks.insert(place, network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = IpAddr> {
        // Few different bits, so that prefixes and addresses meet.
        let v4 = (0u32..16, 0u32..4).prop_map(|(high, low)| Ipv4Addr::from_bits(high << 28 | low).into());
        let v6 = (0u128..16, 0u128..4).prop_map(|(high, low)| Ipv6Addr::from_bits(high << 124 | low).into());
        prop_oneof![v4, v6]
    }

    proptest! {
        /// A set against its prefixes one by one: the same addresses are in it, and it gives back what was put in.
        #[test]
        fn a_set_is_its_prefixes(
            members in proptest::collection::vec((any_address(), 0u8..=130), 0..20),
            address in any_address(),
        ) {
            let prefixes: Vec<Prefix> = members.iter().map(|&(address, length)| Prefix::new(address, length)).collect();
            let set: PrefixSet = prefixes.iter().copied().collect();
            prop_assert_eq!(set.contains(address), prefixes.iter().any(|prefix| prefix.contains(address)));
            let mut unique = prefixes;
            unique.sort();
            unique.dedup();
            let mut listed: Vec<Prefix> = set.iter().collect();
            listed.sort();
            prop_assert_eq!(listed, unique);
        }
    }

    /// Lengths at both ends: everything, a single address, and text that reads as one wrote it.
    #[test]
    fn ends() {
        let all = Prefix::new("10.1.2.3".parse().unwrap(), 0);
        assert!(all.contains("255.0.0.1".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        let host = Prefix::host("2001:db8::1".parse().unwrap());
        assert!(host.contains("2001:db8::1".parse().unwrap()) && !host.contains("2001:db8::2".parse().unwrap()));
        assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 24).to_string(), "10.1.2.0/24");
        assert_eq!(host.to_string(), "2001:db8::1/128");
    }
}
