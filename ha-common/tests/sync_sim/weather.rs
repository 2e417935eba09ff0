//! Chance, and what it does to the link's datagrams.

use std::time::Duration;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the link does to datagrams.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// Delay is 100 µs plus up to this.
    pub jitter: Duration,
}

pub const FAIR: Weather = Weather { loss_percent: 0, duplicate_percent: 0, jitter: Duration::ZERO };
pub const STORM: Weather = Weather { loss_percent: 25, duplicate_percent: 5, jitter: Duration::from_millis(3) };
