//! What other threads ask of the loop: a role, another filter, secrets, its end.

use super::{PORTIONS_PER_WAKE, SyncLoop};
use crate::clock;
use crate::conntrack::writer::Conflict;
use crate::mailbox::Mailbox;
use crate::request::SyncRequest;
use ha_common::role::Role;
use ha_common::secret::ClusterKey;
use ha_common::sync::Input;
use ha_common::sync::filter::Filter;
use ha_common::time::Instant;
use std::time::Duration;

/// How long [`SyncRequest::Stop`] waits for the peers to acknowledge what is pending.
const DRAIN_MAX: Duration = Duration::from_millis(200);
/// Requests taken per wake-up.
const REQUESTS_PER_WAKE: usize = 16;
/// Portions of events taken before a change of role, at most: as many as a large socket buffer holds.
const PORTIONS_BEFORE_ROLE: usize = 1024;

impl SyncLoop {
    pub(super) fn on_mailbox(&mut self, mailbox: &Mailbox<SyncRequest>) {
        for _ in 0..REQUESTS_PER_WAKE {
            let Some(request) = mailbox.next() else { return };
            self.on_request(request);
        }
    }

    fn on_request(&mut self, request: SyncRequest) {
        let now = clock::now();
        match request {
            // Whoever asked may have gone away: that is no concern of this loop.
            SyncRequest::Status(reply) => drop(reply.send(self.status())),
            SyncRequest::Flows { limit, reply } => drop(reply.send(self.engine.flows(limit).collect())),
            SyncRequest::Role { role, term } => self.on_role(now, role, term),
            SyncRequest::Flush => {
                // What the kernel has told already belongs to it.
                self.on_events(PORTIONS_PER_WAKE);
                let now = clock::now();
                self.admission.release(now, &mut self.engine, &mut self.actions);
                self.engine.handle(now, Input::Flush, &mut self.actions);
            }
            SyncRequest::Resync => self.engine.handle(now, Input::Resync, &mut self.actions),
            SyncRequest::Filter { filter, reply } => drop(reply.send(self.on_filter(*filter))),
            SyncRequest::NetlinkBuffer { bytes, bytes_max, reply } => {
                drop(reply.send(self.events.resize(bytes, bytes_max).map_err(|error| error.to_string())));
            }
            SyncRequest::Keys { keys, reply } => drop(reply.send(self.on_keys(&keys))),
            SyncRequest::Sessions(table) => self.sessions.begin(table, &self.engine),
            SyncRequest::Stop => {
                self.admission.release(now, &mut self.engine, &mut self.actions);
                self.stop_by = Some(now + DRAIN_MAX);
            }
        }
    }

    /// `term`: of a mastership. What the kernel has told by now belongs to the role before.
    fn on_role(&mut self, now: Instant, role: Role, term: u64) {
        // What was ordered as master is done by a master's rule, below: it may be older than what is read next.
        if role != Role::Master {
            self.execute();
        }
        self.on_events(PORTIONS_BEFORE_ROLE);
        // An entry in the way of a peer's flow goes, unless this node forwards.
        self.writing.set_conflict(match role {
            Role::Master => Conflict::KeepLive,
            Role::Init | Role::Backup | Role::Fault => Conflict::Replace,
        });
        self.engine.handle(now, Input::Term(term), &mut self.actions);
        self.engine.handle(now, Input::Role(role), &mut self.actions);
        // What was ordered for the former master, and is not done, meets what packets do here from now on: a deletion ends
        // a connection that has begun anew, a creation outlives one, and no event tells.
        if role == Role::Master && self.writing.is_busy() {
            self.engine.handle(now, Input::Reread, &mut self.actions);
        }
    }

    /// The administrator wants other flows replicated.
    fn on_filter(&mut self, filter: Filter) -> Result<(), String> {
        let before = std::mem::replace(&mut self.wanted, filter);
        self.filter_anew().map_err(|error| {
            self.wanted = before;
            format!("cannot read the addresses of this node's interfaces: {error}")
        })
    }

    /// Other secrets are to be valid. A peer that holds none of them would be lost, and its heartbeats with it.
    fn on_keys(&mut self, keys: &[ClusterKey]) -> Result<(), String> {
        if let Some(peer) = self.engine.peer_without(keys) {
            let peer = self.peer_name(peer);
            return Err(format!(
                "{peer} does not hold the new secret yet: copy the file there and reload {peer} first"
            ));
        }
        self.engine.handle(clock::now(), Input::Keys(keys), &mut self.actions);
        Ok(())
    }

    /// A stop was asked for, and what was pending has arrived or its time is over.
    pub(super) fn is_finished(&self, now: Instant) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let pending = |peer: &ha_common::sync::PeerStats| peer.alive && peer.backlog_flows + peer.in_flight_flows > 0;
        now >= stop_by || !(self.is_busy() || self.writing.is_busy() || self.engine.stats().peers.iter().any(pending))
    }
}
