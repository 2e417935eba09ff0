//! The state machine itself: inputs are dispatched, then everything that is due is done.

use super::bulk::RecentVersions;
use super::digest::digest_key;
use super::expect::{EarlyExpectations, ExpectationDump};
use super::fetch::Fetches;
use super::health::Flush;
use super::keepalive::Wheel;
use super::modes::Mode;
use super::peer::{Peer, bit};
use super::purge::Remains;
use super::recent::Recent;
use super::reconcile::Dump;
use super::retries::Retries;
use super::seal::Keyring;
use super::session::Statement;
use super::strays::Strays;
use super::table::{Owner, Slot, Table};
use super::{Action, Config, Event, Input, PeerId, Stats};
use crate::proto;
use crate::reason::DropReason;
use crate::role::{NodeId, Role, SyncHealth};
use crate::sync::flow::Flow;
use crate::time::{Instant, earliest};
use core::time::Duration;

/// The masks of an entry have a bit per peer.
const PEERS_MAX: usize = 8;
/// Less cannot hold the largest single change; more is not a UDP payload.
const FRAME_BYTES_MIN: usize = 1200;
const FRAME_BYTES_MAX: usize = 65_000;
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
    /// The number of this node's newest mastership among those of all nodes, as far as is known.
    pub(super) term: u64,
    /// What it showed when this node last became master: later versions are of this mastership.
    pub(super) mastership: u64,
    /// A mastership after that one begins with this at least; zero where masterships are not counted.
    pub(super) later_from: u64,
    pub(super) table: Table,
    pub(super) peers: Vec<Peer>,
    pub(super) dump: Dump,
    pub(super) expectation_dump: ExpectationDump,
    pub(super) early_expectations: EarlyExpectations,
    pub(super) fetches: Fetches,
    pub(super) wheel: Wheel,
    pub(super) retries: Retries,
    pub(super) recent: Recent,
    pub(super) strays: Strays,
    /// What a mastership left behind and nobody has judged yet.
    pub(super) remains: Option<Remains>,
    /// When a master's word is applied to what nobody answers for any more.
    pub(super) orphans_due: Option<Instant>,
    /// The next slot whose TCP windows are to be opened.
    pub(super) relaxing: Option<Slot>,
    pub(super) full_reported: bool,
    pub(super) counters: Counters,
    refused: [u64; DropReason::COUNT],
    pub(super) health: SyncHealth,
    pub(super) health_at: Instant,
    pub(super) flushing: Option<Flush>,
    /// When everything due was last done, and what the clock showed then.
    pub(super) ran_at: Instant,
    pub(super) clock_ran: u64,
    /// Reused memory: an opened body, the message in it, the message being built.
    pub(super) body: Vec<u8>,
    pub(super) incoming: proto::Data,
    outgoing: proto::Data,
}

impl Engine {
    /// An engine that has done nothing yet. `seed` hides the order of the hash table and spreads timers; it
    /// decides nothing else. Peers beyond the eighth are ignored; the frame size is clamped to 1200..=65000.
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
            term: 0,
            mastership: 0,
            later_from: 0,
            table: Table::new(seed, digest_key(&config.cluster), peers.len(), config.flows_max),
            peers,
            dump: Dump::new(),
            expectation_dump: ExpectationDump::default(),
            early_expectations: EarlyExpectations::default(),
            fetches: Fetches::default(),
            wheel: Wheel::new(),
            retries: Retries::default(),
            recent: Recent::default(),
            strays: Strays::default(),
            remains: None,
            orphans_due: None,
            relaxing: None,
            full_reported: false,
            counters: Counters::default(),
            refused: [0; DropReason::COUNT],
            health: SyncHealth::default(),
            health_at: Instant(0),
            flushing: None,
            ran_at: Instant(0),
            clock_ran: 0,
            body: Vec::new(),
            incoming: proto::Data::default(),
            outgoing: proto::Data::default(),
        }
    }

    /// Takes one input and appends what is to be done, in order. Total: never blocks, never panics.
    ///
    /// Inputs that come in thousands are only taken note of, and so is what comes with them: what is due after them is done with
    /// the next [`Input::Timer`], for which [`Engine::poll_at`] then asks at once.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Action>) {
        let is_only_noted = match input {
            Input::Datagram { .. }
            | Input::Changed(_)
            | Input::Destroyed { .. }
            | Input::Dumped(_)
            | Input::Withdraw { .. }
            | Input::Reread
            | Input::Term(_)
            | Input::DumpedExpectation { .. }
            | Input::Expected { .. }
            | Input::ExpectationGone { .. }
            | Input::Fetched { .. }
            // Heard between events: changes of role that wait behind them are to be known before the peers are told anything.
            | Input::EventsLost => true,
            Input::Timer
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
        let is_role = matches!(input, Input::Role(_));
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
            Input::Term(term) => self.term = term,
            Input::Link { link, up } => self.peers.iter_mut().for_each(|peer| peer.links.set_carrier(link, up)),
            Input::FrameBytes(bytes) => self.on_frame_bytes(bytes),
            Input::Flush => self.on_flush(now, out),
            Input::Resync => self.on_resync(),
            Input::Withdraw { key } => self.on_withdraw(now, key),
            Input::Retain(filter) => self.on_retain(now, filter),
            Input::Reread => self.on_reread(),
            Input::Keys(keys) => self.on_keys(keys),
        }
        if !is_only_noted {
            let clock_ran = self.clock_ran;
            self.run(now, out);
            // Changes of role that waited follow each other: what was read before the first may have happened in any of them.
            if is_role {
                self.clock_ran = clock_ran;
            }
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
            self.orphans_due,
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
            flows_absent: counts.absent,
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
        self.run_orphans(now, out);
        self.run_retries(now, out);
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
        (self.ran_at, self.clock_ran) = (now, self.clock);
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
}
