//! Doing what the engine wants: writes in batches, then datagrams, then the rest.

use super::SyncLoop;
use super::writing::{Report, Writing};
use crate::clock;
use crate::conntrack::dump::Selection;
use crate::conntrack::writer::Write;
use crate::mailbox::PostError;
use crate::peer::Outgoing;
use crate::request::ControlRequest;
use ha_common::role::SyncHealth;
use ha_common::sync::flow::FlowKey;
use ha_common::sync::{Action, Event, Input, PeerId, WriteKind};
use ha_common::wire::frame::{Header, Kind};
use std::collections::VecDeque;

/// Rounds of actions per call: an input, the failures of its writes, and what follows from those. More wait for
/// the next wake-up.
const ROUNDS_MAX: usize = 4;

/// Actions sorted by who does them; the memory is reused.
#[derive(Default)]
pub(super) struct Pending {
    writes: Vec<Write>,
    datagrams: Vec<Outgoing>,
    /// Acknowledgements that wait until so many writes are done: no more than frames are taken meanwhile.
    held: VecDeque<(u64, Outgoing)>,
    /// A dump is to begin when so many writes are done.
    dump_after: Option<u64>,
    /// Not yet taken by the control loop; only the newest counts.
    health: Option<SyncHealth>,
    /// The epoch that the peer accepts: the newest counts, too.
    key_in_use: Option<u8>,
}

impl SyncLoop {
    /// Does the actions that the engine has asked for, and tells it what failed.
    ///
    /// Within a round all writes come before all datagrams: an acknowledgement must not leave before the write
    /// that it stands for is done, and a write that is early does no harm.
    pub(super) fn execute(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.actions.is_empty() {
                break;
            }
            let actions = std::mem::take(&mut self.actions);
            for action in actions {
                self.sort(action);
            }
            self.write();
            self.sessions.tell(&self.engine);
            self.send();
        }
        self.post_health();
        self.post_key();
    }

    /// Takes note of batches of writes that have ended, and sends what waited for them.
    pub(super) fn on_written(&mut self) {
        self.with_reports(|writing, sink| writing.collect(sink));
        self.start_dump_if_due();
        self.send();
    }

    /// Actions wait that the last call did not get to.
    pub(super) fn is_busy(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Sends what need not wait, and the acknowledgements whose writes are done.
    fn send(&mut self) {
        let Self { pending: Pending { datagrams, held, .. }, writing, socket, .. } = self;
        if writing.is_busy() {
            let is_ack =
                |datagram: &mut Outgoing| Header::parse(&datagram.bytes).is_ok_and(|header| header.kind == Kind::Ack);
            held.extend(datagrams.extract_if(.., is_ack).map(|ack| (writing.submitted(), ack)));
        }
        while held.front().is_some_and(|(writes, _)| *writes <= writing.completed()) {
            datagrams.extend(held.pop_front().map(|(_, ack)| ack));
        }
        socket.send(datagrams);
        datagrams.clear();
        // The kernel may have found some too large.
        self.tell_frame_bytes();
    }

    fn sort(&mut self, action: Action) {
        match action {
            Action::Create(flow) => self.order(flow.key, Write::Create(flow)),
            Action::Update(flow) => self.order(flow.key, Write::Update(flow)),
            Action::Delete { key, id } => self.order(key, Write::Delete { key, id }),
            Action::Send { peer, links, datagram } => {
                self.pending.datagrams.push(Outgoing { peer: usize::from(peer.0), links, bytes: datagram });
            }
            Action::Relax(key) => self.pending.writes.push(Write::Relax(key)),
            Action::Expect { master, expectation } => self.pending.writes.push(Write::Expect { master, expectation }),
            Action::Unexpect { master, expectation } => {
                self.pending.writes.push(Write::Unexpect { master, expectation });
            }
            Action::Fetch(key) => self.pending.writes.push(Write::Fetch(key)),
            Action::Dump => {
                let ordered = self.writing.submitted() + self.pending.writes.len() as u64;
                self.pending.dump_after = Some(ordered);
            }
            Action::Health(health) => self.pending.health = Some(health),
            Action::Event(event) => {
                if let Event::KeyChanged { to, .. } = event {
                    self.pending.key_in_use = Some(to);
                }
                self.log(event);
            }
        }
    }

    fn order(&mut self, key: FlowKey, write: Write) {
        let Self { admission, engine, actions, pending, .. } = self;
        if admission.may_write(clock::now(), &key, engine, actions) {
            pending.writes.push(write);
        }
    }

    fn write(&mut self) {
        let mut writes = std::mem::take(&mut self.pending.writes);
        self.with_reports(|writing, sink| writing.submit(&mut writes, sink));
        self.pending.writes = writes;
        self.start_dump_if_due();
    }

    /// Lets something be done with the kernel's table, and tells the engine what it reports.
    fn with_reports(&mut self, act: impl FnOnce(&mut Writing, &mut dyn FnMut(Report))) {
        let Self { writing, engine, actions, admission, .. } = self;
        let now = clock::now();
        act(writing, &mut |report| match report {
            Report::Failed { key, write, errno } => {
                engine.handle(now, Input::WriteFailed { key: &key, write, errno }, actions);
            }
            // What lives in the kernel counts as if it had been heard of just now. Later writes of the same batch may have met it.
            Report::Kept(flow) => {
                engine.handle(now, Input::Changed(&flow), actions);
                engine.handle(now, Input::Reread, actions);
            }
            Report::Removed(flow) => {
                // Its owner may want it back: then later, when the flow that needed its place may have gone.
                let failed = Input::WriteFailed { key: &flow.key, write: WriteKind::Create, errno: libc::EEXIST };
                engine.handle(now, failed, actions);
                engine.handle(now, Input::Destroyed { key: &flow.key, id: flow.id }, actions);
            }
            Report::Fetched { key, flow } => {
                engine.handle(now, Input::Fetched { key: &key, flow: flow.as_ref() }, actions);
            }
            // A dump finds what is missing.
            Report::Unknown => admission.events_lost(now, engine, actions),
        });
    }

    /// What was written before a dump was asked for is to be in it: what it does not list counts as gone, and what it lists as
    /// there.
    fn start_dump_if_due(&mut self) {
        if self.pending.dump_after.is_some_and(|writes| writes <= self.writing.completed()) {
            self.pending.dump_after = None;
            self.start_dump();
        }
    }

    fn start_dump(&mut self) {
        let now = clock::now();
        // Whatever the engine holds must be listed, or counts as gone; a peer's flows need not pass this node's filter.
        let selection = match self.engine.stats().flows_peer {
            0 => Selection::of(self.admission.filter()),
            _ => Selection::default(),
        };
        match self.dump.start_selected(&selection) {
            Ok(()) => self.engine.handle(now, Input::DumpBegin, &mut self.actions),
            Err(error) => {
                tracing::warn!(%error, "cannot dump the conntrack table");
                self.engine.handle(now, Input::DumpEnd { complete: false }, &mut self.actions);
            }
        }
    }

    /// The second part of a dump.
    pub(super) fn start_expectations(&mut self) {
        if let Err(error) = self.expectations.start() {
            tracing::warn!(%error, "cannot dump the expectations");
            self.engine.handle(clock::now(), Input::DumpEnd { complete: false }, &mut self.actions);
        }
    }

    /// Tells the control loop the newest health; if its mailbox is full, at the next wake-up.
    fn post_health(&mut self) {
        let Some(health) = self.pending.health else { return };
        match self.control.post(ControlRequest::Health(health)) {
            // Without a control loop there is nobody to tell.
            Ok(()) | Err(PostError::Closed) => self.pending.health = None,
            Err(PostError::Full) => {}
        }
    }

    /// Tells the control loop which secret heartbeats are to be keyed with. It wants to know in a pair alone: elsewhere there
    /// are none.
    fn post_key(&mut self) {
        let Some(epoch) = self.pending.key_in_use else { return };
        match self.control.post(ControlRequest::KeyInUse(epoch)) {
            Ok(()) | Err(PostError::Closed) => self.pending.key_in_use = None,
            Err(PostError::Full) => {}
        }
    }

    fn log(&self, event: Event) {
        match event {
            Event::PeerUp { peer, session } => {
                tracing::info!(peer = self.peer_name(peer), session = format_args!("{session:016x}"), "peer is up");
            }
            Event::LinkChanged { peer, from, to } => {
                let (from, to) = (self.link_name(from), self.link_name(to));
                tracing::warn!(peer = self.peer_name(peer), from, to, "state takes another link");
            }
            Event::KeyChanged { peer, from, to } => {
                tracing::info!(peer = self.peer_name(peer), from, to, "another secret is in use with the peer");
            }
            Event::ModeDiffers { peer, mode } => {
                let (peer, theirs, own) = (self.peer_name(peer), mode.name(), self.config.sync.mode.mode.name());
                tracing::warn!(
                    peer,
                    theirs,
                    own,
                    "the peer replicates in another mode: write the same [sync] mode on both"
                );
            }
            Event::KeyConflict { peer, epoch } => {
                let peer = self.peer_name(peer);
                tracing::error!(
                    peer,
                    epoch,
                    "the peer has another secret of this epoch: it is not used (copy the secret file to the peer)"
                );
            }
            Event::PeerDown { peer, silent } => {
                let silent_ms = silent.as_secs_f64() * 1e3;
                tracing::warn!(peer = self.peer_name(peer), silent_ms, "peer is down");
            }
            Event::BulkSent { peer, flows } => {
                tracing::info!(peer = self.peer_name(peer), flows, "the whole table was sent");
            }
            Event::BulkReceived { peer, flows, purged } => {
                tracing::info!(peer = self.peer_name(peer), flows, purged, "the whole table was received");
            }
            Event::TablesDiffer { peer, buckets } => {
                tracing::warn!(
                    peer = self.peer_name(peer),
                    buckets,
                    "the peer's copies differ in some flows: they are sent again"
                );
            }
            Event::RepairSent { peer, flows } => {
                tracing::info!(peer = self.peer_name(peer), flows, "flows that differed were sent again");
            }
            Event::RepairReceived { peer, flows, purged } => {
                tracing::info!(peer = self.peer_name(peer), flows, purged, "flows that differed were received again");
            }
            Event::EventsLost => tracing::warn!("conntrack events were lost: the table is read again"),
            Event::TableFull => {
                let flows_max = self.config.sync.flows_max;
                tracing::error!(flows_max, "the flow table is full: further flows are not replicated");
            }
        }
    }

    /// The configured name of a peer.
    pub(super) fn peer_name(&self, peer: PeerId) -> &str {
        let node = self.peers.get(usize::from(peer.0)).map(|node| usize::from(node.0));
        node.and_then(|node| self.config.nodes.get(node)).map_or("?", |node| node.name.as_str())
    }
}
