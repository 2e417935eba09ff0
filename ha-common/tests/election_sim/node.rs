//! A twinwall node of the simulation.

pub use crate::model::segments::{GROUP, Packet, SEGMENTS, VHIDS, VIPS, address, members};
use ha_common::election::{
    Action, Config, Damping, Election, ForeignMasters, Input, InterfaceId, LinkState, PairTimes, ReceivedAdvert,
    VipState,
};
use ha_common::role::{NodeId, Role};
use ha_common::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

/// The settings of one node.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub advskew: u8,
    pub preempt: bool,
}

pub struct Node {
    pub election: Election,
    pub holds_vips: bool,
    actions: Vec<Action>,
}

impl Node {
    pub fn new(index: usize, nodes: usize, settings: Settings, seed: u64) -> Self {
        let config = Config {
            node: NodeId(index as u8),
            peer_node: (nodes == 2).then_some(NodeId(1 - index.min(1) as u8)),
            advbase: 1,
            advskew: settings.advskew,
            dead_ratio: 3,
            preempt: settings.preempt,
            announce_burst: vec![Duration::ZERO, Duration::from_millis(100)],
            announce_refresh: Some(Duration::from_secs(60)),
            members: members(),
            resume: None,
            maintenance: false,
            term_seen: 0,
            preempt_delay: Duration::ZERO,
            times: PairTimes::default(),
            damping: Damping::default(),
            foreign_masters: ForeignMasters::default(),
        };
        Self { election: Election::new(config, seed), holds_vips: false, actions: Vec::new() }
    }

    pub fn role(&self) -> Role {
        self.election.stats().role
    }

    pub fn link(&mut self, now: Instant, node: usize, segment: usize, up: bool) -> Vec<(usize, Packet)> {
        let state = LinkState { up, source_v4: Some(address(node, segment)), source_v6: None };
        self.input(now, Input::Link { interface: InterfaceId(segment as u8), state })
    }

    pub fn hear(&mut self, now: Instant, segment: usize, packet: Packet) -> Vec<(usize, Packet)> {
        let advert = ReceivedAdvert {
            member: ha_common::election::MemberId(segment as u8),
            source: packet.source.into(),
            destination: GROUP.into(),
            advert: packet.advert,
            received: now,
        };
        self.input(now, Input::Advert(&advert))
    }

    /// One input; the packets it causes.
    pub fn input(&mut self, now: Instant, input: Input<'_>) -> Vec<(usize, Packet)> {
        self.actions.clear();
        self.election.handle(now, input, &mut self.actions);
        let mut packets = Vec::new();
        for action in &self.actions {
            match action {
                Action::SendAdvert { member, source: IpAddr::V4(source), advert, .. } => {
                    let goodbye = (advert.advbase, advert.advskew) == (255, 255);
                    assert!(goodbye || self.election.stats().role == Role::Master, "only a master advertises");
                    packets.push((usize::from(member.0), Packet { source: *source, advert: *advert }));
                }
                Action::SendAdvert { .. } => panic!("no IPv6 here: {action:?}"),
                Action::Vips(state) => self.holds_vips = *state == VipState::Present,
                Action::Announce { .. } => assert!(self.holds_vips, "only a holder announces"),
                Action::Transition(_) | Action::Lease(_) | Action::HandOverEnded(_) => {}
            }
        }
        assert_eq!(self.holds_vips, self.role() == Role::Master, "the master holds the addresses, nobody else");
        packets
    }
}
