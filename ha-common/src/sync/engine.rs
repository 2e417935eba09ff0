//! The state machine itself: inputs are dispatched, then everything that is due is done.

use super::bulk::RecentVersions;
use super::digest::digest_key;
use super::expect::{EarlyExpectations, ExpectationDump};
use super::fetch::Fetches;
use super::keepalive::{Retries, Wheel};
use super::modes::Mode;
use super::peer::{Peer, bit};
use super::prove::Prover;
use super::purge::Remains;
use super::recent::Recent;
use super::reconcile::Dump;
use super::seal::Keyring;
use super::session::{Greeting, Statement, role_value};
use super::table::{Owner, Slot, Table};
use super::{Action, Config, Event, Input, LinkId, PeerId, Stats};
use crate::proto;
use crate::reason::DropReason;
use crate::role::{NodeId, Role, SyncHealth};
use crate::sync::flow::Flow;
use crate::time::{Instant, earliest};
use crate::wire::frame::{Header, Kind};
use core::time::Duration;
use prost::Message;

/// The masks of an entry have a bit per peer.
const PEERS_MAX: usize = 8;
/// Less cannot hold the largest single change; more is not a UDP payload.
const FRAME_BYTES_MIN: usize = 1200;
const FRAME_BYTES_MAX: usize = 65_000;
/// Changes of the lag alone are reported at most this often.
const HEALTH_GAP: Duration = Duration::from_millis(100);
/// A flush that has not ended after this is forgotten: whoever asked has gone on without it.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// How often the end of a flush is looked for.
const FLUSH_GAP: Duration = Duration::from_millis(1);

fn frame_bytes(wanted: usize) -> usize {
    wanted.clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX)
}

/// Counters of the engine that no peer has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub refused_full: u64,
    pub stale_ignored: u64,
    pub events_lost: u64,
    pub dumps: u64,
    pub restored: u64,
    pub refreshed: u64,
    pub cut: u64,
    pub writes_failed: u64,
    pub writes_abandoned: u64,
    pub withdrawn: u64,
    pub regressions_ignored: u64,
    pub created_without_master: u64,
    pub expectations_refused: u64,
    pub expectations_foreign: u64,
    pub fetched: u64,
}

/// A flush that has not ended.
#[derive(Clone, Copy)]
struct Flush {
    asked: Instant,
    /// Everything that changed before this is waited for.
    barrier: Instant,
    /// [`super::outbox::Outbox::superseded`] of all peers when the barrier was set.
    superseded: u64,
    /// Entries being read whose answers belong to it.
    awaited: usize,
}

/// The sync engine of one node: see the module's documentation.
pub struct Engine {
    pub(super) node: NodeId,
    hello_interval: Duration,
    peer_timeout: Duration,
    pub(super) mode: Mode,
    pub(super) refresh_time: Duration,
    pub(super) purge_timeout: Duration,
    pub(super) keyring: Keyring,
    seed: u64,
    pub(super) role: Role,
    /// Lamport clock: never behind any version seen.
    pub(super) clock: u64,
    pub(super) table: Table,
    pub(super) peers: Vec<Peer>,
    pub(super) dump: Dump,
    pub(super) expectation_dump: ExpectationDump,
    pub(super) early_expectations: EarlyExpectations,
    pub(super) fetches: Fetches,
    pub(super) wheel: Wheel,
    pub(super) retries: Retries,
    pub(super) recent: Recent,
    /// What a mastership left behind and nobody has judged yet.
    pub(super) remains: Option<Remains>,
    /// The next slot whose TCP windows are to be opened.
    pub(super) relaxing: Option<Slot>,
    pub(super) full_reported: bool,
    pub(super) counters: Counters,
    refused: [u64; DropReason::COUNT],
    health: SyncHealth,
    health_at: Instant,
    flushing: Option<Flush>,
    /// When everything due was last done.
    pub(super) ran_at: Instant,
    /// Reused memory: an opened body, the message in it, the message being built.
    body: Vec<u8>,
    incoming: proto::Data,
    outgoing: proto::Data,
}

impl Engine {
    /// An engine that has done nothing yet. `seed` hides the order of the hash table and spreads timers; it
    /// decides nothing else. Peers beyond the eighth are ignored; the frame size is clamped to 400..=65000.
    pub fn new(mut config: Config, seed: u64) -> Self {
        config.frame_bytes_max = frame_bytes(config.frame_bytes_max);
        let keyring = Keyring::new(&config.keys, &config.cluster);
        let peers = (0u8..).zip(config.peers.iter().take(PEERS_MAX));
        let peers: Vec<_> = peers.map(|(index, &node)| Peer::new(PeerId(index), node, &config, &keyring)).collect();
        Self {
            node: config.node,
            hello_interval: config.hello_interval,
            peer_timeout: config.peer_timeout,
            mode: config.mode,
            refresh_time: config.refresh_time,
            purge_timeout: config.purge_timeout,
            keyring,
            seed,
            role: Role::Init,
            clock: 0,
            table: Table::new(seed, digest_key(&config.cluster), peers.len(), config.flows_max),
            peers,
            dump: Dump::new(),
            expectation_dump: ExpectationDump::default(),
            early_expectations: EarlyExpectations::default(),
            fetches: Fetches::default(),
            wheel: Wheel::new(),
            retries: Retries::default(),
            recent: Recent::default(),
            remains: None,
            relaxing: None,
            full_reported: false,
            counters: Counters::default(),
            refused: [0; DropReason::COUNT],
            health: SyncHealth::default(),
            health_at: Instant(0),
            flushing: None,
            ran_at: Instant(0),
            body: Vec::new(),
            incoming: proto::Data::default(),
            outgoing: proto::Data::default(),
        }
    }

    /// Takes one input and appends what is to be done, in order. Total: never blocks, never panics.
    ///
    /// Inputs that come in thousands are only taken note of: what is due after them is done with the next
    /// [`Input::Timer`], for which [`Engine::poll_at`] then asks at once.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Action>) {
        let comes_in_thousands = match input {
            Input::Datagram { .. }
            | Input::Changed(_)
            | Input::Destroyed { .. }
            | Input::Dumped(_)
            | Input::Withdraw { .. }
            | Input::Reread
            | Input::DumpedExpectation { .. }
            | Input::Expected { .. }
            | Input::ExpectationGone { .. }
            | Input::Fetched { .. } => true,
            Input::Timer
            | Input::EventsLost
            | Input::DumpBegin
            | Input::DumpEnd { .. }
            | Input::WriteFailed { .. }
            | Input::Role(_)
            | Input::Link { .. }
            | Input::FrameBytes(_)
            | Input::Flush
            | Input::Resync
            | Input::Retain(_)
            | Input::Keys(_) => false,
        };
        match input {
            Input::Timer => {}
            Input::Datagram { link, bytes } => {
                if let Err(reason) = self.on_datagram(now, link, bytes, out) {
                    self.refuse(reason);
                }
            }
            Input::Changed(flow) => self.on_changed(now, flow, out),
            Input::Destroyed { key, id } => self.on_destroyed(now, key, id, out),
            Input::Expected { master, expectation } => self.on_expected(now, master, expectation, out),
            Input::ExpectationGone { master, expectation } => self.on_expectation_gone(now, master, expectation),
            Input::Fetched { key, flow } => self.on_fetched(now, key, flow),
            Input::EventsLost => self.on_events_lost(out),
            Input::DumpBegin => self.on_dump_begin(now),
            Input::Dumped(flow) => self.on_dumped(now, flow, out),
            Input::DumpedExpectation { master, expectation } => self.on_dumped_expectation(master, expectation),
            Input::DumpEnd { complete } => self.on_dump_end(now, complete, out),
            Input::WriteFailed { key, write, errno } => self.on_write_failed(now, key, write, errno, out),
            Input::Role(role) => self.on_role(now, role, out),
            Input::Link { link, up } => self.peers.iter_mut().for_each(|peer| peer.links.set_carrier(link, up)),
            Input::FrameBytes(bytes) => self.on_frame_bytes(bytes),
            Input::Flush => self.on_flush(now, out),
            Input::Resync => self.on_resync(),
            Input::Withdraw { key } => self.on_withdraw(now, key),
            Input::Retain(filter) => self.on_retain(now, filter),
            Input::Reread => self.on_reread(),
            Input::Keys(keys) => self.on_keys(keys),
        }
        if !comes_in_thousands {
            self.run(now, out);
        }
    }

    /// When [`Input::Timer`] is due at the latest.
    pub fn poll_at(&self) -> Option<Instant> {
        let peers = self.peers.iter().map(|peer| peer.poll_at(self.ran_at, self.peer_timeout));
        let relax = self.relaxing.map(|_| self.ran_at);
        let own = [
            self.dump.poll_at(),
            self.wheel.poll_at(),
            self.retries.poll_at(),
            self.health_due(),
            relax,
            self.fetches.poll_at(),
            self.refresh_at(),
            self.remains_at(),
        ];
        peers.chain(own).fold(None, earliest)
    }

    pub fn stats(&self) -> Stats {
        let counts = self.table.counts();
        Stats {
            mode: self.mode,
            key_epochs: self.keyring.epochs().collect(),
            health: self.health,
            flows: counts.local + counts.found + counts.peer,
            flows_local: counts.local,
            flows_found: counts.found,
            flows_peer: counts.peer,
            tombstones: counts.tombstones,
            flows_refused_full: self.counters.refused_full,
            stale_ignored: self.counters.stale_ignored,
            refused: self.refused,
            events_lost: self.counters.events_lost,
            dumps: self.counters.dumps,
            restored: self.counters.restored,
            refreshed: self.counters.refreshed,
            cut: self.counters.cut,
            writes_failed: self.counters.writes_failed,
            writes_abandoned: self.counters.writes_abandoned,
            withdrawn: self.counters.withdrawn,
            regressions_ignored: self.counters.regressions_ignored,
            created_without_master: self.counters.created_without_master,
            expectations_refused: self.counters.expectations_refused,
            expectations_foreign: self.counters.expectations_foreign,
            fetched: self.counters.fetched,
            peers: self.peers.iter().map(|peer| peer.stats(self.ran_at)).collect(),
        }
    }

    /// The first `limit` flows of the shadow table in no order, and whether a peer owns each.
    pub fn flows(&self, limit: usize) -> impl Iterator<Item = (Flow, bool)> + '_ {
        let live = (0..self.table.slots()).filter_map(|slot| self.table.get(slot)).filter(|entry| entry.is_live());
        live.take(limit).map(|entry| {
            let peers = match entry.owner() {
                Owner::Peer(_) => true,
                Owner::Local | Owner::Found => false,
            };
            (entry.flow(), peers)
        })
    }

    pub(super) fn refuse(&mut self, reason: DropReason) {
        if let Some(counter) = self.refused.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock = self.clock.saturating_add(1);
        self.clock
    }

    /// A number that spreads timers of different slots.
    pub(super) fn jitter(&self, slot: Slot) -> u32 {
        // Fibonacci hashing: the high half of the product.
        ((self.seed ^ u64::from(slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// Nothing ran here for as long as makes a peer believe that this node is dead.
    pub(super) fn was_frozen(&self, now: Instant) -> bool {
        self.ran_at != Instant(0) && now.since(self.ran_at) >= self.peer_timeout
    }

    pub(super) fn is_up(&self, peer: PeerId) -> bool {
        self.peers.get(usize::from(peer.0)).is_some_and(|peer| peer.up)
    }

    pub(super) fn up_mask(&self) -> u8 {
        self.peers.iter().filter(|peer| peer.up).fold(0, |mask, peer| mask | bit(peer.id))
    }

    fn on_frame_bytes(&mut self, bytes: usize) {
        let bytes = frame_bytes(bytes);
        self.peers.iter_mut().for_each(|peer| peer.outbox.size.set_limit(bytes));
    }

    fn on_datagram(
        &mut self,
        now: Instant,
        link: LinkId,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        if !header.is_for(self.node.0) {
            return Err(DropReason::FrameTarget);
        }
        let sender = self.peers.iter().position(|peer| peer.node.0 == header.sender);
        let index = sender.ok_or(DropReason::FrameSender)?;
        if !self.keyring.holds(header.key_epoch) {
            return Err(DropReason::FrameKeyEpoch);
        }
        let taken = match header.kind {
            Kind::Hello => self.on_hello(now, (index, link), &header, bytes, out),
            Kind::Data => self.on_data_frame(now, index, &header, bytes, out),
            Kind::Ack => self.on_ack_frame(now, index, &header, bytes, out),
        };
        if let Some(peer) = self.peers.get_mut(index) {
            if taken == Err(DropReason::FrameReplay) && peer.links.take_copy(now, link, header.kind, header.sequence) {
                return Err(DropReason::FrameCopy);
            }
            taken?;
            // The hello of a stranger proves nothing yet: it may be a recorded one.
            if peer.session.peer_session() == header.session {
                peer.links.heard(now, link, header.kind, header.sequence);
            }
            peer.counters.frames_received += 1;
            peer.counters.bytes_received += bytes.len() as u64;
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        now: Instant,
        (index, link): (usize, LinkId),
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get(index).ok_or(DropReason::FrameSender)?;
        if peer.session.peer_session() == header.session && peer.links.has_taken_hello(link, header.sequence) {
            return Err(DropReason::FrameReplay);
        }
        let hello = proto::Hello::decode(self.keyring.open_hello(header.key_epoch, bytes)?)
            .map_err(|_| DropReason::FrameBody)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let greeting = peer.session.on_hello(&self.keyring, header, &hello)?;
        match greeting {
            Greeting::Stranger(stranger) => {
                peer.answer_stranger(stranger);
                return Ok(());
            }
            Greeting::New => {
                self.begin_session(now, index, out);
            }
            Greeting::Known { answer: true } => peer.hello_soon(),
            Greeting::Known { answer: false } => {}
        }
        self.clock = self.clock.max(hello.clock);
        let recent = self.transfer_classes();
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        peer.links.confirmed(hello.links_heard);
        peer.wanted_by_peer = hello.bulk_wanted;
        let before = core::mem::replace(&mut peer.role, role_value(&hello));
        if peer.up {
            // Not only a higher number: the peer counts from one again in a new session, and the transfer may have begun
            // for a hello of the old one.
            if peer.wanted_by_peer != peer.outbox.bulk.answers() {
                peer.start_bulk(self.role == Role::Master, &self.table, recent);
            } else if self.mode == Mode::Notrack && !hello.in_sync {
                // It may have lost the one frame that says that the transfer is complete.
                peer.outbox.bulk.announce_again();
            }
            self.on_peer_role(now, index, before);
        }
        self.on_heard(now, index, out);
        Ok(())
    }

    fn on_data_frame(
        &mut self,
        now: Instant,
        index: usize,
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let keys = peer.session.keys_for(header)?;
        peer.inbox.data.check(header.sequence)?;
        keys.open(header, bytes, &mut self.body)?;
        let mut data = core::mem::take(&mut self.incoming);
        data.clear();
        let decoded = data.merge(self.body.as_slice());
        if decoded.is_ok() {
            peer.session.on_sealed();
            let id = peer.id;
            // A transfer may have to begin before what it is about arrives.
            self.on_heard(now, index, out);
            if let Some(peer) = self.peers.get_mut(index) {
                peer.inbox.on_data(now, header.sequence, &data);
            }
            self.on_data(now, id, header.sequence, &data, out);
            // Only now: this frame may be the late one that a removal was remembered for.
            if let Some(peer) = self.peers.get_mut(index) {
                peer.inbox.release(&mut self.table);
            }
        }
        self.incoming = data;
        decoded.map_err(|_| DropReason::FrameBody)
    }

    fn on_ack_frame(
        &mut self,
        now: Instant,
        index: usize,
        header: &Header,
        bytes: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(index).ok_or(DropReason::FrameSender)?;
        let keys = peer.session.keys_for(header)?;
        peer.inbox.acks.check(header.sequence)?;
        keys.open(header, bytes, &mut self.body)?;
        let ack = proto::Ack::decode(self.body.as_slice()).map_err(|_| DropReason::FrameBody)?;
        peer.inbox.acks.accept(header.sequence);
        peer.session.on_sealed();
        if let Some(flows) = peer.outbox.on_ack(now, &ack, &mut self.table) {
            let (peer, repair) = (peer.id, peer.outbox.bulk.is_repair());
            out.push(Action::Event(if repair {
                Event::RepairSent { peer, flows }
            } else {
                Event::BulkSent { peer, flows }
            }));
        }
        self.on_heard(now, index, out);
        Ok(())
    }

    /// The peer has started anew: nothing of its former session counts any more.
    fn begin_session(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        self.peer_down(now, index, out);
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.inbox = peer.inbox.renewed();
        peer.links.begin_session();
        peer.prover = Prover::new();
        peer.wanted = 1;
        peer.hello_soon();
        let id = peer.id;
        for slot in 0..self.table.slots() {
            if let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_owned_by(id)) {
                // Its clock began anew as well: any word of the new session is newer. So did its transfers: an epoch of
                // the old session must not pass for one of the new.
                entry.epoch = 0;
                self.table.set_version(slot, 0);
            }
        }
    }

    /// Something authentic of the current session came.
    fn on_heard(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        let recent = self.transfer_classes();
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.heard = now;
        if peer.up || !peer.session.is_mutual() {
            return;
        }
        peer.up = true;
        let session = peer.session.peer_session();
        if core::mem::replace(&mut peer.up_session, session) == session {
            // The same session after a silence: what was said meanwhile is lost.
            peer.wanted += 1;
        }
        peer.hello_soon();
        peer.start_bulk(self.role == Role::Master, &self.table, recent);
        let (id, master) = (peer.id, peer.role == Role::Master);
        out.push(Action::Event(Event::PeerUp { peer: id, session }));
        if master && self.role != Role::Master {
            // What this node holds from a time as master is worth less than anything the master says.
            self.hand_over(now, id, Some(0));
        }
    }

    fn peer_down(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if core::mem::take(&mut peer.up) {
            out.push(Action::Event(Event::PeerDown { peer: peer.id, silent: now.since(peer.heard) }));
        }
        peer.outbox.reset(&mut self.table);
        peer.inbox.release_all(&mut self.table);
        peer.inbox.rounds.clear();
        let id = peer.id;
        for slot in 0..self.table.slots() {
            if let Some(entry) = self.table.get_mut(slot) {
                entry.dirty &= !bit(id);
                entry.owed &= !bit(id);
                self.table.bury(slot);
            }
        }
        if self.role == Role::Master {
            self.adopt_from(now, id, out);
        }
    }

    fn on_peer_role(&mut self, now: Instant, index: usize, before: Role) {
        let Some(peer) = self.peers.get(index) else { return };
        let (id, role) = (peer.id, peer.role);
        self.relax_after_dual_mastership(before, role);
        if before != Role::Master && role == Role::Master && self.role != Role::Master {
            self.hand_over(now, id, None);
        }
    }

    /// What makes no event is read first, so that the flush covers it.
    fn on_flush(&mut self, now: Instant, out: &mut Vec<Action>) {
        let awaited = self.fetch_all(now, out);
        self.flushing = Some(Flush { asked: now, barrier: now, superseded: self.superseded(), awaited });
    }

    /// An answer has come that a flush may wait for; what it has changed is flushed, too.
    pub(super) fn flush_further(&mut self, now: Instant) {
        if let Some(flush) = self.flushing.as_mut().filter(|flush| flush.awaited > 0) {
            flush.awaited -= 1;
            flush.barrier = now;
        }
    }

    fn on_resync(&mut self) {
        let recent = self.transfer_classes();
        for peer in self.peers.iter_mut().filter(|peer| peer.up) {
            peer.wanted += 1;
            peer.start_bulk(self.role == Role::Master, &self.table, recent);
            peer.hello_soon();
        }
    }

    /// Does everything that is due.
    fn run(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.relax_after_freeze(now);
        self.run_relax(out);
        self.recent.note(now, self.clock);
        self.run_fetches(now, out);
        self.run_dump(now, out);
        self.run_purge(now, out);
        self.run_keep_alive(now, out);
        for index in 0..self.peers.len() {
            let silent = |peer: &&Peer| peer.up && now.since(peer.heard) >= self.peer_timeout;
            if self.peers.get(index).filter(silent).is_some() {
                self.peer_down(now, index, out);
            }
            self.run_proof(now, index);
            self.run_refresh(now, index);
            self.run_peer(now, index, out);
        }
        self.report_health(now, out);
        self.ran_at = now;
    }

    fn run_peer(&mut self, now: Instant, index: usize, out: &mut Vec<Action>) {
        let in_sync = self.health.in_sync;
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.review_links(now, out);
        peer.review_keys(&self.keyring, out);
        peer.review_mode(self.mode, out);
        let links_heard = peer.links.heard_set(now);
        let statement =
            Statement { clock: self.clock, role: self.role, in_sync, bulk_wanted: peer.wanted, links_heard };
        peer.send_hello_if_due(now, &self.keyring, &statement, self.hello_interval, out);
        if !peer.up {
            return;
        }
        peer.outbox.on_timer(now, &mut self.table);
        peer.inbox.on_timer(now, &mut self.table);
        peer.send_ack_if_due(now, out);
        peer.send_data(now, &mut self.table, &mut self.outgoing, out);
        if let Some(flows) = peer.outbox.take_transfer() {
            out.push(Action::Event(Event::BulkSent { peer: peer.id, flows }));
        }
    }

    /// The versions of the flows that a transfer sends first.
    pub(super) fn transfer_classes(&self) -> RecentVersions {
        RecentVersions { after: self.recent.since(), until: self.clock }
    }

    fn report_health(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut up = self.peers.iter().filter(|peer| peer.up).peekable();
        let peer_alive = up.peek().is_some();
        let in_sync = peer_alive && up.all(|peer| peer.is_in_sync(now));
        let flushed = self.look_for_flush(now, peer_alive);
        let changed =
            (peer_alive, in_sync, flushed) != (self.health.peer_alive, self.health.in_sync, self.health.flushed);
        if !changed && now.since(self.health_at) < HEALTH_GAP {
            return;
        }
        let health = SyncHealth { peer_alive, in_sync, lag: self.lag(now), flushed };
        self.health_at = now;
        if health != self.health {
            self.health = health;
            out.push(Action::Health(health));
        }
    }

    fn lag(&self, now: Instant) -> Duration {
        self.peers.iter().map(|peer| peer.outbox.lag(now)).max().unwrap_or_default()
    }

    fn superseded(&self) -> u64 {
        self.peers.iter().map(|peer| peer.outbox.superseded()).sum()
    }

    /// The time of the newest flush that has ended.
    fn look_for_flush(&mut self, now: Instant, peer_alive: bool) -> Instant {
        let superseded = self.superseded();
        let Some(flush) = &mut self.flushing else { return self.health.flushed };
        // A state of before was lost, and its flow waits as one that changed after: then that one is waited for, too.
        if superseded != flush.superseded {
            (flush.barrier, flush.superseded) = (now, superseded);
        }
        let Flush { asked, barrier, awaited, .. } = *flush;
        if peer_alive && awaited == 0 && self.peers.iter().all(|peer| peer.outbox.is_younger(now, now.since(barrier))) {
            self.flushing = None;
            return asked;
        }
        if now.since(asked) > FLUSH_MAX {
            self.flushing = None;
        }
        self.health.flushed
    }

    /// A lag that was reported, or that may be growing, is reported again.
    fn health_due(&self) -> Option<Instant> {
        let pending = self.peers.iter().any(|peer| peer.outbox.is_pending());
        let lag = (pending || !self.health.lag.is_zero()).then(|| self.health_at + HEALTH_GAP);
        earliest(lag, self.flushing.map(|_| self.ran_at + FLUSH_GAP))
    }
}
