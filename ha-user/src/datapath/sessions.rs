//! What the sync loop tells the programs of the peers' sessions.

use super::load::LoadError;
use super::pod::Shared;
use aya::maps::{Array, MapData};
use ha_common::role::NodeId;
use ha_common::wire::genuine::SessionEntry;
use std::fmt;

/// The map of sessions by node. It belongs to the sync loop, which must have said that a session is current before it
/// tells so the peer: the peer's first sealed frame may come at once.
pub struct SessionTable {
    map: Array<MapData, Shared<SessionEntry>>,
}

impl SessionTable {
    pub(super) fn new(map: Array<MapData, Shared<SessionEntry>>) -> Self {
        Self { map }
    }

    /// Says what is known of a peer's session, as one system call of about a microsecond.
    ///
    /// # Errors
    /// When the map refuses the entry.
    pub fn set(&mut self, node: NodeId, entry: SessionEntry) -> Result<(), LoadError> {
        self.map.set(u32::from(node.0), Shared(entry), 0).map_err(|source| LoadError::Map { name: "SESSIONS", source })
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionTable")
    }
}
