//! Nodes that did not hear each other have given the same version to different states of a flow. The master's word counts, then the
//! lower node's.

use super::PeerId;
use super::engine::Engine;
use super::flow::Flow;
use super::remote::is_same_state;
use super::table::{Entry, Owner, Slot};
use crate::role::{NodeId, Role};
use crate::time::Instant;

impl Engine {
    /// A peer's word is not this master's, and no digest tells the two apart: this node's becomes newer.
    pub(super) fn settle_tie(&mut self, now: Instant, slot: Slot, told: &Flow, version: u64) {
        let is_tie =
            |entry: &Entry| entry.is_local() && entry.version() == version && !is_same_state(&entry.flow(), told);
        if self.role == Role::Master && self.table.get(slot).is_some_and(is_tie) {
            self.insist(now, slot);
        }
    }

    /// Whether `peer` tells of another peer's flow another state of the same version, and that other peer's counts.
    pub(super) fn loses_tie(&self, entry: &Entry, peer: PeerId, told: &Flow, version: u64) -> bool {
        let Owner::Peer(owner) = entry.owner() else { return false };
        let is_tie = owner != peer && entry.is_live() && entry.version() == version;
        is_tie
            && self.is_up(owner)
            && !is_same_state(&entry.flow(), told)
            && !outranks(self.standing_of(peer), self.standing_of(owner))
    }

    /// Whether the peer's word counts where it claims a flow of this node's in the same version.
    pub(super) fn yields_to(&self, peer: PeerId) -> bool {
        outranks(self.standing_of(peer), Some((self.role, self.node)))
    }

    fn standing_of(&self, peer: PeerId) -> Option<(Role, NodeId)> {
        self.peers.get(usize::from(peer.0)).map(|peer| (peer.role, peer.node))
    }
}

fn outranks(one: Option<(Role, NodeId)>, other: Option<(Role, NodeId)>) -> bool {
    let rank = |(role, node): (Role, NodeId)| (role != Role::Master, node);
    one.map(rank).zip(other.map(rank)).is_some_and(|(one, other)| one < other)
}
