//! Map values and ring records cross the kernel boundary as bytes: the unsafe part of that.
#![expect(unsafe_code, reason = "reinterprets bytes written by the XDP programs as the types they wrote")]

use ha_common::abi::{
    AdvertRecord, FenceEntry, InterfaceEntry, KeyEntry, LinkEntry, MemberEntry, PathEntry, PeerEntry, SelfEntry, Stream,
};
use ha_common::wire::genuine::SessionEntry;

/// A value of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Shared<T: Copy + 'static>(pub T);

// SAFETY, for all: `repr(C)` structures of unsigned integers without padding (their sizes are asserted
// in `abi`), so every bit pattern is a value and every byte is initialised.
unsafe impl aya::Pod for Shared<InterfaceEntry> {}
unsafe impl aya::Pod for Shared<MemberEntry> {}
unsafe impl aya::Pod for Shared<LinkEntry> {}
unsafe impl aya::Pod for Shared<PeerEntry> {}
unsafe impl aya::Pod for Shared<KeyEntry> {}
unsafe impl aya::Pod for Shared<SessionEntry> {}
unsafe impl aya::Pod for Shared<Stream> {}
unsafe impl aya::Pod for Shared<SelfEntry> {}
unsafe impl aya::Pod for Shared<FenceEntry> {}
unsafe impl aya::Pod for Shared<PathEntry> {}

/// The record in a ring buffer item; `None` when the item is too short for one.
pub fn advert_record(item: &[u8]) -> Option<AdvertRecord> {
    if item.len() < size_of::<AdvertRecord>() {
        return None;
    }
    // SAFETY: the length was checked, the read needs no alignment, and the record consists of integers without
    // padding, for which every bit pattern is a value.
    Some(unsafe { item.as_ptr().cast::<AdvertRecord>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short item is no record; a whole one is read where its fields are declared.
    #[test]
    fn records_are_read_by_layout() {
        let mut item = [0u8; 81];
        item[..8].copy_from_slice(&77u64.to_ne_bytes());
        item[77] = 5;
        let record = advert_record(&item).unwrap();
        assert_eq!((record.received_ns, record.member), (77, 5));
        assert!(advert_record(&item[..79]).is_none());
    }
}
