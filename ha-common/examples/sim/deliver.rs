//! What goes from loop to loop and from node to node: the control loop's ticks and what it sends, packets that arrive.

use crate::host::Missed;
use crate::model::daemon::{Daemon, Pair, Sent};
use crate::model::segments::{GROUP, Packet, SEGMENTS};
use crate::network::{Flight, Payload};
use crate::options::Kind;
use crate::random::Random;
use crate::sync_loop::{Datagram, Outgoing, Request, SyncLoop};
use crate::timeline::Note;
use crate::world::{PATHS, SYNC, World};
use ha_common::election::{Command, Election, HandOverPhase, Input, MemberId, PairTimes, ReceivedAdvert};
use ha_common::sync::LinkId;
use ha_common::time::Instant;
use ha_common::wire::frame::{self, Header};
use ha_common::wire::genuine::Admission;
use ha_common::wire::heartbeat::{FLAG_OFFER, Kind as Beat};
use ha_common::wire::ipv4;
use std::time::Duration;

impl World {
    pub fn pair(&self) -> Option<Pair> {
        match self.options.kind {
            Kind::Pair => Some(Pair {
                interval: self.options.interval,
                multiplier: self.options.multiplier,
                times: PairTimes { lease_short: self.options.lease, ..PairTimes::default() },
            }),
            Kind::Timers | Kind::Three | Kind::Quiet => None,
        }
    }

    pub fn start_control(&mut self, node: usize) {
        let (now, pair, seed) = (self.now, self.pair(), self.random.next());
        let phase = self.random.between(Duration::ZERO, Duration::from_millis(1));
        let host = &mut self.hosts[node];
        let local = host.local(now);
        let Some(kernel) = &mut host.kernel else { return };
        kernel.replies = Default::default();
        host.control = Some(Box::new(Daemon::new(local, node, host.settings, pair, kernel, seed)));
        (host.tick_at, host.control_frozen_until, host.freeze_in_tick) = (now + phase, now, None);
        (host.told, host.draining, host.offered, host.key_in_use) = ((0, 0), None, None, None);
        host.missed = Missed::default();
        self.stranger.forget_adverts(node);
        for path in 0..PATHS {
            self.tell_link(node, path);
        }
    }

    pub fn start_sync(&mut self, node: usize) {
        let (now, random) = (self.now, Random::new(self.random.next(), 5));
        let host = &mut self.hosts[node];
        host.conntrack.listen(self.options.event_room);
        let local = host.local(now);
        host.sync = Some(Box::new(SyncLoop::new(local, node, &self.options, &host.keys, random)));
        (host.sync_at, host.sync_frozen_until) = (now, now);
        self.checks.process_ended(self.now, node);
    }

    pub fn tell_link(&mut self, node: usize, path: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if !host.control_runs(now) {
            host.missed.links = true;
            return;
        }
        let (local, up) = (host.local(now), host.link_up[path]);
        if let (Some(control), Some(kernel)) = (&mut host.control, &mut host.kernel) {
            let sent = control.link(local, path, up, kernel);
            self.after_control(node, sent);
        }
    }

    /// One wake-up of the control loop; it may stop in the middle.
    pub fn tick(&mut self, node: usize) {
        self.catch_up(node);
        let now = self.now;
        let host = &mut self.hosts[node];
        let (local, freeze) = (host.local(now), host.freeze_in_tick.take());
        let (Some(control), Some(kernel)) = (&mut host.control, &mut host.kernel) else { return };
        // A tick that stopped in the middle ends first.
        let mut sent = control.finish(local, kernel);
        control.begin(local, kernel);
        match freeze {
            Some(length) => {
                host.control_frozen_until = host.control_frozen_until.max(now + length);
                host.tick_at = now + length;
            }
            None => {
                sent.extend(control.finish(local, kernel));
                let due = control.poll_at().unwrap_or(local + Duration::from_millis(10));
                host.tick_at = if due <= local { now + Duration::from_micros(50) } else { host.clock.world(due) };
            }
        }
        let stopped = control.election.is_stopped();
        self.after_control(node, sent);
        if stopped {
            self.hosts[node].control = None;
            self.ask_sync(node, Request::Stop);
        }
    }

    /// What came while the loop did not run.
    fn catch_up(&mut self, node: usize) {
        let missed = std::mem::take(&mut self.hosts[node].missed);
        if missed.links {
            (0..PATHS).for_each(|path| self.tell_link(node, path));
        }
        for (received, segment, packet) in missed.adverts {
            self.hear(node, received, segment, packet);
        }
        missed.maintenance.into_iter().for_each(|on| self.control(node, Input::Command(Command::Maintenance(on))));
        missed.demotion.into_iter().for_each(|total| self.control(node, Input::Demotion(total)));
        missed.health.into_iter().for_each(|health| self.control(node, Input::Sync(health)));
    }

    fn hear(&mut self, node: usize, received: Instant, segment: usize, packet: Packet) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if !host.control_runs(now) {
            if host.control.is_some() && host.missed.adverts.len() < 4096 {
                host.missed.adverts.push((received, segment, packet));
            }
            return;
        }
        let local = host.local(now);
        if let (Some(control), Some(kernel)) = (&mut host.control, &mut host.kernel) {
            let sent = control.hear(local, received, segment, packet, kernel);
            self.after_control(node, sent);
        }
        self.stranger.record_advert(node, segment, packet);
    }

    /// The same of a stranger: the election may count it, and nothing else.
    pub fn hear_hostile(&mut self, node: usize, segment: usize, packet: Packet) {
        // What is due by now is done before, and not by the stranger.
        self.control(node, Input::Timer);
        let local = self.hosts[node].local(self.now);
        let Some(control) = &mut self.hosts[node].control else { return };
        let election = &mut control.election;
        let stats = |election: &Election| {
            let stats = election.stats();
            (stats.role, stats.term, stats.lease, stats.standing, stats.hand_over, stats.adverts_accepted)
        };
        let (before, mut actions) = (stats(election), Vec::new());
        let advert = ReceivedAdvert {
            member: MemberId(segment as u8),
            source: packet.source.into(),
            destination: GROUP.into(),
            advert: packet.advert,
            received: local,
        };
        election.handle(local, Input::Advert(&advert), &mut actions);
        let after = stats(election);
        if before != after || !actions.is_empty() {
            self.fail("hostile", format!("a stranger's advert led to {actions:?}: {before:?} became {after:?}"));
        }
    }

    /// Passes on what the control loop wants told and sent.
    pub fn after_control(&mut self, node: usize, sent: Vec<Sent>) {
        self.pass_on(node);
        for sent in sent {
            match sent {
                Sent::Advert(segment, packet) => self.broadcast(node, segment, || Payload::Advert(packet)),
                Sent::Announcement(segment) => {
                    let (now, up) = (self.now, self.hosts[node].link_up[segment]);
                    let path = self.paths[segment];
                    // To the hosts of the segment, who have no number: it goes round to its sender's place.
                    self.network.send(
                        now,
                        &mut self.weather,
                        (segment, &path),
                        (node, node, up),
                        Payload::Announcement,
                    );
                }
                Sent::Probe(mut beat) => {
                    beat.key_epoch = self.hosts[node].heartbeat_epoch();
                    self.transmit(node, 1 - node, usize::from(beat.path), Payload::Beat(beat));
                }
            }
        }
        // What was decided may be due before the tick that was planned.
        let now = self.now;
        let host = &mut self.hosts[node];
        if let Some(due) = host.control.as_ref().and_then(|control| control.election.poll_at()) {
            host.tick_at = host.tick_at.min(host.clock.world(due)).max(now + Duration::from_micros(1));
        }
    }

    fn pass_on(&mut self, node: usize) {
        let Some(control) = &self.hosts[node].control else { return };
        let (transitions, ends) = self.hosts[node].told;
        let news: Vec<_> = control.transitions.iter().skip(transitions).copied().collect();
        let ended: Vec<_> = control.ends.iter().skip(ends).copied().collect();
        let hand_over = control.election.stats().hand_over;
        let since = |phase| hand_over.filter(|over| over.phase == phase).map(|over| over.since);
        let (draining, offered) = (since(HandOverPhase::Draining), since(HandOverPhase::Offered));
        self.hosts[node].told = (transitions + news.len(), ends + ended.len());
        for transition in news {
            self.counts.transitions += 1;
            self.note(node, Note::Role { from: transition.from, to: transition.to, cause: transition.cause });
            self.ask_sync(node, Request::Role(transition.to, transition.term));
            self.role_changed(node, transition);
        }
        for end in ended {
            self.counts.hand_overs += 1;
            self.note(node, Note::HandOver(end));
        }
        if draining.is_some() && draining != self.hosts[node].draining {
            self.ask_sync(node, Request::Flush);
        }
        self.hosts[node].draining = draining;
        self.offers(node, offered);
    }

    fn broadcast(&mut self, from: usize, path: usize, payload: impl Fn() -> Payload) {
        for to in (0..self.hosts.len()).filter(|to| *to != from) {
            self.transmit(from, to, path, payload());
        }
    }

    fn transmit(&mut self, from: usize, to: usize, path: usize, payload: Payload) {
        let may = self.hosts[from].link_up[path] && self.hosts[to].link_up[path];
        let weather = self.paths[path];
        self.network.send(self.now, &mut self.weather, (path, &weather), (from, to, may), payload);
    }

    /// A frame of the sync protocol over each of its links.
    pub fn transmit_frame(&mut self, from: usize, outgoing: Outgoing) {
        // Peers are the other nodes, in order.
        let peer = usize::from(outgoing.peer.0);
        let to = peer + usize::from(peer >= from);
        self.sealed(from, to, &outgoing.bytes);
        if self.options.hostile && self.random.percent(5) {
            self.stranger.record_fresh(&outgoing.bytes);
        }
        for link in (0..self.options.links).map(LinkId).filter(|link| outgoing.links.has(*link)) {
            let bytes = outgoing.bytes.clone();
            self.transmit(from, to, path_of(link), Payload::Frame { link, bytes, is_hostile: false });
        }
    }

    pub fn deliver(&mut self, flight: Flight) {
        let (now, from, to, path) = (self.now, flight.from, flight.to, flight.path);
        if !self.hosts[to].is_alive(now) || !self.hosts[to].link_up[path] {
            return;
        }
        match flight.payload {
            Payload::Announcement => self.clients.holder[path.min(SEGMENTS - 1)] = Some(from),
            Payload::Advert(packet) => self.hear(to, self.hosts[to].local(now), path, packet),
            Payload::Frame { link, bytes, is_hostile } => self.receive_frame(to, link, bytes, is_hostile),
            Payload::Beat(beat) => {
                if !self.hosts[to].accepts(beat.key_epoch) {
                    return;
                }
                let host = &mut self.hosts[to];
                let local = host.local(now);
                let Some(kernel) = &mut host.kernel else { return };
                match beat.kind {
                    Beat::Probe => {
                        if let Some(answer) = kernel.on_probe(local, &beat) {
                            self.transmit(to, from, path, Payload::Beat(answer));
                        }
                    }
                    Beat::Reply => {
                        kernel.on_reply(local, &beat);
                        if beat.standing.has(FLAG_OFFER)
                            && let Some(length) = host.freeze_at_offer.take()
                        {
                            host.freeze(now, now + length, now);
                        }
                    }
                }
            }
        }
    }

    /// The programs judge a frame by its header, then it waits in the socket, if there is room.
    fn receive_frame(&mut self, to: usize, link: LinkId, bytes: Vec<u8>, is_hostile: bool) {
        let room = self.options.datagram_room;
        if self.options.programs && !self.may_be_genuine(to, &bytes) {
            self.counts.hostile_refused_early += u64::from(is_hostile);
            return;
        }
        let host = &mut self.hosts[to];
        let Some(sync) = &mut host.sync else { return };
        if sync.inbox.len() < room {
            sync.inbox.push_back(Datagram { link, bytes, is_hostile });
            self.wake_sync(to);
        }
    }

    fn may_be_genuine(&self, to: usize, bytes: &[u8]) -> bool {
        let host = &self.hosts[to];
        let Ok(header) = Header::parse(bytes) else { return false };
        if !header.is_for(to as u8) || !host.accepts(header.key_epoch) {
            return false;
        }
        let Some(entry) = host.sessions.get(usize::from(header.sender)) else { return false };
        let payload = ipv4::Payload { offset: 0, len: bytes.len() };
        let is_stamped = frame::is_stamped(bytes, payload, self.checks.stamp_key(header.key_epoch));
        // How many hellos of unknown sessions are let through is not simulated: no flood comes here.
        matches!(entry.judge(&header, is_stamped), Ok(Admission::Free | Admission::Limited { .. }))
    }

    /// The programs learn which sessions are current, before anything is said to the peers.
    pub fn tell_sessions(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some(sync) = &host.sync else { return };
        for (peer, entry) in sync.engine.sessions() {
            if let Some(told) = host.sessions.get_mut(usize::from(peer.0)) {
                *told = entry;
            }
        }
    }
}

/// The second link goes over the LAN.
fn path_of(link: LinkId) -> usize {
    if link.0 == 0 { SYNC } else { 0 }
}
