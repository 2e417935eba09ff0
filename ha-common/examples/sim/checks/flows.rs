//! What is written into a kernel's table is never older than what it replaces, and never brings back what has ended.
//!
//! Every state of every session has a number of its own (the mark), and the later one the higher. So it can be told whether
//! a write sets a flow back. That is right only if another node has the older state at that time, or has not heard what became of
//! it, and its word counts (a new master says what is: docs/architecture.md, decisions 3 and 4); it is wrong when the state is a
//! message that was late.

use super::record::{Held, Record};
use crate::conntrack::{Applied, Number, number as number_of};
use crate::timeline::Note;
use crate::world::World;
use ha_common::sync::Mode;
use ha_common::sync::flow::Flow;
use ha_common::time::Instant;
use std::time::Duration;

/// What waits in a socket is read within this.
const UNREAD: Duration = Duration::from_millis(5);
/// What a peer had said so long before a loop stood still may be read after it: its kernel may have gone on without its daemon.
const BEFORE_STALL: Duration = Duration::from_millis(100);
/// Who is the only master for so long has heard what was said before.
const ALONE: Duration = Duration::from_secs(1);
/// After lost events the table is read within this: a pause between two readings, and the reading.
const REREAD: Duration = Duration::from_secs(6);

pub struct Flows {
    /// By node and session.
    records: Vec<Vec<Record>>,
    /// When events of each node were last lost.
    lost_at: Vec<Option<Instant>>,
    /// When each engine last took itself for a master.
    master_at: Vec<Instant>,
    /// When each was last a master beside another.
    rival_at: Vec<Instant>,
    /// Since when its process runs.
    runs_since: Vec<Instant>,
    /// When each host last lost power.
    dark_at: Vec<Instant>,
    /// When some engine last began to miss a peer; `true`: it still does.
    parted: (Instant, bool),
    pub excused: u64,
}

impl Flows {
    pub fn new(nodes: usize, sessions: u32) -> Self {
        Self {
            records: vec![vec![Record::default(); sessions as usize]; nodes],
            lost_at: vec![None; nodes],
            master_at: vec![Instant(0); nodes],
            rival_at: vec![Instant(0); nodes],
            runs_since: vec![Instant(0); nodes],
            dark_at: vec![Instant(0); nodes],
            parted: (Instant(0), true),
            excused: 0,
        }
    }

    /// Whatever that engine knew is forgotten.
    pub fn process_ended(&mut self, now: Instant, node: usize) {
        self.runs_since[node] = now;
        for record in &mut self.records[node] {
            record.deleted = 0;
            record.believe(now, None);
        }
    }

    pub fn is_master(&mut self, now: Instant, node: usize) {
        self.master_at[node] = now;
        if let Some(rival) = (0..node).find(|other| self.master_at[*other] == now) {
            (self.rival_at[node], self.rival_at[rival]) = (now, now);
        }
    }

    pub fn hears_all(&mut self, now: Instant, hears: bool) {
        let (at, parted) = self.parted;
        self.parted = (if !hears && !parted { now } else { at }, !hears);
    }

    /// No other node was master since then.
    fn is_only_master_since(&self, node: usize, since: Instant) -> bool {
        self.master_at.iter().enumerate().all(|(other, at)| other == node || *at < since)
    }

    pub fn power_lost(&mut self, now: Instant, node: usize) {
        self.dark_at[node] = now;
        self.records[node].iter_mut().for_each(|record| record.close(now));
    }

    /// Events of a node were lost so lately that its table may not have been read again.
    pub fn lost_lately(&self, now: Instant) -> bool {
        self.lost_at.iter().flatten().any(|lost| now.since(*lost) < REREAD)
    }

    /// When this node's kernel has ended the flow, if it has it no more.
    pub fn ended_at(&self, node: usize, number: Number) -> Option<Instant> {
        self.records[node][number as usize].held.back()?.until
    }

    /// When this host last lost power.
    pub(super) fn dark_at(&self, node: usize) -> Instant {
        self.dark_at[node]
    }

    /// When this node's kernel, or an operator, last ended the flow.
    pub(super) fn last_ended_at(&self, node: usize, number: Number) -> Instant {
        self.records[node][number as usize].ended_at
    }

    /// The state that this node's kernel had last, if packets made it there.
    pub(super) fn own_last(&self, node: usize, number: Number) -> Option<u32> {
        self.records[node][number as usize].held.back().filter(|held| held.is_own).map(|held| held.mark)
    }

    /// This node's kernel has, or had, that state.
    pub(super) fn has_held(&self, node: usize, number: Number, mark: u32) -> bool {
        self.records[node][number as usize].held.iter().any(|held| held.mark == mark)
    }

    /// Did another node have this state at that time or later?
    fn is_held_elsewhere(&self, node: usize, number: Number, mark: u32, since: Instant) -> bool {
        let mut others = self.records.iter().enumerate().filter(|(other, _)| *other != node);
        others.any(|(_, records)| records[number as usize].has_since(mark, since))
    }
}

impl World {
    /// Packets have made or changed a flow on a node.
    pub fn passed(&mut self, node: usize, number: Number, mark: u32) {
        let now = self.now;
        if self.hosts[node].conntrack.socket.as_ref().is_none_or(|socket| socket.lost) {
            self.checks.flows.lost_at[node] = Some(now);
        }
        let (event, is_heard) =
            (self.hosts[node].conntrack.events, !self.hosts[node].conntrack.is_unheard(number, mark));
        let record = &mut self.checks.flows.records[node][number as usize];
        record.open(now, mark, Some(event));
        if is_heard {
            record.believe(now, Some(mark));
        }
    }

    /// The kernel of a node has ended a flow by itself.
    pub fn ended(&mut self, node: usize, number: Number) {
        let now = self.now;
        // Elsewhere the flow is somebody else's, and is restored.
        let is_heard = self.is_heard(node);
        let is_known = self.is_told_master(node) && is_heard;
        let event = self.hosts[node].conntrack.events;
        let record = &mut self.checks.flows.records[node][number as usize];
        let last = record.held.back().filter(|held| held.until.is_none()).map(|held| held.mark);
        record.close(now);
        record.ended_at = now;
        if is_heard {
            record.believe(now, None);
        }
        if let Some(last) = last.filter(|_| is_known) {
            record.delete(now, last);
            record.ended_event = event;
        }
    }

    /// An engine has read its kernel's table, which it began to do when its clock showed this.
    pub fn table_read(&mut self, node: usize, begun: Instant) {
        let (now, begun) = (self.now, self.world_time(node, begun));
        self.checks.flows.records[node].iter_mut().for_each(|record| record.was_read(now, begun));
    }

    /// And so has an operator.
    pub fn ended_by_operator(&mut self, node: usize, number: Number) {
        let (now, is_heard) = (self.now, self.is_heard(node));
        let record = &mut self.checks.flows.records[node][number as usize];
        record.close(now);
        record.ended_at = now;
        if is_heard {
            record.believe(now, None);
        }
    }

    /// The last event of this kernel waits for its loop, and was not lost.
    fn is_heard(&self, node: usize) -> bool {
        self.hosts[node].conntrack.socket.as_ref().is_some_and(|socket| !socket.lost)
    }

    /// An engine's writes came about.
    pub fn written(&mut self, node: usize, applied: &[Applied]) {
        let now = self.now;
        let mut deleted_just_now: Vec<Number> = Vec::new();
        for (at, write) in applied.iter().enumerate() {
            if write.before == write.after {
                let record = &mut self.checks.flows.records[node][write.number as usize];
                match write.refused {
                    Some(mark) => record.refuse(now, mark),
                    None => record.believe(now, write.after),
                }
                continue;
            }
            self.note(node, Note::Write(write.number, write.before, write.after));
            match (write.before, write.after) {
                (Some(before), Some(after)) if after < before => {
                    // Written over in the same batch by what the engine knows by now: nobody has seen it.
                    let mut later = applied.iter().skip(at + 1).filter(|later| later.number == write.number);
                    if later.all(|later| later.after.is_none_or(|later| later < before)) {
                        self.check_set_back(node, write, before, after);
                    }
                }
                (None, Some(after)) if !deleted_just_now.contains(&write.number) => {
                    // Deleted again in the same batch, as the engine has wanted since: nobody has seen it.
                    let mut later = applied.iter().skip(at + 1).filter(|later| later.number == write.number);
                    if later.all(|later| later.after.is_some()) {
                        self.check_revival(node, write, after);
                    }
                }
                (Some(_) | None, Some(_) | None) => {}
            }
            let session = self.clients.sessions[write.number as usize];
            let record = &mut self.checks.flows.records[node][write.number as usize];
            match write.after {
                Some(after) => {
                    record.open(now, after, None);
                    record.believe(now, Some(after));
                }
                None => {
                    record.close(now);
                    record.believe(now, None);
                    let last = write.before.and_then(|before| session.last_mark_of(before));
                    record.delete(now, last.unwrap_or_default());
                    // Making a flow anew takes a deletion and a creation.
                    deleted_just_now.push(write.number);
                    write.refused.into_iter().for_each(|mark| record.refuse(now, mark));
                }
            }
        }
        for write in applied.iter().filter(|write| deleted_just_now.contains(&write.number)) {
            self.check_wiped(node, write);
        }
    }

    /// A master's engine deletes nothing that lives: the newest state of a session that no kernel has ended.
    fn check_wiped(&mut self, node: usize, write: &Applied) {
        let number = write.number;
        let session = self.clients.sessions[number as usize];
        let engine = self.hosts[node].sync.as_ref().map(|sync| &sync.engine);
        // The engine has it in another state, which the kernel refused to create: what waited in the socket of a loop that stood still is
        // of the time before.
        let is_replaced = engine.is_some_and(|engine| engine.standing(&session.flow(number).key).is_some());
        let since = if is_replaced { self.said_since(node, self.now) } else { self.now } - ALONE;
        let is_newest = session.is_open && write.before == Some(session.mark) && write.after.is_none();
        let flows = &self.checks.flows;
        // Before the only master was so for a while, transfers and removals of the other's time may be under way.
        let is_settled = flows.master_at[node] >= self.now - UNREAD && flows.is_only_master_since(node, since);
        // Of an end on another node while the two did not hear each other this one knew nothing: that is concurrent, and the
        // versions decide. A silence is noticed only after a while.
        let unheard_from = flows.parted.0 - (self.options.peer_timeout + ALONE);
        let unknown_from = unheard_from.min(session.changed - ALONE);
        let ended = |records: &Vec<Record>| records[number as usize].ended_at >= unknown_from;
        let is_there = self.hosts[node].conntrack.mark(number).is_some();
        let returns = self.hosts[node].sync.as_ref().is_some_and(|sync| sync.creates(&session.flow(number).key));
        if !is_newest || !is_settled || is_there || returns || self.options.mode != Mode::Ftfw || self.may_overflow() {
            return;
        }
        if !flows.records.iter().any(ended) {
            self.fail("wiped", format!("master {node} deletes session {number} in its newest state {}", session.mark));
        }
    }

    fn check_set_back(&mut self, node: usize, write: &Applied, before: u32, after: u32) {
        let flows = &self.checks.flows;
        let record = &flows.records[node][write.number as usize];
        let Some(held) = record.held.back().copied() else { return };
        // The engine's clock is the host's. What it has asked for in one piece may be done in several.
        let asked = self.world_time(node, write.asked.at);
        let from = if held.is_own {
            self.unaware_since(node, held.from)
        } else {
            self.undecided_since(node, self.said_since(node, held.from.min(asked)))
        };
        let is_held = flows.is_held_elsewhere(node, write.number, after, from.min(asked));
        // Packets made it while the write was under way to the kernel, or so lately that the engine had not read of it.
        let is_overtaken = held.is_own && held.event > write.asked.events;
        // Of a state whose event was lost the engine does not know before it has read the table again.
        let is_unheard = self.hosts[node].conntrack.is_unheard(write.number, before)
            && flows.lost_at[node].is_some_and(|lost| held.from <= lost && self.now.since(lost) < REREAD);
        let is_undone = self.is_undone(node, write.number, (&held, after));
        // Where frames may be lost for good nothing is promised but that refreshes put it right.
        if is_unheard || is_overtaken {
            self.checks.flows.excused += 1;
            self.hosts[node].conntrack.overtaken.insert(write.number);
        } else if self.options.mode != Mode::Ftfw {
            // Whoever says it counts.
        } else if is_undone || !is_held && !self.is_known_elsewhere(node, write.number, after) {
            let number = write.number;
            self.fail("older state", format!("node {node}, session {number}: state {before} is set back to {after}"));
        }
    }

    /// Packets at the only master made a state of one that it had from its peer: the engine knew that one, and whoever says it once
    /// more, nobody's word is newer than what came of it.
    fn is_undone(&self, node: usize, number: Number, (held, after): (&Held, u32)) -> bool {
        let flows = &self.checks.flows;
        let record = &flows.records[node][number as usize];
        let earlier = record.held.iter().find(|earlier| earlier.mark == after && !earlier.is_own);
        // An engine that has begun since knows nothing of it, and says what it finds anew.
        let is_known = |earlier: &Held| flows.runs_since.iter().all(|since| *since < earlier.from);
        let is_unseen = self.hosts.iter().any(|host| host.conntrack.is_unheard(number, after));
        held.is_own
            && !is_unseen
            && earlier.is_some_and(is_known)
            && self.is_told_master(node)
            && flows.is_only_master_since(node, held.from)
            && !self.may_overflow()
    }

    /// What packets did here is concurrent to what a peer has said and this engine has not read yet, because it was under way
    /// or because the loop stood still. Which of both is the later only the versions say, and they order what knows of each
    /// other (docs/architecture.md, decision 3).
    fn unaware_since(&self, node: usize, at: Instant) -> Instant {
        let slowest = self.slowest();
        let under_way = at - (slowest + UNREAD);
        let host = &self.hosts[node];
        // Stalls that follow each other closely are one.
        host.stalls.iter().rev().fold(under_way, |since, (from, until)| {
            if since <= *until + UNREAD { since.min(*from - (slowest + BEFORE_STALL)) } else { since }
        })
    }

    /// What a loop writes for a peer just after it stood still was said while it did.
    fn said_since(&self, node: usize, at: Instant) -> Instant {
        let stalls = self.hosts[node].stalls.iter().rev();
        stalls.fold(at, |since, (from, until)| if since <= *until + UNREAD { since.min(*from) } else { since })
    }

    /// Two others were masters at once just now: what each of them has told is concurrent, and may be of one version. Which of both counts
    /// this node knows from the hellos with their roles, and may have heard one's alone. The master contradicts the other's word when it
    /// hears it.
    fn undecided_since(&self, node: usize, at: Instant) -> Instant {
        let under_way = at - (self.slowest() + UNREAD);
        let rivals = self.checks.flows.rival_at.iter().enumerate();
        let others = rivals.filter(|(other, rival_at)| *other != node && **rival_at >= under_way);
        if others.count() > 1 { under_way } else { at }
    }

    /// So long a word is under way at most.
    fn slowest(&self) -> Duration {
        self.paths.iter().map(|path| path.delay_max).max().unwrap_or_default()
    }

    /// Another engine knows the flow in this state, and no later one: its kernel has refused it, or its events were lost.
    fn is_known_elsewhere(&self, node: usize, number: Number, mark: u32) -> bool {
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != node);
        let mut engines = others.filter_map(|(_, host)| host.sync.as_ref()).map(|sync| &sync.engine);
        let is_it = |flow: &Flow| number_of(&flow.key) == number && flow.mark == mark;
        engines.any(|engine| engine.flows(usize::MAX).any(|(flow, _)| is_it(&flow)))
    }

    fn check_revival(&mut self, node: usize, write: &Applied, mark: u32) {
        let number = write.number;
        let session = self.clients.sessions[number as usize];
        let record = self.checks.flows.records[node][number as usize].clone();
        // It ended here while the write was under way to the kernel.
        let is_overtaken = record.deleted > 0
            && record.deleted_at == record.ended_at
            && record.ended_event > write.asked.events
            && self.options.mode == Mode::Ftfw;
        if session.last_mark_of(mark).is_none() || mark > record.deleted {
            // A later state than ended here comes back, and no engine knows of it.
            if session.last_mark_of(mark).is_some() && is_overtaken {
                self.hosts[node].conntrack.overtaken.insert(number);
            }
            return;
        }
        let key = session.flow(number).key;
        // An owner that is gone, or has started anew, and is not missed yet, is believed to have it.
        let is_owner_gone = self.hosts.iter().any(|host| !host.sync_runs(self.now)) || self.knows_former_peer(node);
        if is_owner_gone || self.options.mode != Mode::Ftfw {
            self.checks.flows.excused += 1;
            return;
        }
        if is_overtaken {
            self.checks.flows.excused += 1;
            self.hosts[node].conntrack.overtaken.insert(number);
            return;
        }
        let elsewhere = (0..self.hosts.len()).filter(|other| *other != node).any(|other| {
            let engine = self.hosts[other].sync.as_ref().map(|sync| &sync.engine);
            engine.is_some_and(|engine| engine.standing(&key).is_some())
        });
        let since = self.unaware_since(node, record.deleted_at);
        if elsewhere || self.checks.flows.is_held_elsewhere(node, number, mark, since) {
            self.checks.flows.excused += 1;
        } else {
            self.fail("revival", format!("node {node}, session {number}: state {mark} comes back, and no node has it"));
        }
    }

    /// This node's engine believes in a session of a peer whose process has ended: it has not heard of the next one yet.
    fn knows_former_peer(&self, node: usize) -> bool {
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != node);
        let sessions = others.map(|(_, host)| host.sync.as_ref().map(|sync| sync.session));
        let peers = self.hosts[node].sync.iter().flat_map(|sync| sync.engine.stats().peers);
        peers.zip(sessions).any(|(peer, session)| peer.alive && session != Some(peer.session))
    }

    /// When a host's clock showed this.
    pub(super) fn world_time(&self, node: usize, local: Instant) -> Instant {
        self.hosts[node].clock.showed(local)
    }
}
