//! The secrets that the programs accept, while they run.

use super::load::LoadError;
use super::plan::DatapathKey;
use super::pod::Shared;
use aya::maps::{Array, MapData};
use ha_common::abi::KeyEntry;

/// The map of keys by epoch, and which of its entries are in force.
pub(super) struct KeyTable {
    map: Array<MapData, Shared<KeyEntry>>,
    held: Vec<u8>,
}

impl KeyTable {
    /// A table in which no key is.
    pub fn new(map: Array<MapData, Shared<KeyEntry>>) -> Self {
        Self { map, held: Vec::new() }
    }

    /// New keys come before old ones go: at no time is a valid frame refused for want of its key.
    ///
    /// # Errors
    /// When the map refuses an entry.
    pub fn set(&mut self, keys: &[DatapathKey]) -> Result<(), LoadError> {
        for key in keys {
            self.write(key.epoch, KeyEntry { heartbeat: key.heartbeat, stamp: key.stamp, held: 1 })?;
        }
        let is_kept = |epoch: u8| keys.iter().any(|key| key.epoch == epoch);
        for epoch in std::mem::take(&mut self.held) {
            if !is_kept(epoch) {
                self.write(epoch, KeyEntry::default())?;
            }
        }
        self.held = keys.iter().map(|key| key.epoch).collect();
        Ok(())
    }

    fn write(&mut self, epoch: u8, entry: KeyEntry) -> Result<(), LoadError> {
        self.map.set(u32::from(epoch), Shared(entry), 0).map_err(|source| LoadError::Map { name: "KEYS", source })
    }
}
