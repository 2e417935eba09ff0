//! What clients' packets, kernels' timers and a stranger do to the world.

use crate::clients::Step;
use crate::conntrack::Number;
use crate::model::segments::{Packet, SEGMENTS};
use crate::network::Payload;
use crate::options::Kind;
use crate::timeline::Note;
use crate::world::{PATHS, World};
use ha_common::election::{Cause, Transition};
use ha_common::role::Role;
use ha_common::wire::heartbeat::{Gate, Heartbeat, Kind as Beat, ROLE_MASTER, Standing};

impl World {
    /// One step of one client.
    pub fn traffic(&mut self) {
        let (now, count) = (self.now, self.options.sessions);
        let number = self.random.below(count.into()) as Number;
        let Some(node) = self.serving() else { return };
        let session = self.clients.sessions[number as usize];
        let step = self.clients.step(number, &mut self.random);
        let is_there = self.hosts[node].conntrack.entries.contains_key(&number);
        if session.is_open && !is_there {
            // Its packets are refused there: the client gives up.
            self.clients.give_up(number);
            return self.note(None, Note::Session(number, None));
        }
        let local = self.hosts[node].local(now);
        match step {
            Step::Touch => {
                self.hosts[node].conntrack.touch(local, number);
                self.clients.sessions[number as usize].node = node;
            }
            Step::End => {
                self.hosts[node].conntrack.end(number);
                self.ended(node, number);
                self.session_over(number);
            }
            Step::Open => {
                if is_there {
                    // Left over from an earlier use of the tuple, which the kernel ends for the new one.
                    self.hosts[node].conntrack.end(number);
                    self.ended(node, number);
                }
                if !self.hosts[node].conntrack.is_full() {
                    let flow = self.clients.open(now, number, node);
                    self.pass(node, number, flow);
                }
            }
            Step::Change => {
                let flow = self.clients.advance(now, number, node, &mut self.random);
                if session.is_tcp && flow.tcp.is_some_and(|tcp| tcp.state < session.state) {
                    self.hosts[node].conntrack.end(number);
                    self.ended(node, number);
                }
                self.pass(node, number, flow);
            }
        }
        self.wake_sync(node);
    }

    fn pass(&mut self, node: usize, number: Number, flow: ha_common::sync::flow::Flow) {
        let (local, mark) = (self.hosts[node].local(self.now), flow.mark);
        if self.hosts[node].conntrack.pass(local, flow) {
            self.passed(node, number, mark);
            self.note(node, Note::Session(number, Some(mark)));
        } else {
            self.session_over(number);
        }
    }

    fn session_over(&mut self, number: Number) {
        self.clients.end(self.now, number);
        self.note(None, Note::Session(number, None));
    }

    /// Where a client's packets go: to whom the hosts of its segment take for the owner of the address, whatever its gate
    /// says; when that is nobody who forwards, they ask, and an open gate answers.
    fn serving(&mut self) -> Option<usize> {
        let segment = self.random.index(SEGMENTS);
        let now = self.now;
        let forwards = |node: usize| {
            let host = &self.hosts[node];
            host.is_alive(now) && host.link_up[0] && host.link_up[1]
        };
        let asks = self.random.percent(3);
        let holder = self.clients.holder[segment].filter(|node| forwards(*node) && !asks);
        let answering = || (0..self.hosts.len()).find(|node| forwards(*node) && self.hosts[*node].is_open(now));
        let found = holder.or_else(answering);
        if found.is_some() {
            self.clients.holder[segment] = found;
        }
        found
    }

    /// A host of each segment asks for the address if its owner does not answer any more.
    pub fn ask_for_addresses(&mut self) {
        let now = self.now;
        for segment in 0..SEGMENTS {
            let silent = self.clients.holder[segment].is_none_or(|node| !self.hosts[node].is_open(now));
            if silent {
                let answers = |node: &usize| self.hosts[*node].link_up[segment] && self.hosts[*node].is_open(now);
                self.clients.holder[segment] = (0..self.hosts.len()).find(answers).or(self.clients.holder[segment]);
            }
        }
    }

    /// The kernels end what is over.
    pub fn expire(&mut self) {
        let now = self.now;
        for node in 0..self.hosts.len() {
            if !self.hosts[node].is_alive(now) {
                continue;
            }
            let local = self.hosts[node].local(now);
            for number in self.hosts[node].conntrack.expire(local) {
                self.ended(node, number);
                // It goes on where another node has a copy, and packets pass there by now.
                let passes_here = self.clients.holder.iter().all(|holder| *holder == Some(node));
                if self.clients.sessions[number as usize].is_open && passes_here {
                    self.session_over(number);
                }
            }
            self.wake_sync(node);
        }
    }

    pub fn role_changed(&mut self, node: usize, transition: Transition) {
        self.disturb();
        self.checks.role_changed(self.now, node, transition.to);
        // Nobody but a master is asked for the addresses: where its word is over, hosts ask again at once or later.
        let handed_over = matches!(transition.cause, Cause::HandOver | Cause::Preempt | Cause::Demoted);
        if transition.to == Role::Master && handed_over {
            self.check_hand_over(node);
        }
    }

    // -- the stranger --

    /// One packet of the stranger to some node: on the sync link, or an advert or heartbeat on the others.
    pub fn attack(&mut self) {
        let to = self.random.index(self.hosts.len());
        match self.random.below(10) {
            0..=6 => {
                let (link, bytes) = self.stranger.frame(&mut self.random, to, self.options.links);
                let path = if link.0 == 0 { crate::world::SYNC } else { 0 };
                self.network.inject(self.now, to, path, Payload::Frame { link, bytes, is_hostile: true });
            }
            7 | 8 => self.forge_heartbeat(to),
            _ => self.forge_advert(to),
        }
    }

    /// Says that a newer master serves: whoever believes it closes his gate.
    fn forge_heartbeat(&mut self, to: usize) {
        let Some(entry) = self.hosts[to].kernel.as_ref().map(|kernel| kernel.entry) else { return };
        if self.options.kind != Kind::Pair {
            return;
        }
        let now = self.hosts[to].local(self.now).0;
        let standing = Standing { role: ROLE_MASTER, gate: Gate::Open, ..Standing::default() };
        let beat = Heartbeat {
            kind: self.random.pick(&[Beat::Probe, Beat::Reply]),
            sender: 1 - to as u8,
            target: to as u8,
            path: self.random.index(PATHS) as u8,
            key_epoch: self.hosts[to].heartbeat_epoch(),
            session: self.random.next(),
            sequence: self.random.next(),
            sent_ns: now,
            other_session: entry.session,
            term: entry.term + 256,
            standing,
            beat_age_us: 0,
            lease_left_us: 40_000,
        };
        let mut words = beat.seal([self.random.next(), self.random.next()]);
        // Sometimes one that was right but for a bit.
        if self.random.percent(50) {
            words = beat.seal(self.checks.heartbeat_key(beat.key_epoch));
            words[self.random.index(9)] ^= 1 << self.random.below(40);
        }
        let frame = ha_common::wire::heartbeat::emit([0xff; 6], [2; 6], &words);
        let key = |epoch| self.hosts[to].accepts(epoch).then(|| self.checks.heartbeat_key(epoch));
        self.counts.hostile += 1;
        if let Some(Ok(_)) = Heartbeat::read(frame.as_slice(), key) {
            self.fail("hostile", format!("node {to} believes a forged heartbeat"));
        }
    }

    /// A goodbye, or a better master's word, without the password; or the last advert once more.
    fn forge_advert(&mut self, to: usize) {
        let now = self.now;
        if !self.hosts[to].control_runs(now) {
            return;
        }
        let segment = self.random.index(SEGMENTS);
        let mut packet = Packet {
            source: crate::model::segments::address((to + 1) % self.hosts.len(), segment),
            advert: ha_common::wire::carp::Advert {
                vhid: crate::model::segments::VHIDS[segment],
                advskew: self.random.pick(&[0, 255]),
                demotion: 0,
                advbase: self.random.pick(&[0, 1, 255]),
                counter: self.random.next(),
                digest: [self.random.next() as u8; 20],
            },
        };
        if let Some(last) = self.stranger.last_advert(to, segment).filter(|_| self.random.percent(60)) {
            packet = last;
        }
        self.counts.hostile += 1;
        self.hear_hostile(to, segment, packet);
    }
}
