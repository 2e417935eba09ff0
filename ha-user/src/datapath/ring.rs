//! Adverts on their way from the programs to the election.

use super::pod;
use aya::maps::{MapData, RingBuf};
use ha_common::abi::AdvertRecord;
use ha_common::election::{MemberId, ReceivedAdvert};
use ha_common::time::Instant;
use ha_common::wire::bytes::word_bytes;
use ha_common::wire::carp::{ADVERT_LEN, Advert};
use ha_common::wire::ip;
use std::os::fd::{AsFd, BorrowedFd};

/// The reading end of the ring buffer.
pub struct AdvertRing(RingBuf<MapData>);

impl AdvertRing {
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub fn next(&mut self) -> Option<ReceivedAdvert> {
        // The programs write nothing but whole records; anything else is skipped, not an end.
        while let Some(item) = self.0.next() {
            if let Some(record) = pod::advert_record(&item) {
                return Some(received(&record));
            }
        }
        None
    }
}

fn received(record: &AdvertRecord) -> ReceivedAdvert {
    let is_v6 = record.family == 6;
    let bytes: [u8; ADVERT_LEN] = word_bytes(&record.carp);
    ReceivedAdvert {
        member: MemberId(record.member),
        source: ip::address(&record.source, is_v6),
        destination: ip::address(&record.destination, is_v6),
        advert: Advert::read(&bytes),
        received: Instant(record.received_ns),
    }
}
