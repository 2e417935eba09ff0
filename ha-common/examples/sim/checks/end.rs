//! After the faults have stopped: one master with all addresses, equal tables, and digests that prove it.

use super::calm::TRIED_AGAIN;
use crate::faults::Fault;
use crate::model::segments::SEGMENTS;
use crate::options::Kind;
use crate::sync_loop::Request;
use crate::world::World;
use ha_common::role::Role;
use ha_common::sync::flow::{Flow, status};
use ha_common::sync::{Capabilities, Mode, PeerStats, VERSION};
use std::collections::BTreeMap;
use std::time::Duration;

/// A proof that is older is none.
const PROVEN: Duration = Duration::from_millis(1500);

impl World {
    /// What keeps the world from being as it should be; `None`: nothing does.
    pub fn unsettled(&self) -> Option<String> {
        self.unsettled_roles().or_else(|| self.unsettled_tables())
    }

    /// One master, whose gate is open and who has the addresses, and nobody else.
    pub fn unsettled_roles(&self) -> Option<String> {
        let now = self.now;
        let roles: Vec<_> = self.hosts.iter().map(|host| host.control.as_ref().map(|control| control.role())).collect();
        let serving: Vec<_> = (0..self.hosts.len()).filter(|node| self.hosts[*node].is_open(now)).collect();
        let [master] = serving.as_slice() else {
            let waits = |host: &crate::host::Host| host.control.as_ref().and_then(|it| it.election.stats().wait);
            let waits: Vec<_> = self.hosts.iter().map(waits).collect();
            return Some(format!("gates open: {serving:?}; roles: {roles:?}, waits for {waits:?}"));
        };
        for (node, host) in self.hosts.iter().enumerate() {
            let wanted = if node == *master { Role::Master } else { Role::Backup };
            let waits = || host.control.as_ref().and_then(|control| control.election.stats().wait);
            if roles[node] != Some(wanted) || host.has_vips() != (node == *master) {
                return Some(format!(
                    "node {node} is {:?}, addresses {}, waits for {:?}",
                    roles[node],
                    host.has_vips(),
                    waits()
                ));
            }
        }
        let away = (0..SEGMENTS).find(|segment| self.clients.holder[*segment] != Some(*master));
        away.map(|segment| format!("the hosts of segment {segment} send to {:?}", self.clients.holder[segment]))
    }

    fn unsettled_tables(&self) -> Option<String> {
        let first = &self.hosts[0].conntrack.entries;
        for (node, host) in self.hosts.iter().enumerate() {
            let Some(sync) = &host.sync else { return Some(format!("node {node} has no sync loop")) };
            if !sync.is_idle() {
                return Some(format!("node {node} writes or reads its table"));
            }
            if self.may_overflow() || self.lacks_repair() {
                continue;
            }
            let stats = sync.engine.stats();
            if !stats.health.in_sync {
                return Some(format!("node {node} is not in sync: {:?}", stats.health));
            }
            if let Some(peer) = stats.peers.iter().find(|peer| !self.is_proven(node, peer)) {
                return Some(format!("node {node}: not proven {peer:?}; {}", self.shadows()));
            }
            let kept =
                |number: &u32| [&self.hosts[0], host].iter().any(|host| host.conntrack.kept_status.contains(number));
            let differing = |(number, entry): (&u32, &crate::conntrack::Entry)| {
                // Where a kernel did not clear a bit, it has more of them.
                let ignored = if kept(number) { status::SEEN_REPLY | status::ASSURED } else { 0 };
                if [&self.hosts[0], host].iter().any(|host| host.conntrack.overtaken.contains(number)) {
                    return None;
                }
                let other = host.conntrack.entries.get(number).map(|other| state(&other.flow, ignored));
                (other != Some(state(&entry.flow, ignored))).then_some(*number)
            };
            let missing = host.conntrack.entries.keys().find(|number| !first.contains_key(number)).copied();
            if let Some(number) = first.iter().find_map(differing).or(missing) {
                let seen =
                    |host: &crate::host::Host| host.conntrack.entries.get(&number).map(|entry| state(&entry.flow, 0));
                let states: Vec<_> = self.hosts.iter().map(seen).collect();
                return Some(format!("session {number} differs: {states:?}; {}", self.standings(number)));
            }
        }
        None
    }

    /// Whose flow each engine says it is.
    fn standings(&self, number: u32) -> String {
        let key = self.clients.sessions[number as usize].flow(number).key;
        let of = |host: &crate::host::Host| host.sync.as_ref().and_then(|sync| sync.engine.standing(&key));
        format!("engines: {:?}", self.hosts.iter().map(of).collect::<Vec<_>>())
    }

    /// What the engines hold differently: whose they say it is, and in which state.
    fn shadows(&self) -> String {
        let mut held: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (node, host) in self.hosts.iter().enumerate() {
            let flows = host.sync.iter().flat_map(|sync| sync.engine.flows(usize::MAX));
            for (flow, is_peers) in flows {
                let number = crate::conntrack::number(&flow.key);
                let is_there = if host.conntrack.entries.contains_key(&number) { "" } else { ", not in the kernel" };
                let whose = if is_peers { "a peer's" } else { "own" };
                held.entry(number).or_default().push(format!("node {node} {whose} {}{is_there}", flow.mark));
            }
        }
        let differs = |told: &Vec<String>| {
            let own = told.iter().filter(|told| told.contains("own")).count();
            own != 1 || told.len() != self.hosts.len() || told.iter().any(|told| told.contains("not in"))
        };
        held.retain(|_, told| differs(told));
        held.iter().take(3).map(|(number, told)| format!("session {number}: {}; ", told.join(", "))).collect()
    }

    /// Where tables are smaller than what there is, they cannot be equal.
    pub fn may_overflow(&self) -> bool {
        let sessions = self.options.sessions as usize;
        self.options.flows_max < sessions * 2 || self.options.entries_max < sessions
    }

    /// Without acknowledgements, digests and refreshes nothing finds what a table has that nobody told of, or lacks though it was
    /// told: then timeouts alone make tables equal.
    fn lacks_repair(&self) -> bool {
        let torn = [
            Fault::Kill,
            Fault::Restart,
            Fault::Return,
            Fault::PowerLoss,
            Fault::Stop,
            Fault::Deaf,
            Fault::RefusedWrites,
            Fault::Flush,
            Fault::Freeze,
            Fault::FreezeLong,
            Fault::FreezeSync,
            Fault::PauseCounted,
            Fault::PauseMissed,
        ];
        self.options.mode == Mode::Notrack && torn.iter().any(|fault| self.faults[*fault as usize] > 0)
    }

    fn is_proven(&self, node: usize, peer: &PeerStats) -> bool {
        let idle = peer.backlog_flows + peer.in_flight_flows == 0;
        let able = self.options.nodes[node].version == VERSION && peer.capabilities.has(Capabilities::DIGESTS);
        let proven = peer.proven.is_some_and(|age| age < PROVEN) && peer.differing_buckets == 0;
        match self.options.mode {
            Mode::Ftfw if able => idle && proven,
            Mode::Ftfw => idle,
            // The other modes prove nothing.
            Mode::Alarm | Mode::Notrack => true,
        }
    }

    /// How long that may take from the end of the faults on.
    pub fn patience(&self) -> Duration {
        // A freeze that has just begun, a promise, and the repair of the tables; the timers of CARP, and a step-down.
        // Where refreshes and cut timeouts repair, some of these. What a kernel has refused for long is tried again as well.
        let modes = if self.options.mode == Mode::Ftfw { 0 } else { 20 };
        let was_refused = self.faults[Fault::RefusedWrites as usize] > 0;
        let refused = if was_refused { TRIED_AGAIN + PROVEN } else { Duration::ZERO };
        let roles = match self.options.kind {
            Kind::Pair => 12,
            Kind::Timers | Kind::Three | Kind::Quiet => 40,
        };
        refused.max(Duration::from_secs(roles)) + Duration::from_secs(modes)
    }

    /// Where nothing repairs what was lost, an operator asks for a resync when it is quiet.
    pub fn resync_if_unrepaired(&mut self) {
        if self.options.mode == Mode::Notrack {
            (0..self.hosts.len()).for_each(|node| self.ask_sync(node, Request::Resync));
        }
    }
}

/// What replication makes equal.
fn state(flow: &Flow, ignored: u32) -> (u32, u32, Option<u8>) {
    (flow.mark, flow.status & status::REPLICATED & !ignored, flow.tcp.map(|tcp| tcp.state))
}
