//! The digest of an advert: HMAC-SHA1 over what must be the same on all nodes (carp-wire §4, §11).

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of a password in bytes at most: the field of 20 bytes must hold its NUL too (carp-wire §4).
pub const PASSWORD_LEN_MAX: usize = 19;

/// The block of SHA-1: a key is filled up to it with zeros.
const BLOCK_LEN: usize = 64;

/// Signs and verifies the adverts of one VHID.
///
/// The digest covers version, type, VHID, address list and counter. It does *not* cover advbase, advskew or
/// the source, so that a replayed advert may carry another priority: that is CARP's weakness, not ours.
pub struct Authenticator {
    /// The password filled up with zeros, which is what HMAC makes of a short key anyway.
    key: Zeroizing<[u8; BLOCK_LEN]>,
    /// All of the signed message that stands before the counter.
    prefix: Vec<u8>,
}

impl Authenticator {
    /// Prepares for one VHID. The order of `addresses` does not matter; bytes of `password` after
    /// [`PASSWORD_LEN_MAX`] are not used, like in every other implementation.
    pub fn new(vhid: u8, addresses: &[IpAddr], password: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; BLOCK_LEN]);
        for (to, from) in key.iter_mut().zip(password.iter().take(PASSWORD_LEN_MAX)) {
            *to = *from;
        }
        // Whole bytes 2 and 1, not the packed nibbles of the header.
        let mut prefix = vec![2, 1, vhid];
        // carp-wire §11: all IPv4 addresses ascending, then all IPv6 addresses ascending.
        let mut v4: Vec<Ipv4Addr> = Vec::new();
        let mut v6: Vec<Ipv6Addr> = Vec::new();
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(*address),
                IpAddr::V6(address) => v6.push(*address),
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        prefix.extend(v4.iter().flat_map(Ipv4Addr::octets));
        prefix.extend(v6.iter().flat_map(Ipv6Addr::octets));
        Self { key, prefix }
    }

    /// The digest that belongs to `counter`.
    pub fn digest(&self, counter: u64) -> [u8; 20] {
        let mut mac = Hmac::<Sha1>::new((&*self.key).into());
        mac.update(&self.prefix);
        mac.update(&counter.to_be_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Whether `digest` belongs to `counter`, in a time that does not depend on where they differ.
    pub fn verify(&self, counter: u64, digest: &[u8; 20]) -> bool {
        self.digest(counter).ct_eq(digest).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn hex(digest: [u8; 20]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The worked example and the test vectors of carp-wire §4 and §14, typed from there.
    #[test]
    fn vectors_of_the_reference() {
        let single = Authenticator::new(3, &[v4("10.77.0.210")], b"toto");
        let cases = [
            (0x93b8_bb42_2c8f_c007, "a2c683366395a824fa2c21d717f423ec4ea9c05c"),
            (0x85b6_303f_9817_4f8e, "8a28968a9c0ffe9de53cd33b5040ff695ffb086e"),
            (0x36e3_96d9_0e7e_f4ec, "16ac7f90fe4f4d0e34d70324de468c85fbbca906"),
            (1, "04b0a31af12d7fba41a2f2208622c18643842679"),
        ];
        for (counter, digest) in cases {
            assert_eq!(hex(single.digest(counter)), digest);
            assert!(single.verify(counter, &single.digest(counter)));
        }
    }

    /// Vector 5 of carp-wire §14: two addresses are signed in ascending order whatever order they come in,
    /// and the digest of the list is not that of the single address.
    #[test]
    fn the_address_list_is_sorted() {
        let digest = "b96060a04502fda78dceeab32733456540e6c090";
        for list in [["10.77.0.210", "10.77.0.211"], ["10.77.0.211", "10.77.0.210"]] {
            let list = list.map(v4);
            let both = Authenticator::new(3, &list, b"toto");
            assert_eq!(hex(both.digest(0x0102_0304_0506_0708)), digest);
        }
        let single = Authenticator::new(3, &[v4("10.77.0.210")], b"toto");
        assert_ne!(hex(single.digest(0x0102_0304_0506_0708)), digest);
    }

    /// IPv6 addresses follow the IPv4 ones; checked against the message built by hand.
    #[test]
    fn ipv6_follows_ipv4() {
        let list = [v4("2001:db8::2"), v4("10.77.0.210"), v4("2001:db8::1")];
        let auth = Authenticator::new(3, &list, b"toto");
        let mut message = vec![2, 1, 3, 10, 77, 0, 210];
        message.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        message.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(auth.prefix, message);
    }

    /// Vector 6 of carp-wire §14 (last digest byte off by one) and each other single-bit error are refused.
    #[test]
    fn every_bit_of_the_digest_counts() {
        let auth = Authenticator::new(3, &[v4("10.77.0.210")], b"toto");
        let good = auth.digest(1);
        for bit in 0..160 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!auth.verify(1, &bad), "bit {bit}");
        }
        assert!(!auth.verify(2, &good), "another counter");
    }

    /// VHID, password and address each change the digest; only the first 19 bytes of a password matter.
    #[test]
    fn what_the_digest_depends_on() {
        let digest = |vhid, vip, password: &[u8]| Authenticator::new(vhid, &[v4(vip)], password).digest(7);
        let base = digest(3, "10.77.0.210", b"toto");
        assert_ne!(base, digest(4, "10.77.0.210", b"toto"));
        assert_ne!(base, digest(3, "10.77.0.211", b"toto"));
        assert_ne!(base, digest(3, "10.77.0.210", b"tata"));
        let long = [b'x'; 25];
        assert_eq!(digest(3, "10.77.0.210", &long), digest(3, "10.77.0.210", &long[..19]));
        assert_ne!(digest(3, "10.77.0.210", &long[..19]), digest(3, "10.77.0.210", &long[..18]));
    }
}
