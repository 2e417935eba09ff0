//! What the sessions exchange: numbered records whose content can be checked, and what the server saw.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a request.
pub const REQUEST: usize = 32;
/// Bytes of a reply: the request and the address that the server saw it come from.
pub const REPLY: usize = REQUEST + 8;

/// One request of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub session: u32,
    pub sequence: u64,
}

impl Record {
    /// The request's bytes; the rest is filled with a pattern that depends on both numbers.
    pub fn request(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&self.session.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.sequence.to_be_bytes());
        let pattern = self.pattern();
        bytes[12..20].copy_from_slice(&pattern.to_be_bytes());
        bytes[20..28].copy_from_slice(&(!pattern).to_be_bytes());
        bytes
    }

    /// Reads a request; `None` when it is short or its content is not what its numbers demand.
    pub fn from_request(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..REQUEST)?;
        let session = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
        let sequence = u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?);
        let record = Self { session, sequence };
        (record.request() == bytes).then_some(record)
    }

    /// The reply's bytes for a request that came from `seen`.
    pub fn reply(self, seen: u64) -> [u8; REPLY] {
        let mut bytes = [0; REPLY];
        bytes[..REQUEST].copy_from_slice(&self.request());
        bytes[REQUEST..].copy_from_slice(&seen.to_be_bytes());
        bytes
    }

    /// Reads a reply: the record and what the server saw.
    pub fn from_reply(bytes: &[u8]) -> Option<(Self, u64)> {
        let seen = u64::from_be_bytes(bytes.get(REQUEST..REPLY)?.try_into().ok()?);
        Some((Self::from_request(bytes)?, seen))
    }

    /// A mixed word (the finaliser of splitmix64) of both numbers.
    fn pattern(self) -> u64 {
        let mut word = self.sequence ^ u64::from(self.session).rotate_left(40) ^ 0x9e37_79b9_7f4a_7c15;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// An address as one word, so that it fits a reply: exact for IPv4, low half and port for IPv6.
pub fn seen_word(address: IpAddr, port: u16) -> u64 {
    let host = match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => u64::from_be_bytes(v6.octets()[8..].try_into().unwrap_or([0; 8])) & 0xffff_ffff_ffff,
    };
    (host << 16) | u64::from(port)
}

/// [`seen_word`] of a socket address.
pub fn seen_socket(address: SocketAddr) -> u64 {
    seen_word(address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests and replies come back as they were made, and no single flipped bit of a request goes unnoticed.
    #[test]
    fn records_survive_the_trip_and_show_damage() {
        let record = Record { session: 7, sequence: 0x0102_0304_0506 };
        let seen = seen_socket("157.159.40.139:4711".parse().unwrap());
        assert_eq!(Record::from_reply(&record.reply(seen)), Some((record, seen)));
        for bit in 0..REQUEST * 8 {
            let mut bytes = record.request();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::from_request(&bytes), None, "bit {bit}");
        }
        assert_eq!(Record::from_request(&record.request()[..REQUEST - 1]), None);
    }
}
