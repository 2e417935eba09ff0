//! In quiet times, when nothing has gone wrong for a while, the tables are equal but for what has changed just now: nobody
//! has to wait for a repair.

use crate::conntrack::Number;
use crate::timeline::Note;
use crate::world::{SYNC, World};
use ha_common::role::Role;
use ha_common::sync::{Mode, Standing, VISIT_MAX};
use ha_common::time::Instant;
use std::time::Duration;

pub const AUDIT: Duration = Duration::from_millis(50);
/// So long after the last disturbance it is quiet: transfers have ended.
const QUIET: Duration = Duration::from_millis(1500);
/// What is older must have arrived: events, a frame, and its way are some milliseconds.
const ARRIVED: Duration = Duration::from_millis(100);
/// What a kernel has refused again and again is tried again within this.
pub(super) const TRIED_AGAIN: Duration = Duration::from_secs(VISIT_MAX as u64 + 1);

pub struct Calm {
    disturbed_at: Instant,
    was_calm: bool,
    pub audits: u64,
}

impl Calm {
    pub fn new(now: Instant) -> Self {
        Self { disturbed_at: now, was_calm: false, audits: 0 }
    }
}

impl World {
    /// Something goes wrong, or is put right.
    pub fn disturb(&mut self) {
        self.checks.calm.disturbed_at = self.now;
    }

    /// Compares the tables if it is quiet.
    pub fn audit(&mut self) {
        self.check_bounds();
        if !self.is_quiet() {
            self.disturb();
        }
        let calm = self.now.since(self.checks.calm.disturbed_at) >= QUIET;
        if std::mem::replace(&mut self.checks.calm.was_calm, calm) != calm {
            self.note(None, Note::Calm(calm));
        }
        if !calm {
            return;
        }
        self.checks.calm.audits += 1;
        let Some(master) = (0..self.hosts.len()).find(|node| self.is_told_master(*node)) else { return };
        for standby in (0..self.hosts.len()).filter(|node| *node != master) {
            for number in 0..self.options.sessions {
                self.compare(master, standby, number);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let now = self.now;
        let works = |host: &crate::host::Host| {
            let role = host.sync.as_ref().map(|sync| sync.role);
            let kernel = &host.conntrack;
            host.control_runs(now)
                && host.sync_runs(now)
                && host.health.in_sync
                && matches!(role, Some(Role::Master | Role::Backup))
                && !kernel.deaf
                && kernel.refused_percent == 0
                && !kernel.is_full()
                && !self.is_waiting(host)
                && kernel.socket.as_ref().is_some_and(|socket| !socket.lost)
                && host.sync.as_ref().is_some_and(|sync| sync.is_idle() && !sync.is_table_full())
                && host.link_up[SYNC]
                && host.link_up[0]
        };
        let masters = (0..self.hosts.len()).filter(|node| self.is_told_master(*node)).count();
        let links = self.paths[SYNC].is_clean() && (self.options.links == 1 || self.paths[0].is_clean());
        // Sockets that hold next to nothing lose frames by themselves.
        let roomy =
            self.options.datagram_room > 100 && self.options.window_frames > 100 && self.options.event_room > 100;
        let known = !self.checks.flows.lost_lately(now);
        known && masters == 1 && links && roomy && self.hosts.iter().all(works) && self.is_one_holder()
    }

    /// The engine knows that it lacks flows, which the kernel has refused.
    fn is_waiting(&self, host: &crate::host::Host) -> bool {
        let lately = |at| host.local(self.now).since(at) < TRIED_AGAIN;
        let lacks = |sync: &crate::sync_loop::SyncLoop| sync.engine.stats().flows_absent > 0;
        host.conntrack.refused_at.is_some_and(lately) && host.sync.as_deref().is_some_and(lacks)
    }

    /// Packets pass the master alone: nobody's are under way elsewhere.
    fn is_one_holder(&self) -> bool {
        let master = (0..self.hosts.len()).find(|node| self.is_told_master(*node));
        self.clients.holder.iter().all(|holder| *holder == master)
    }

    fn compare(&mut self, master: usize, standby: usize, number: Number) {
        let session = self.clients.sessions[number as usize];
        let settled = ARRIVED + self.options.min_age + self.options.write_cost * 64;
        // What the master's kernel ends need not be the client's session any more; what a standby's ends is restored.
        let ended = [master, standby].into_iter().filter_map(|node| self.checks.flows.ended_at(node, number)).max();
        let changed = ended.map_or(session.changed, |at| at.max(session.changed));
        if self.now.since(changed) < settled {
            return;
        }
        // Where nothing is repaired, only what happened in quiet times must have arrived.
        if self.options.mode != Mode::Ftfw && session.changed < self.checks.calm.disturbed_at + QUIET {
            return;
        }
        // Nor are copies kept alive: what ends by its own time ends on each node by that node's clock.
        let timeout = Duration::from_secs(session.flow(number).timeout.into());
        if self.options.mode == Mode::Notrack
            && self.now.since(session.changed) + settled + Duration::from_secs(5) > timeout
        {
            return;
        }
        let [theirs, copy] = [master, standby].map(|node| self.hosts[node].conntrack.mark(number));
        let overtaken = [master, standby].iter().any(|node| self.hosts[*node].conntrack.overtaken.contains(&number));
        // A state that only a reading of the table has told belongs to whose table that was, also after another took over.
        let unheard = self.hosts.iter().any(|host| host.conntrack.unheard.get(&number) == Some(&session.mark));
        if theirs == copy || overtaken || unheard {
            return;
        }
        // What has traffic on a standby belongs to it until packets change it at the master, and a third node has its state of it.
        let key = session.flow(number).key;
        let standing = |node: &usize| self.hosts[*node].sync.as_ref().and_then(|sync| sync.engine.standing(&key));
        let is_owners = |node: &usize| {
            let has_it = self.hosts[*node].conntrack.mark(number) == copy;
            *node != master && has_it && standing(node) == Some(Standing::Own)
        };
        if (0..self.hosts.len()).any(|node| is_owners(&node)) {
            return;
        }
        let since = self.now.since(changed);
        self.fail(
            "calm",
            format!("session {number}: state {theirs:?} at master {master}, {copy:?} at node {standby}, {since:?} after its last change"),
        );
    }

    /// No table, queue or window is beyond its bound.
    fn check_bounds(&mut self) {
        for node in 0..self.hosts.len() {
            let Some(sync) = &self.hosts[node].sync else { continue };
            let stats = sync.engine.stats();
            let held = stats.flows + stats.tombstones;
            if held > self.options.flows_max as u64 {
                self.fail("bounds", format!("node {node} holds {held} flows and tombstones"));
            }
            for peer in &stats.peers {
                let in_flight = peer.sent_sequence.saturating_sub(peer.acked_sequence);
                // Where nothing is acknowledged nothing is in flight.
                let unbounded = self.options.mode == Mode::Ftfw && in_flight > 1024;
                if unbounded || peer.backlog_flows > self.options.flows_max as u64 * 2 {
                    self.fail(
                        "bounds",
                        format!("node {node}: {in_flight} frames in flight, {} flows wait", peer.backlog_flows),
                    );
                }
            }
        }
    }
}
