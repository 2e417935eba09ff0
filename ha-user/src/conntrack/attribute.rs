//! Netlink attributes as a borrowing iterator, and messages of attributes written into one growing buffer.

use super::uapi;
use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

/// Why bytes from the kernel are not the message they should be. The name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a netlink message ends before the length it announces")]
    Message,
    #[error("an attribute ends before the length it announces, or after its parent")]
    Attribute,
    #[error("an attribute's value has the wrong length")]
    Value,
    #[error("the original or reply tuple is missing")]
    TupleMissing,
    #[error("a tuple lacks an address or the protocol")]
    TupleIncomplete,
    #[error("original and reply tuple are of different families or protocols")]
    TuplesDiffer,
    #[error("the entry has a zone of its own for each direction")]
    TwoZones,
    #[error("a helper's or expectation function's name is empty, too long or not printable")]
    Name,
    #[error("an expectation lacks its master, tuple or mask")]
    ExpectationIncomplete,
}

/// The attributes in `bytes`, one after the other: kind without flags, and value.
///
/// Nothing is copied. The first malformed attribute ends the iteration with an error.
pub struct Attributes<'a>(NlasIterator<&'a [u8]>);

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(NlasIterator::new(bytes))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let attribute = match self.0.next()? {
            Ok(attribute) => attribute,
            Err(_) => return Some(Err(Malformed::Attribute)),
        };
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        // `into_inner` lives as long as the message, `value()` only as long as the temporary.
        Some(attribute.into_inner().get(NLA_HEADER_SIZE..length).map(|value| (kind, value)).ok_or(Malformed::Attribute))
    }
}

/// A value of exactly `N` bytes.
#[inline]
pub fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed::Value)
}

#[inline]
pub fn be16(value: &[u8]) -> Result<u16, Malformed> {
    Ok(u16::from_be_bytes(fixed(value)?))
}

#[inline]
pub fn be32(value: &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_be_bytes(fixed(value)?))
}

#[inline]
pub fn byte(value: &[u8]) -> Result<u8, Malformed> {
    let [byte] = fixed(value)?;
    Ok(byte)
}

/// The head of a netlink message in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Port id of the socket whose request caused the message; 0 is the kernel itself.
    pub port: u32,
}

/// Length of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;

/// The messages in one datagram: header and payload.
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(Header, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((header, length)) = header(self.0) else {
            self.0 = &[];
            return Some(Err(Malformed::Message));
        };
        let Some(payload) = self.0.get(HEADER_LEN..length) else {
            self.0 = &[];
            return Some(Err(Malformed::Message));
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((header, payload)))
    }
}

#[inline]
fn header(bytes: &[u8]) -> Option<(Header, usize)> {
    let head = bytes.first_chunk::<HEADER_LEN>()?;
    let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
    let header = Header {
        kind: u16::from_ne_bytes([head[4], head[5]]),
        flags: u16::from_ne_bytes([head[6], head[7]]),
        sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
        port: u32::from_ne_bytes([head[12], head[13], head[14], head[15]]),
    };
    Some((header, usize::try_from(length).ok()?))
}

/// Appends messages to one buffer, for one write.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
}

/// An open message or nest; [`Builder::end`] fills in its length.
#[derive(Debug)]
#[must_use = "an unfinished message or nest has no length"]
pub struct Open {
    start: usize,
    message: bool,
}

impl Builder {
    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets the messages, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes back everything from `open` on.
    pub fn abandon(&mut self, open: &Open) {
        self.bytes.truncate(open.start);
    }

    /// Begins a conntrack message for the address family.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, family: u8) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        // Port id 0: the kernel fills in the sending socket's.
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0, 0, 0]);
        Open { start, message: true }
    }

    /// Begins a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | uapi::NESTED).to_ne_bytes());
        Open { start, message: false }
    }

    /// Ends a message or nest.
    pub fn end(&mut self, open: Open) {
        let length = self.bytes.len().saturating_sub(open.start);
        if open.message {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.patch(open.start, &length.to_ne_bytes());
        } else {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            self.patch(open.start, &length.to_ne_bytes());
        }
    }

    /// Appends a name with its final NUL.
    pub fn put_name(&mut self, kind: u16, name: &str) {
        let mut value = Vec::with_capacity(name.len() + 1);
        value.extend_from_slice(name.as_bytes());
        value.push(0);
        self.put(kind, &value);
    }

    /// Appends an attribute, padded to four bytes. Values are at most 32 bytes here.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn put_be16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the builder writes, the iterators read back, padding and nests included.
    #[test]
    fn build_then_walk() {
        let mut builder = Builder::default();
        let message = builder.begin(uapi::CT_NEW, uapi::REQUEST, 7, uapi::FAMILY_V4);
        let nest = builder.nest(1);
        builder.put(2, &[9]);
        builder.end(nest);
        builder.put_be16(3, 0x1234);
        builder.end(message);
        let (header, payload) = Messages::new(builder.bytes()).next().unwrap().unwrap();
        assert_eq!(header, Header { kind: uapi::CT_NEW, flags: 1, sequence: 7, port: 0 });
        let top: Vec<_> = Attributes::new(&payload[4..]).map(Result::unwrap).collect();
        assert_eq!(top, [(1, &[5, 0, 2, 0, 9, 0, 0, 0][..]), (3, &[0x12, 0x34][..])]);
    }

    /// Every cut of a message gives an error or fewer attributes, never a panic; a zero length does not loop.
    #[test]
    fn cuts_are_errors() {
        let mut builder = Builder::default();
        let message = builder.begin(uapi::CT_NEW, 0, 0, uapi::FAMILY_V4);
        builder.put_be32(3, 1);
        builder.end(message);
        for cut in 1..builder.bytes().len() {
            assert!(Messages::new(&builder.bytes()[..cut]).next().unwrap().is_err(), "cut at {cut}");
        }
        assert_eq!(Attributes::new(&[0; 8]).next(), Some(Err(Malformed::Attribute)));
        assert_eq!(Messages::new(&[0; 32]).count(), 1);
    }
}
