//! What is written into a kernel's table is never older than what it replaces, and never brings back what has ended.
//!
//! Every state of every session has a number of its own (the mark), and the later one the higher. So it can be told whether
//! a write sets a flow back. That is right only if another node has the older state at that time, and its word counts
//! (a new master says what is: docs/architecture.md, decisions 3 and 4); it is wrong when the state is a message that was late.

use crate::conntrack::{Applied, Number, number as number_of};
use crate::timeline::Note;
use crate::world::World;
use ha_common::election::{HandOverPhase, PairTimes};
use ha_common::sync::Mode;
use ha_common::sync::flow::Flow;
use ha_common::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// States of one flow on one node that are remembered at most, and how long after they were replaced: a loop that has stood
/// still reads then what its peer had said before, however much has happened since.
const STATES_MAX: usize = 1000;
const REMEMBERED: Duration = Duration::from_secs(20);
/// What waits in a socket is read within this.
const UNREAD: Duration = Duration::from_millis(5);
/// What a peer had said so long before a loop stood still may be read after it: its kernel may have gone on without its daemon.
const BEFORE_STALL: Duration = Duration::from_millis(100);
/// After lost events the table is read within this: a pause between two readings, and the reading.
const REREAD: Duration = Duration::from_secs(6);

/// A state of a flow in a node's kernel.
#[derive(Clone, Copy)]
struct Held {
    mark: u32,
    /// Packets made it here; otherwise it was written for a peer.
    is_own: bool,
    /// Number of the event that told of it.
    event: u64,
    from: Instant,
    /// `None`: it is there now.
    until: Option<Instant>,
}

#[derive(Clone, Default)]
struct Record {
    held: VecDeque<Held>,
    /// This node's engine knows that the flow has ended, up to the state of this mark: it was told as master, or has deleted
    /// it. Zero: it knows of no end.
    deleted: u32,
    deleted_at: Instant,
}

pub struct Flows {
    /// By node and session.
    records: Vec<Vec<Record>>,
    /// When events of each node were last lost.
    lost_at: Vec<Option<Instant>>,
    pub excused: u64,
}

impl Flows {
    pub fn new(nodes: usize, sessions: u32) -> Self {
        Self {
            records: vec![vec![Record::default(); sessions as usize]; nodes],
            lost_at: vec![None; nodes],
            excused: 0,
        }
    }

    /// Whatever that engine knew is forgotten.
    pub fn process_ended(&mut self, node: usize) {
        self.records[node].iter_mut().for_each(|record| record.deleted = 0);
    }

    pub fn power_lost(&mut self, now: Instant, node: usize) {
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

    /// Did another node's kernel have this state at that time or later?
    fn is_held_elsewhere(&self, node: usize, number: Number, mark: u32, since: Instant) -> bool {
        let others = self.records.iter().enumerate().filter(|(other, _)| *other != node);
        let mut held = others.flat_map(|(_, records)| records[number as usize].held.iter());
        held.any(|held| held.mark == mark && held.until.is_none_or(|until| until >= since))
    }
}

impl Record {
    fn close(&mut self, now: Instant) {
        if let Some(last) = self.held.back_mut() {
            last.until = last.until.or(Some(now));
        }
    }

    fn delete(&mut self, now: Instant, last: u32) {
        if last > self.deleted {
            (self.deleted, self.deleted_at) = (last, now);
        }
    }

    fn open(&mut self, now: Instant, mark: u32, event: Option<u64>) {
        self.close(now);
        let is_old = |held: &Held| held.until.is_some_and(|until| now.since(until) > REMEMBERED);
        while self.held.len() >= STATES_MAX || self.held.front().is_some_and(is_old) {
            self.held.pop_front();
        }
        self.held.push_back(Held { mark, is_own: event.is_some(), event: event.unwrap_or(0), from: now, until: None });
    }
}

impl World {
    /// Packets have made or changed a flow on a node.
    pub fn passed(&mut self, node: usize, number: Number, mark: u32) {
        let now = self.now;
        if self.hosts[node].conntrack.socket.as_ref().is_none_or(|socket| socket.lost) {
            self.checks.flows.lost_at[node] = Some(now);
        }
        let event = self.hosts[node].conntrack.events;
        self.checks.flows.records[node][number as usize].open(now, mark, Some(event));
    }

    /// The kernel of a node has ended a flow by itself.
    pub fn ended(&mut self, node: usize, number: Number) {
        let now = self.now;
        // Elsewhere the flow is somebody else's, and is restored.
        let is_known = self.is_told_master(node) && self.hosts[node].conntrack.socket.as_ref().is_some_and(|s| !s.lost);
        let record = &mut self.checks.flows.records[node][number as usize];
        let last = record.held.back().filter(|held| held.until.is_none()).map(|held| held.mark);
        record.close(now);
        if let Some(last) = last.filter(|_| is_known) {
            record.delete(now, last);
        }
    }

    /// An engine's writes came about.
    pub fn written(&mut self, node: usize, applied: &[Applied]) {
        let now = self.now;
        let mut deleted_just_now: Vec<Number> = Vec::new();
        for write in applied {
            if write.before == write.after {
                continue;
            }
            self.note(node, Note::Write(write.number, write.before, write.after));
            match (write.before, write.after) {
                (Some(before), Some(after)) if after < before => self.check_set_back(node, write, before, after),
                (None, Some(after)) if !deleted_just_now.contains(&write.number) => {
                    self.check_revival(node, write, after)
                }
                (Some(_) | None, Some(_) | None) => {}
            }
            let session = self.clients.sessions[write.number as usize];
            let record = &mut self.checks.flows.records[node][write.number as usize];
            match write.after {
                Some(after) => record.open(now, after, None),
                None => {
                    record.close(now);
                    let last = write.before.and_then(|before| session.last_mark_of(before));
                    record.delete(now, last.unwrap_or_default());
                    // Making a flow anew takes a deletion and a creation.
                    deleted_just_now.push(write.number);
                }
            }
        }
    }

    fn check_set_back(&mut self, node: usize, write: &Applied, before: u32, after: u32) {
        let flows = &self.checks.flows;
        let record = &flows.records[node][write.number as usize];
        let Some(held) = record.held.back().copied() else { return };
        let from = if held.is_own { self.unaware_since(node, held.from) } else { self.said_since(node, held.from) };
        // The engine's clock is the host's.
        let asked = self.world_time(node, write.asked.at);
        let is_held = flows.is_held_elsewhere(node, write.number, after, from.min(asked));
        // Packets made it while the write was under way to the kernel, or so lately that the engine had not read of it.
        let is_overtaken = held.is_own && held.event > write.asked.events;
        // Of a state whose event was lost the engine does not know before it has read the table again.
        let is_unheard = flows.lost_at[node].is_some_and(|lost| held.from <= lost && self.now.since(lost) < REREAD);
        // Where frames may be lost for good nothing is promised but that refreshes put it right.
        if is_unheard || is_overtaken {
            self.checks.flows.excused += 1;
            self.hosts[node].conntrack.overtaken.insert(write.number);
        } else if self.options.mode == Mode::Ftfw && !is_held && !self.is_known_elsewhere(node, write.number, after) {
            let number = write.number;
            self.fail("older state", format!("node {node}, session {number}: state {before} is set back to {after}"));
        }
    }

    /// What packets did here is concurrent to what a peer has said and this engine has not read yet, because it was under way
    /// or because the loop stood still. Which of both is the later only the versions say, and they order what knows of each
    /// other (docs/architecture.md, decision 3).
    fn unaware_since(&self, node: usize, at: Instant) -> Instant {
        let slowest = self.paths.iter().map(|path| path.delay_max).max().unwrap_or_default();
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
        let record = &self.checks.flows.records[node][number as usize];
        if session.last_mark_of(mark).is_none() || mark > record.deleted {
            return;
        }
        let key = session.flow(number).key;
        let record = record.clone();
        // An owner that is gone, and not missed yet, is believed to have it.
        let is_owner_gone = self.hosts.iter().any(|host| !host.sync_runs(self.now));
        if is_owner_gone || self.options.mode != Mode::Ftfw {
            self.checks.flows.excused += 1;
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

    /// A backup takes what it is offered. When everything of before the offer was flushed, it holds that.
    pub fn check_hand_over(&mut self, node: usize) {
        let giver = (0..self.hosts.len()).filter(|other| *other != node).find_map(|other| {
            let over = self.hosts[other].control.as_ref()?.election.stats().hand_over?;
            (over.phase == HandOverPhase::Offered).then_some((other, over.since))
        });
        let Some((giver, since)) = giver else { return };
        let (from, to) = (&self.hosts[giver], &self.hosts[node]);
        let flushed = from.health.flushed >= since && from.health.in_sync;
        let lossless = from.conntrack.lost_events == 0 && to.conntrack.refused_writes == 0 && !to.conntrack.is_full();
        // Before the end of the time for it nothing is offered that is not flushed.
        let waited = from.local(self.now).since(since);
        if from.health.flushed < since && waited < PairTimes::default().drain {
            return self
                .fail("hand-over", format!("node {giver} offers the group {waited:?} after it began to, unflushed"));
        }
        if !flushed || !lossless || self.options.mode != Mode::Ftfw || self.may_overflow() {
            return;
        }
        let since = self.world_time(giver, since);
        let missing = from.conntrack.entries.iter().find(|(number, entry)| {
            let session = self.clients.sessions[**number as usize];
            // What packets made on both is concurrent.
            let record = &self.checks.flows.records[node][**number as usize];
            let concurrent = record.held.back().is_some_and(|held| held.is_own);
            let settled = session.is_open && session.node == giver && session.changed < since;
            settled && !concurrent && to.conntrack.mark(**number).is_none_or(|mark| mark < entry.flow.mark)
        });
        if let Some((number, entry)) = missing {
            let (had, has) = (entry.flow.mark, to.conntrack.mark(*number));
            self.fail("hand-over", format!("session {number}: state {had} at node {giver}, {has:?} at node {node}"));
        }
    }

    /// When a host's clock showed this.
    fn world_time(&self, node: usize, local: Instant) -> Instant {
        let host = &self.hosts[node];
        self.now - host.local(self.now).since(local)
    }
}
