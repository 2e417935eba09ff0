//! The links to one peer: which of them work, and which one a frame takes.
//!
//! A hello goes over every link, so that a link that carries nothing else is known to work before it is needed. A link
//! works while its carrier is there, authentic frames of the peer come over it, and the peer says in its hellos that it
//! hears this node over it: a fibre of which one strand is broken works for nobody.

use super::inbox::Window;
use crate::time::{Instant, earliest};
use crate::wire::frame::Kind;
use core::time::Duration;

/// Most links between two nodes.
pub const LINKS_MAX: u8 = 4;
/// Silence of so many hello intervals, in halves, ends the belief in a link: one lost hello does not.
const TIMEOUT_HALF_HELLOS: u32 = 5;
/// A better link must have worked for so many timeouts before frames return to it.
const RETURN_TIMEOUTS: u32 = 10;
/// A hello that comes late over a slower link proves that the link works, unless it is older than so many others.
const HELLO_LATE_MAX: u64 = 2;

/// A link's position in the configuration: the first is the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

/// A set of links: bit n is link n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkSet(pub u8);

impl LinkSet {
    /// Only this one.
    pub fn only(link: LinkId) -> Self {
        Self(1u8.checked_shl(u32::from(link.0)).unwrap_or(0))
    }

    pub fn has(self, link: LinkId) -> bool {
        self.0 & Self::only(link).0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn with(self, link: LinkId) -> Self {
        Self(self.0 | Self::only(link).0)
    }
}

/// How data and acknowledgements use several links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sending {
    /// Over the best link that works.
    #[default]
    Failover,
    /// Over every link that works.
    Duplicate,
}

/// What is known of a link to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    pub works: bool,
    /// Data takes this link.
    pub active: bool,
    /// Authentic frames that came over it first, and further copies of frames that had come over another one.
    pub frames: u64,
    pub copies: u64,
    /// Since the peer was last heard over it.
    pub silent: Option<Duration>,
}

#[derive(Default)]
struct Link {
    has_carrier: bool,
    heard: Option<Instant>,
    /// The peer says that it hears this node over it, or says nothing of links (an older version).
    is_confirmed: bool,
    works_since: Option<Instant>,
    /// What has come over this link in the peer's session, to know a copy from a replay.
    data: Window,
    acks: Window,
    hello: u64,
    frames: u64,
    copies: u64,
}

pub(super) struct Links {
    sending: Sending,
    timeout: Duration,
    links: Vec<Link>,
    active: LinkId,
    hello_newest: u64,
    pub failovers: u64,
}

impl Links {
    /// `count` links (1 to [`LINKS_MAX`]), all believed to have a carrier.
    pub fn new(count: u8, sending: Sending, hello_interval: Duration) -> Self {
        let link = || Link { has_carrier: true, is_confirmed: true, ..Link::default() };
        Self {
            sending,
            timeout: hello_interval.saturating_mul(TIMEOUT_HALF_HELLOS) / 2,
            links: (0..count.clamp(1, LINKS_MAX)).map(|_| link()).collect(),
            active: LinkId(0),
            hello_newest: 0,
            failovers: 0,
        }
    }

    /// The peer has started anew: its sequences begin again.
    pub fn begin_session(&mut self) {
        self.hello_newest = 0;
        for link in &mut self.links {
            (link.data, link.acks, link.hello) = (Window::default(), Window::default(), 0);
            link.is_confirmed = true;
        }
    }

    /// An authentic frame of the current session came over a link, the first of its kind and sequence.
    pub fn heard(&mut self, now: Instant, link: LinkId, kind: Kind, sequence: u64) {
        let Some(link) = self.links.get_mut(usize::from(link.0)) else { return };
        link.heard = Some(now);
        link.frames += 1;
        match kind {
            Kind::Hello => {
                link.hello = link.hello.max(sequence);
                self.hello_newest = self.hello_newest.max(sequence);
            }
            Kind::Data => note(&mut link.data, sequence),
            Kind::Ack => note(&mut link.acks, sequence),
        }
    }

    /// Is the frame, which was received before, new to this link? Then it is the copy that the sender meant for it, and noted.
    ///
    /// Of a hello this is asked when it has proved authentic, and shows that the link works. Data and acknowledgements are
    /// not opened a second time: they only count.
    pub fn take_copy(&mut self, now: Instant, link: LinkId, kind: Kind, sequence: u64) -> bool {
        let newest = self.hello_newest;
        if self.links.len() < 2 {
            return false;
        }
        let Some(link) = self.links.get_mut(usize::from(link.0)) else { return false };
        let is_copy = match kind {
            Kind::Hello => {
                let is_copy = sequence > link.hello && sequence.saturating_add(HELLO_LATE_MAX) >= newest;
                if is_copy {
                    link.hello = sequence;
                    link.heard = Some(now);
                }
                is_copy
            }
            Kind::Data => take(&mut link.data, sequence),
            Kind::Ack => take(&mut link.acks, sequence),
        };
        link.copies += u64::from(is_copy);
        is_copy
    }

    /// A hello of the current session with this sequence, or a newer one, has come over this link: it need not be authenticated to
    /// be known for a replay.
    pub fn has_taken_hello(&self, link: LinkId, sequence: u64) -> bool {
        self.links.get(usize::from(link.0)).is_some_and(|link| sequence <= link.hello)
    }

    /// What the peer's hello says: the links over which it hears this node; `None` from a version that knows one link.
    pub fn confirmed(&mut self, heard_by_peer: Option<u32>) {
        for (at, link) in (0u8..).zip(&mut self.links) {
            link.is_confirmed = heard_by_peer.is_none_or(|set| set & u32::from(LinkSet::only(LinkId(at)).0) != 0);
        }
    }

    /// Over which links the peer is heard now: for this node's own hello.
    pub fn heard_set(&self, now: Instant) -> LinkSet {
        self.set(|link| self.is_heard(link, now))
    }

    /// The kernel says whether a link has a carrier.
    pub fn set_carrier(&mut self, link: LinkId, has_carrier: bool) {
        if let Some(link) = self.links.get_mut(usize::from(link.0)) {
            link.has_carrier = has_carrier;
            if !has_carrier {
                link.heard = None;
            }
        }
    }

    /// Looks at every link, and returns the change if data takes another one from now on.
    pub fn review(&mut self, now: Instant) -> Option<(LinkId, LinkId)> {
        let timeout = self.timeout;
        for at in 0..self.links.len() {
            let works = self.links.get(at).is_some_and(|link| self.works(link, now));
            if let Some(link) = self.links.get_mut(at) {
                link.works_since = if works { link.works_since.or(Some(now)) } else { None };
            }
        }
        let active = self.links.get(usize::from(self.active.0))?;
        let settled = timeout.saturating_mul(RETURN_TIMEOUTS);
        let is_better = |link: &Link, at: u8| match (active.works_since, link.works_since) {
            // Back to a better one, when it has proved itself.
            (Some(_), Some(since)) => at < self.active.0 && now.since(since) >= settled,
            (None, Some(_)) => true,
            // None is known to work: one with a carrier may.
            (None, None) => !active.has_carrier && link.has_carrier,
            (Some(_), None) => false,
        };
        let better = (0u8..).zip(&self.links).find(|(at, link)| *at != self.active.0 && is_better(link, *at));
        let to = better.map(|(at, _)| LinkId(at))?;
        let from = core::mem::replace(&mut self.active, to);
        self.failovers += 1;
        Some((from, to))
    }

    /// When [`Links::review`] may find the active link silent.
    pub fn poll_at(&self, now: Instant) -> Option<Instant> {
        if self.links.len() < 2 {
            return None;
        }
        let over = self.links.iter().filter_map(|link| Some(link.heard? + self.timeout));
        over.filter(|&at| at > now).fold(None, |first, at| earliest(first, Some(at)))
    }

    /// The links that a frame of this kind takes.
    pub fn choose(&self, kind: Kind) -> LinkSet {
        let carrier = self.set(|link| link.has_carrier);
        let working = self.set(|link| link.works_since.is_some());
        let wanted = match (kind, self.sending) {
            (Kind::Hello, _) => carrier,
            (Kind::Data | Kind::Ack, Sending::Failover) => LinkSet::only(self.active),
            (Kind::Data | Kind::Ack, Sending::Duplicate) if working.is_empty() => carrier,
            (Kind::Data | Kind::Ack, Sending::Duplicate) => working,
        };
        if wanted.is_empty() { self.set(|_| true) } else { wanted }
    }

    pub fn stats(&self, now: Instant) -> Vec<LinkStats> {
        let taken = self.choose(Kind::Data);
        let stats = (0u8..).zip(&self.links).map(|(at, link)| LinkStats {
            works: self.works(link, now),
            active: taken.has(LinkId(at)),
            frames: link.frames,
            copies: link.copies,
            silent: link.heard.map(|heard| now.since(heard)),
        });
        stats.collect()
    }

    fn works(&self, link: &Link, now: Instant) -> bool {
        link.has_carrier && link.is_confirmed && self.is_heard(link, now)
    }

    fn is_heard(&self, link: &Link, now: Instant) -> bool {
        link.heard.is_some_and(|heard| now.since(heard) < self.timeout)
    }

    fn set(&self, wanted: impl Fn(&Link) -> bool) -> LinkSet {
        let links = (0u8..).zip(&self.links).filter(|(_, link)| wanted(link));
        links.fold(LinkSet::default(), |set, (at, _)| set.with(LinkId(at)))
    }
}

fn note(window: &mut Window, sequence: u64) {
    if window.check(sequence).is_ok() {
        window.accept(sequence);
    }
}

fn take(window: &mut Window, sequence: u64) -> bool {
    let is_new = window.check(sequence).is_ok();
    note(window, sequence);
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Duration = Duration::from_millis(200);
    const START: Instant = Instant(1_000_000_000);

    fn at(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    /// Two links, each of which was heard at `START`.
    fn two(sending: Sending) -> Links {
        let mut links = Links::new(2, sending, HELLO);
        links.heard(START, LinkId(0), Kind::Hello, 1);
        assert!(links.take_copy(START, LinkId(1), Kind::Hello, 1));
        assert_eq!(links.review(START), None);
        links
    }

    /// A link that falls silent is left for one that is heard, after two and a half hello intervals, and not when all are silent;
    /// its return counts only when it has lasted.
    #[test]
    fn a_silent_link_is_left_and_returned_to() {
        let mut links = two(Sending::Failover);
        let mut sequence = 1;
        let mut changes = Vec::new();
        for ms in (200..20_000).step_by(100) {
            if ms % 200 == 0 {
                sequence += 1;
                if (1000..3000).contains(&ms) {
                    links.heard(at(ms), LinkId(1), Kind::Hello, sequence);
                } else {
                    links.heard(at(ms), LinkId(0), Kind::Hello, sequence);
                    links.take_copy(at(ms), LinkId(1), Kind::Hello, sequence);
                }
            }
            changes.extend(links.review(at(ms)).map(|change| (ms, change)));
        }
        let [(left, away), (back, home)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((away, home), (&(LinkId(0), LinkId(1)), &(LinkId(1), LinkId(0))));
        assert!((1300..=1400).contains(left) && (8000..=8200).contains(back), "{changes:?}");
        assert_eq!(links.review(at(60_000)), None, "nothing is heard anywhere");
    }

    /// The kernel's word that a carrier is gone is acted upon at once, and the peer's word that it hears nothing as well.
    #[test]
    fn carrier_and_the_peers_word() {
        let mut links = two(Sending::Failover);
        links.set_carrier(LinkId(0), false);
        assert_eq!(links.review(at(1)), Some((LinkId(0), LinkId(1))));
        assert_eq!(links.choose(Kind::Hello), LinkSet(0b10));
        let mut links = two(Sending::Failover);
        links.confirmed(Some(0b10));
        assert_eq!(links.review(at(1)), Some((LinkId(0), LinkId(1))));
        links.confirmed(None);
        assert_eq!(links.heard_set(at(1)), LinkSet(0b11));
        assert_eq!(links.choose(Kind::Hello), LinkSet(0b11));
    }

    /// Duplicated frames take every link that works; when none does, every link with a carrier; when there is none, all.
    #[test]
    fn duplicates_take_what_works() {
        let mut links = two(Sending::Duplicate);
        assert_eq!(links.choose(Kind::Data), LinkSet(0b11));
        links.set_carrier(LinkId(1), false);
        links.review(at(1));
        assert_eq!(links.choose(Kind::Data), LinkSet(0b01));
        links.review(at(5000));
        assert_eq!(links.choose(Kind::Ack), LinkSet(0b01));
        links.set_carrier(LinkId(0), false);
        links.review(at(5001));
        assert_eq!(links.choose(Kind::Ack), LinkSet(0b11));
    }

    /// Each frame is a copy once over each further link, and a replay from then on; an old hello proves nothing.
    #[test]
    fn copies_are_told_from_replays() {
        let mut links = two(Sending::Duplicate);
        for kind in [Kind::Data, Kind::Ack] {
            links.heard(START, LinkId(0), kind, 7);
            assert!(!links.take_copy(START, LinkId(0), kind, 7));
            assert!(links.take_copy(START, LinkId(1), kind, 7));
            assert!(!links.take_copy(START, LinkId(1), kind, 7));
        }
        (2..20).for_each(|sequence| links.heard(START, LinkId(0), Kind::Hello, sequence));
        assert!(!links.take_copy(at(1), LinkId(1), Kind::Hello, 10));
        assert!(links.take_copy(at(1), LinkId(1), Kind::Hello, 19));
        assert!(!links.take_copy(at(1), LinkId(9), Kind::Hello, 19));
        assert!(!Links::new(1, Sending::Failover, HELLO).take_copy(START, LinkId(0), Kind::Data, 1));
    }
}
