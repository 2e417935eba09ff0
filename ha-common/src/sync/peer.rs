//! One peer: its session, outbox and inbox, and the clockwork that sends what they have.

use super::bulk::RecentVersions;
use super::capabilities::Capabilities;
use super::inbox::{Inbox, WINDOW};
use super::links::Links;
use super::outbox::Outbox;
use super::prove::Prover;
use super::seal::{Identity, Keyring};
use super::session::{Abilities, Session, Statement, Stranger};
use super::table::{Slot, Table};
use super::{Action, Config, Event, Mode, PeerId, PeerStats};
use crate::proto;
use crate::role::{NodeId, Role};
use crate::time::{Instant, earliest};
use crate::wire::frame::{HEADER_LEN, Kind, TAG_LEN};
use crate::wire::genuine::SessionEntry;
use core::time::Duration;

/// Hellos outside the interval (answers, changes of role) are at least this far apart.
const HELLO_GAP: Duration = Duration::from_millis(10);

pub(super) struct Peer {
    pub id: PeerId,
    pub node: NodeId,
    pub session: Session,
    pub outbox: Outbox,
    pub inbox: Inbox,
    pub prover: Prover,
    pub links: Links,
    /// A mutual session exists and the peer was heard within the timeout.
    pub up: bool,
    /// The session in which it was up before; zero when never.
    pub up_session: u64,
    pub role: Role,
    /// What its clock showed when it said so.
    pub clock: u64,
    pub heard: Instant,
    /// Requests for the peer's whole table in this session, and the peer's for ours.
    pub wanted: u32,
    pub wanted_by_peer: u32,
    hello_at: Instant,
    hello_sent: Instant,
    /// An unknown session to be answered with the next hello.
    stranger: Option<Stranger>,
    /// As last told: the epoch in use, and the one of which the peer has another secret.
    key_told: u8,
    conflict_told: Option<u8>,
    /// As last told: the peer's mode, when it is another one.
    mode_told: Option<Mode>,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub frames_sent: u64,
    pub frames_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub flows_received: u64,
}

impl Peer {
    pub fn new(id: PeerId, node: NodeId, config: &Config, keyring: &Keyring) -> Self {
        let mine = Identity { node: config.node, session: config.session, nonce: config.nonce };
        let abilities = Abilities { version: config.version, capabilities: config.capabilities, mode: config.mode };
        let session = Session::new(keyring, mine, node, abilities);
        Self {
            id,
            node,
            key_told: session.key_epoch(),
            conflict_told: None,
            mode_told: None,
            session,
            outbox: Outbox::new(bit(id), config.window_frames, config.frame_bytes_max, config.mode),
            inbox: Inbox::new(id, config),
            prover: Prover::new(),
            links: Links::new(config.links, config.sending, config.hello_interval),
            up: false,
            up_session: 0,
            role: Role::Init,
            clock: 0,
            heard: Instant(0),
            wanted: 1,
            wanted_by_peer: 0,
            hello_at: Instant(0),
            hello_sent: Instant(0),
            stranger: None,
            counters: Counters::default(),
        }
    }

    /// A hello soon, not waiting for the interval.
    pub fn hello_soon(&mut self) {
        self.hello_at = self.hello_at.min(self.hello_sent + HELLO_GAP);
    }

    /// A hello with the next that is sent, and before any data: a peer judges by the role of who says something.
    pub fn hello_at_once(&mut self) {
        self.hello_at = Instant(0);
    }

    pub fn answer_stranger(&mut self, stranger: Stranger) {
        self.stranger = Some(stranger);
        self.hello_soon();
    }

    /// Tells when the peer turns out to replicate in another mode than this node's.
    pub fn review_mode(&mut self, own: Mode, out: &mut Vec<Action>) {
        let differing = self.session.told().mode.filter(|mode| *mode != own);
        if core::mem::replace(&mut self.mode_told, differing) != differing
            && let Some(mode) = differing
        {
            out.push(Action::Event(Event::ModeDiffers { peer: self.id, mode }));
        }
    }

    /// The peer and this node both can.
    pub fn can(&self, wanted: Capabilities) -> bool {
        self.session.common().has(wanted)
    }

    /// Tells when another secret is used with the peer, or when it has a different one of the same epoch.
    pub fn review_keys(&mut self, keyring: &Keyring, out: &mut Vec<Action>) {
        let (peer, to) = (self.id, self.session.key_epoch());
        let from = core::mem::replace(&mut self.key_told, to);
        if from != to {
            // The peer is told soon under which secret it is heard from now on.
            self.hello_soon();
            out.push(Action::Event(Event::KeyChanged { peer, from, to }));
        }
        let conflict = self.session.key_conflict(keyring);
        if core::mem::replace(&mut self.conflict_told, conflict) != conflict
            && let Some(epoch) = conflict
        {
            out.push(Action::Event(Event::KeyConflict { peer, epoch }));
        }
    }

    /// The peer's table was received as far as asked for, and nothing is missing for long.
    pub fn is_in_sync(&self, now: Instant) -> bool {
        self.up && self.inbox.is_complete(self.wanted) && !self.inbox.is_gap_old(now)
    }

    /// The peer has been told of every flow, and may be asked whether it holds them.
    pub fn is_proving(&self) -> bool {
        self.up && self.outbox.is_reliable() && self.outbox.bulk.is_done() && self.can(Capabilities::DIGESTS)
    }

    /// Begins to send the whole table.
    pub fn start_bulk(&mut self, master: bool, table: &Table, recent: RecentVersions) {
        let bit = bit(self.id);
        // No walk finds what has ended: the removals that the last one owes, because their frames were lost, are still to be told.
        let is_owed = |slot: &Slot| table.get(*slot).is_some_and(|entry| entry.is_tombstone() && entry.owed & bit != 0);
        let removals: Vec<Slot> = self.outbox.bulk.owed().filter(is_owed).collect();
        self.outbox.bulk.start(self.wanted_by_peer, master, table.slots(), recent);
        removals.into_iter().for_each(|slot| self.outbox.bulk.owe(slot));
    }

    /// Looks at the links to the peer, and tells it soon when its frames will come over another one.
    pub fn review_links(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some((from, to)) = self.links.review(now) {
            self.hello_soon();
            out.push(Action::Event(Event::LinkChanged { peer: self.id, from, to }));
        }
    }

    pub fn send_hello_if_due(
        &mut self,
        now: Instant,
        keyring: &Keyring,
        statement: &Statement,
        interval: Duration,
        out: &mut Vec<Action>,
    ) {
        if now < self.hello_at {
            return;
        }
        self.hello_sent = now;
        self.hello_at = now + interval;
        let (stranger, in_use) = (self.stranger.take(), self.session.key_epoch());
        // The peer that is known must go on to hear of this node, also while a stranger is answered under another secret.
        let is_elsewhere = stranger.is_some_and(|stranger| stranger.key_epoch != in_use);
        let hellos = if is_elsewhere { [Some(stranger), Some(None)] } else { [Some(stranger), None] };
        for to in hellos.into_iter().flatten() {
            if let Some(datagram) = self.session.hello(keyring, statement, to) {
                self.send(Kind::Hello, datagram, out);
            }
        }
    }

    pub fn send_ack_if_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(ack) = self.inbox.take_ack(now, self.outbox.sent_sequence()) else { return };
        let sequence = self.session.next_ack();
        if let Some(datagram) = self.session.seal(Kind::Ack, sequence, &ack) {
            self.send(Kind::Ack, datagram, out);
        }
    }

    /// Sends data frames as long as some are due and the window is open. `scratch` is reused memory.
    pub fn send_data(&mut self, now: Instant, table: &mut Table, scratch: &mut proto::Data, out: &mut Vec<Action>) {
        self.outbox.size.on_timer(now);
        self.outbox.receiver = self.session.common();
        let body = body_bytes(self.outbox.size.bytes());
        while let Some(sequence) = self.outbox.fill(now, table, scratch, body) {
            if let Some(datagram) = self.session.seal(Kind::Data, sequence, scratch) {
                self.outbox.on_sent(now, datagram.len());
                self.send(Kind::Data, datagram, out);
            }
        }
    }

    pub fn poll_at(&self, now: Instant, timeout: Duration) -> Option<Instant> {
        let hello = Some(self.hello_at);
        if !self.up {
            return hello;
        }
        let silence = Some(self.heard + timeout);
        let proof = self.is_proving().then(|| self.prover.poll_at());
        earliest(
            earliest(earliest(earliest(hello, silence), proof), self.links.poll_at(now)),
            earliest(self.outbox.poll_at(body_bytes(self.outbox.size.bytes())), self.inbox.poll_at(now)),
        )
    }

    /// A whole window below what was taken: copies over a slower link are still told from replays here, and counted.
    pub fn session_entry(&self) -> SessionEntry {
        let from = |sequence: u64| sequence.saturating_sub(WINDOW);
        SessionEntry {
            session: self.session.peer_session(),
            hello_from: from(self.session.hello_sequence()),
            data_from: from(self.inbox.data.base()),
            ack_from: from(self.inbox.acks.base()),
            stamps: u64::from(self.session.told().capabilities.has(Capabilities::STAMPS)),
        }
    }

    pub fn stats(&self, now: Instant) -> PeerStats {
        PeerStats {
            alive: self.up,
            session: self.session.peer_session(),
            role: self.role,
            hello_sequence: self.session.hello_sequence(),
            version: self.session.told().version,
            capabilities: self.session.told().capabilities,
            mode: self.session.told().mode,
            key_epoch: self.session.key_epoch(),
            key_epochs_accepted: self.session.key_epochs_accepted(),
            sent_sequence: self.outbox.sent_sequence(),
            acked_sequence: self.outbox.acked_sequence(),
            received_sequence: self.inbox.data.base(),
            frames_sent: self.counters.frames_sent,
            frames_received: self.counters.frames_received,
            bytes_sent: self.counters.bytes_sent,
            bytes_received: self.counters.bytes_received,
            frames_lost: self.outbox.counters.frames_lost,
            flows_sent: self.outbox.counters.flows_sent,
            flows_received: self.counters.flows_received,
            backlog_flows: self.outbox.backlog_flows(),
            in_flight_flows: self.outbox.in_flight_flows(),
            bulk_sent: self.outbox.bulk.is_done(),
            bulk_received: self.inbox.is_complete(self.wanted),
            bulk_left: self.outbox.bulk.slots_left(),
            rtt: self.outbox.rtt(),
            links: self.links.stats(now),
            link_failovers: self.links.failovers,
            frame_bytes: self.outbox.size.bytes(),
            proven: self.prover.proven_at.map(|at| now.since(at)),
            differing_buckets: self.prover.differing,
            digests_equal: self.prover.counters.equal,
            digests_different: self.prover.counters.different,
            digests_unknown: self.prover.counters.unknown,
            repairs: self.prover.counters.repairs,
        }
    }

    fn send(&mut self, kind: Kind, datagram: Vec<u8>, out: &mut Vec<Action>) {
        self.counters.frames_sent += 1;
        self.counters.bytes_sent += datagram.len() as u64;
        out.push(Action::Send { peer: self.id, links: self.links.choose(kind), datagram });
    }
}

/// What a frame of this size holds besides header and tag.
fn body_bytes(frame_bytes: usize) -> usize {
    frame_bytes.saturating_sub(HEADER_LEN + TAG_LEN)
}

/// The peer's bit in an entry's masks.
pub(super) fn bit(id: PeerId) -> u8 {
    1u8.checked_shl(u32::from(id.0)).unwrap_or(0)
}
