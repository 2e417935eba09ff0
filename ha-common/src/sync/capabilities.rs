//! What a peer understands: what it does not is not sent to it.

use crate::proto;
use core::ops::BitOr;

/// The protocol version of this build, and the oldest it can talk to.
///
/// Version 1 knows everything in [`Capabilities::FIRST`], but does not say so. Version 2 says what it knows, which secrets it holds, and
/// its mode.
pub const VERSION: u32 = 2;
pub const VERSION_MIN: u32 = 1;
/// The first version whose hello tells what its sender can do.
pub(super) const VERSION_TELLS: u32 = 2;

/// A set of optional features; bits of later versions are carried and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Answers digests of its peer's flows: only then is a proof asked for.
    pub const DIGESTS: Self = Self(1);
    /// Takes a transfer of some buckets for what it is. Without it a difference is repaired by a transfer of the whole table.
    pub const PARTIAL: Self = Self(2);
    /// Knows the attributes that few flows have.
    pub const RARE: Self = Self(4);
    /// Knows expectations.
    pub const EXPECTATIONS: Self = Self(8);
    /// Refuses frames that name another node as their target.
    pub const TARGETS: Self = Self(16);
    /// Stamps the headers of its frames.
    pub const STAMPS: Self = Self(32);
    pub const ALL: Self = Self(63);
    /// What version 1 can do.
    pub const FIRST: Self = Self(31);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::DIGESTS, "digests"),
        (Self::PARTIAL, "partial"),
        (Self::RARE, "rare"),
        (Self::EXPECTATIONS, "expectations"),
        (Self::TARGETS, "targets"),
        (Self::STAMPS, "stamps"),
    ];

    /// True when all of `wanted` is in the set.
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// What both can do.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those in the set by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, name)| name)
    }

    /// Of the sender of a hello.
    pub(super) fn of(hello: &proto::Hello) -> Self {
        if hello.version < VERSION_TELLS { Self::FIRST } else { Self(hello.capabilities) }
    }

    /// Takes out of a flow what its receiver does not know.
    pub(super) fn restrict(self, flow: &mut proto::Flow) {
        if !self.has(Self::RARE) {
            flow.extra = None;
        } else if !self.has(Self::EXPECTATIONS)
            && let Some(extra) = &mut flow.extra
        {
            extra.expectations.clear();
        }
    }
}

impl BitOr for Capabilities {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1 can do what it does not mention; a later one what it says, and bits of the future harm nobody.
    #[test]
    fn what_a_hello_says() {
        let hello = |version, capabilities| proto::Hello { version, capabilities, ..proto::Hello::default() };
        assert_eq!(Capabilities::of(&hello(1, 0)), Capabilities::FIRST);
        assert_eq!(Capabilities::of(&hello(2, 0)), Capabilities::default());
        let future = Capabilities::of(&hello(3, 1 << 63 | 1));
        assert_eq!(future.common(Capabilities::ALL), Capabilities::DIGESTS);
        assert_eq!(future.names().collect::<Vec<_>>(), ["digests"]);
        let named = Capabilities::NAMES.into_iter().fold(Capabilities::default(), |all, (one, _)| all | one);
        assert_eq!(named, Capabilities::ALL);
    }

    /// Expectations go alone where the rest of the rare attributes is known, and with it where it is not.
    #[test]
    fn flows_are_restricted() {
        let flow = || proto::Flow {
            extra: Some(Box::new(proto::Extra {
                helper: "ftp".to_owned(),
                expectations: vec![proto::Expectation::default()],
                ..proto::Extra::default()
            })),
            ..proto::Flow::default()
        };
        let restricted = |capabilities: Capabilities| {
            let mut flow = flow();
            capabilities.restrict(&mut flow);
            flow.extra.map(|extra| (extra.helper.clone(), extra.expectations.len()))
        };
        assert_eq!(restricted(Capabilities::ALL), Some(("ftp".to_owned(), 1)));
        assert_eq!(restricted(Capabilities::RARE), Some(("ftp".to_owned(), 0)));
        assert_eq!(restricted(Capabilities::EXPECTATIONS), None);
    }
}
