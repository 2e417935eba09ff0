//! One member (a VHID on an interface): its link, its digest and counter, and the master it hears.

use crate::election::auth::Authenticator;
use crate::election::compare::{Interval, wins_tie};
use crate::election::counter::Counter;
use crate::election::prng::Prng;
use crate::election::{
    Action, Cause, Fault, InterfaceId, LinkState, Member as MemberConfig, MemberId, ReceivedAdvert, Transport,
};
use crate::time::Instant;
use crate::wire::carp::Advert;
use core::time::Duration;
use std::net::IpAddr;

use super::admission::Repeats;

/// The master heard on one member by one address family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) source: IpAddr,
    pub(super) interval: Interval,
    pub(super) at: Instant,
}

/// What a member knows. The role is the group's.
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) interface: InterfaceId,
    vhid: u8,
    pub(super) transport: Transport,
    /// Whether adverts are sent by IPv4 and by IPv6.
    families: (bool, bool),
    pub(super) auth: Authenticator,
    pub(super) counter: Counter,
    pub(super) repeats: Repeats,
    /// `None` until the first word about the interface.
    pub(super) link: Option<LinkState>,
    /// The best master heard lately, by IPv4 and by IPv6: one node that sends by both is two sources.
    pub(super) followed: [Option<Heard>; 2],
    /// BACKUP: when the master is given up. `None` once that happened, and in every other role.
    pub(super) deadline: Option<Instant>,
    /// BACKUP: the master was given up, and why.
    pub(super) silence: Option<Cause>,
    /// MASTER: when the next advert is due.
    pub(super) advert_at: Option<Instant>,
    /// MASTER: no answer to another master before this.
    pub(super) answer_from: Instant,
}

impl Member {
    pub(super) fn new(id: MemberId, config: &MemberConfig) -> Self {
        let addresses: &[IpAddr] = match &config.transport {
            Transport::Multicast { .. } => &config.addresses,
            Transport::Unicast(peers) => peers,
        };
        Self {
            id,
            interface: config.interface,
            vhid: config.vhid,
            transport: config.transport.clone(),
            families: (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)),
            auth: Authenticator::new(config.vhid, &config.addresses, &config.password),
            counter: Counter::default(),
            repeats: Repeats::default(),
            link: None,
            followed: [None; 2],
            deadline: None,
            silence: None,
            advert_at: None,
            answer_from: Instant(0),
        }
    }

    /// What keeps this member from sending its adverts, if anything.
    pub(super) fn fault(&self) -> Option<Fault> {
        let Some(link) = self.link else { return Some(Fault::LinkUnknown) };
        if !link.up {
            Some(Fault::LinkDown)
        } else if self.families.0 && link.source_v4.is_none() {
            Some(Fault::NoSourceV4)
        } else if self.families.1 && link.source_v6.is_none() {
            Some(Fault::NoSourceV6)
        } else {
            None
        }
    }

    /// The node's own address on this interface, of the family of `other`.
    pub(super) fn own_address(&self, other: IpAddr) -> Option<IpAddr> {
        let link = self.link?;
        match other {
            IpAddr::V4(_) => link.source_v4.map(IpAddr::V4),
            IpAddr::V6(_) => link.source_v6.map(IpAddr::V6),
        }
    }

    /// Starts waiting for a master's adverts, as if one had come at `from`. Never shortens a wait.
    pub(super) fn arm(&mut self, from: Instant, master_down: Duration) {
        self.silence = None;
        self.deadline = Some(self.deadline.unwrap_or(Instant(0)).max(from + master_down));
    }

    /// Forgets the wait: the group is not BACKUP, or this member's master is given up because of `silence`.
    pub(super) fn disarm(&mut self, silence: Option<Cause>) {
        self.deadline = None;
        self.silence = silence;
    }

    /// Remembers a master. A worse one does not displace a better one that is still alive, so that in a contact of
    /// several masters the one which will remain is followed.
    pub(super) fn follow(&mut self, heard: Heard, now: Instant, master_down: Duration) {
        let Some(slot) = self.followed.get_mut(usize::from(heard.source.is_ipv6())) else { return };
        let displaced = match slot {
            Some(old) if old.source != heard.source && old.at + master_down > now => {
                heard.interval < old.interval || heard.interval == old.interval && wins_tie(heard.source, old.source)
            }
            Some(_) | None => true,
        };
        if displaced {
            *slot = Some(heard);
        }
    }

    /// Whether a goodbye from `source` leaves this member without a master: it comes from the one followed, or none
    /// is. The goodbye of a third node that lost against the followed master says nothing.
    pub(super) fn is_bereft_by(&self, source: IpAddr, now: Instant, master_down: Duration) -> bool {
        match self.followed.get(usize::from(source.is_ipv6())).copied().flatten() {
            Some(followed) if followed.at + master_down > now => followed.source == source,
            Some(_) | None => true,
        }
    }

    pub(super) fn forget_masters(&mut self) {
        self.followed = [None; 2];
    }

    /// The shortest interval among the masters that are alive.
    pub(super) fn best_heard(&self, now: Instant, master_down: Duration) -> Option<Interval> {
        let alive = self.followed.iter().flatten().filter(|heard| heard.at + master_down > now);
        alive.map(|heard| heard.interval).min()
    }

    /// One advert, to every destination of the transport. One counter serves all of them, like OpenBSD's.
    pub(super) fn send(&mut self, interval: Interval, prng: &mut Prng, actions: &mut Vec<Action>) -> u64 {
        let counter = self.counter.advance(prng);
        let advert = Advert {
            vhid: self.vhid,
            advskew: interval.advskew,
            advbase: u8::try_from(interval.advbase).unwrap_or(u8::MAX),
            demotion: 0,
            counter,
            digest: self.auth.digest(counter),
        };
        let destinations: &[IpAddr] = match &self.transport {
            Transport::Multicast { v4, v6 } => &[IpAddr::V4(*v4), IpAddr::V6(*v6)],
            Transport::Unicast(peers) => peers,
        };
        let mut sent = 0;
        for &destination in destinations {
            let used = if destination.is_ipv4() { self.families.0 } else { self.families.1 };
            if used && let Some(source) = self.own_address(destination) {
                actions.push(Action::SendAdvert { member: self.id, source, destination, advert });
                sent += 1;
            }
        }
        sent
    }

    /// Whether an advert may be answered now; if so, the next answer must wait.
    pub(super) fn may_answer(&mut self, now: Instant, spacing: Duration) -> bool {
        let may = self.answer_from <= now;
        if may {
            self.answer_from = now + spacing;
        }
        may
    }

    /// The sign of life in an advert, with a reception time that cannot lie in the future.
    pub(super) fn heard(advert: &ReceivedAdvert, now: Instant) -> Heard {
        let (source, interval) = (advert.source, Interval::of(&advert.advert));
        Heard { source, interval, at: advert.received.min(now) }
    }
}
