//! From the resolved configuration to the election's.

use crate::config::Resolved;
use crate::datapath::Inherited;
use ha_common::election::{Config, Damping, Member, PairTimes};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{self, FLAG_RESTARTING, Gate, Standing};

/// What the process before has left.
pub struct Heritage {
    pub datapath: Option<Inherited>,
    pub maintenance: bool,
    pub now: Instant,
}

impl Heritage {
    /// The mastership that the process before left for this one: its gate is open yet, and nobody closed its term.
    fn resumable(&self) -> Option<u64> {
        let Inherited { entry, fence } = self.datapath?;
        let open = heartbeat::gate(&entry, fence.closed_term, self.now.0) == Gate::Open;
        let left = Standing::unpack(entry.state).has(FLAG_RESTARTING);
        (open && left).then_some(entry.term)
    }

    fn term_seen(&self) -> u64 {
        self.datapath.map_or(0, |left| left.entry.term.max(left.fence.closed_term))
    }
}

/// What the election of this node needs to know; positions of VIPs and interfaces stay what they are.
pub fn election_config(config: &Resolved, heritage: &Heritage) -> Config {
    let node = config.nodes.get(usize::from(config.node.0));
    let timing = &config.election.timing;
    let members = config.vips.iter().map(|vip| Member {
        vhid: vip.vhid,
        interface: vip.interface,
        addresses: vip.addresses.iter().map(|(address, _)| *address).collect(),
        password: vip.password.clone(),
        transport: vip.transport.clone(),
    });
    Config {
        node: config.node,
        peer_node: config.only_peer(),
        advbase: config.election.advbase,
        advskew: node.map_or(0, |node| node.advskew),
        dead_ratio: config.election.dead_ratio,
        preempt: config.election.preempt,
        announce_burst: config.election.announce_burst.clone(),
        announce_refresh: config.election.announce_refresh,
        members: members.collect(),
        resume: heritage.resumable(),
        maintenance: heritage.maintenance,
        term_seen: heritage.term_seen(),
        preempt_delay: timing.preempt_delay,
        times: PairTimes {
            lease_short: timing.lease,
            lease_long: timing.lease_alone,
            linger: timing.linger,
            ..PairTimes::default()
        },
        damping: Damping::default(),
        foreign_masters: config.election.foreign_masters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::config;
    use ha_common::abi::{FenceEntry, SelfEntry};
    use ha_common::election::InterfaceId;
    use ha_common::role::NodeId;
    use ha_common::wire::heartbeat::ROLE_MASTER;

    fn nothing() -> Heritage {
        Heritage { datapath: None, maintenance: false, now: Instant(1_000) }
    }

    /// Only a mastership that was left on purpose, whose lease runs and whose term nobody closed, is gone on with; its
    /// number is remembered in any case.
    #[test]
    fn a_mastership_is_inherited_only_whole() {
        let master = Standing { role: ROLE_MASTER, flags: FLAG_RESTARTING, ..Standing::default() };
        let entry = SelfEntry { lease_until_ns: 2_000, term: 0x5ff, session: 7, beat_ns: 900, state: master.pack() };
        let fence = FenceEntry { closed_term: 0x4fe, ..FenceEntry::default() };
        let plan = |entry, fence| {
            let plan =
                election_config(&config(), &Heritage { datapath: Some(Inherited { entry, fence }), ..nothing() });
            (plan.resume, plan.term_seen)
        };
        assert_eq!(plan(entry, fence), (Some(0x5ff), 0x5ff));
        let killed = SelfEntry { state: Standing { flags: 0, ..master }.pack(), ..entry };
        assert_eq!(plan(killed, fence), (None, 0x5ff));
        assert_eq!(plan(SelfEntry { lease_until_ns: 1_000, ..entry }, fence), (None, 0x5ff));
        assert_eq!(plan(entry, FenceEntry { closed_term: 0x6fe, ..fence }), (None, 0x6fe));
    }

    /// The second node of the pair: its own skew, its only peer, and members in the order of the file.
    #[test]
    fn the_second_node_of_a_pair() {
        let plan = election_config(&config(), &nothing());
        assert_eq!((plan.node, plan.peer_node), (NodeId(1), Some(NodeId(0))));
        assert_eq!((plan.advbase, plan.advskew, plan.dead_ratio, plan.preempt), (1, 100, 3, true));
        let members: Vec<_> = plan.members.iter().map(|m| (m.vhid, m.interface, m.addresses.len())).collect();
        assert_eq!(members, [(3, InterfaceId(0), 2), (4, InterfaceId(1), 1)]);
        assert_eq!(*plan.members[0].password, *b"toto");
    }

    /// With a third node nobody is the only peer.
    #[test]
    fn three_nodes_have_no_only_peer() {
        let mut config = config();
        config.nodes.push(config.nodes[0].clone());
        assert_eq!(election_config(&config, &nothing()).peer_node, None);
    }
}
