//! The engine's part in the change of secrets, and what it tells of its sessions.

use super::PeerId;
use super::engine::Engine;
use crate::role::NodeId;
use crate::secret::ClusterKey;
use crate::wire::genuine::SessionEntry;

impl Engine {
    /// A living peer that holds none of these secrets, as far as it has said: it would be lost if they were the only ones.
    pub fn peer_without(&self, keys: &[ClusterKey]) -> Option<PeerId> {
        let keyring = self.keyring.with(keys);
        self.peers.iter().find(|peer| peer.up && !peer.session.accepts_any(&keyring)).map(|peer| peer.id)
    }

    /// Sessions go on; each peer is told at once.
    pub(super) fn on_keys(&mut self, keys: &[ClusterKey]) {
        self.keyring = self.keyring.with(keys);
        for peer in &mut self.peers {
            peer.session.rekey(&self.keyring);
            peer.hello_soon();
        }
    }

    /// What can be told of each peer's frames by their headers alone, for whoever sees them first.
    pub fn sessions(&self) -> impl Iterator<Item = (NodeId, SessionEntry)> + '_ {
        self.peers.iter().map(|peer| (peer.node, peer.session_entry()))
    }
}
