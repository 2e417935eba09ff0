//! One data frame: being filled, and what is remembered of it until it is acknowledged or given up.

use super::capabilities::Capabilities;
use super::encode;
use super::stamp::Stamp;
use super::table::{Entry, Owner, Slot};
use crate::proto::{self, change::Kind};
use crate::time::Instant;
use prost::Message;

/// A flow as a frame carried it.
pub(super) struct Carried {
    pub slot: Slot,
    pub version: u64,
}

/// A frame in flight.
pub(super) struct Frame {
    pub sequence: u64,
    pub at: Instant,
    /// Since when the oldest change in it waits; frames that carry no change, but what the bulk walk owes, have none.
    pub since: Option<Stamp>,
    pub bulk_epoch: Option<u32>,
    pub bulk_end: Option<u32>,
    pub carried: Vec<Carried>,
    pub open: bool,
    /// Of the whole frame, at the most.
    pub bytes: usize,
}

/// A frame being filled.
pub(super) struct Filling<'a> {
    pub frame: Frame,
    /// Bytes.
    pub left: usize,
    pub changes: &'a mut Vec<proto::Change>,
    pub receiver: Capabilities,
}

impl Filling<'_> {
    /// False when the frame is full.
    pub fn add(&mut self, kind: Kind) -> bool {
        let change = proto::Change { kind: Some(kind) };
        let length = change.encoded_len();
        let cost = 1 + prost::length_delimiter_len(length) + length;
        // The first change always goes in: no frame is too small for one (see `FRAME_BYTES_MIN`).
        if cost > self.left && !self.changes.is_empty() {
            return false;
        }
        self.left = self.left.saturating_sub(cost);
        self.changes.push(change);
        true
    }

    /// Adds an entry as it is now. False when the frame is full; an entry with nothing to say fits always.
    pub fn carry(&mut self, slot: Slot, entry: &Entry) -> bool {
        let kind = if entry.is_tombstone() {
            Kind::Removal(proto::Removal { key: Some(encode::key_message(&entry.key())), version: entry.version() })
        } else {
            let handover = match entry.owner() {
                Owner::Local => false,
                Owner::Peer(_) => true,
                Owner::Found => return true,
            };
            let mut flow = encode::flow_message(&entry.flow(), entry.version(), handover);
            self.receiver.restrict(&mut flow);
            Kind::Upsert(flow)
        };
        let fits = self.add(kind);
        if fits {
            self.frame.carried.push(Carried { slot, version: entry.version() });
        }
        fits
    }
}
