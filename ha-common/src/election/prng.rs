//! The election's own small generator: everything random follows from the seed, so that a run can be replayed.

/// SplitMix64. It supplies the counters of the random phase and the jitter after a crossed hand-over; neither
/// is a secret (a counter is sent in clear and a digest cannot be made from it without the password).
#[derive(Clone, Debug)]
pub(super) struct Prng(u64);

impl Prng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Prng;

    /// The same seed gives the same numbers, another seed others: replay relies on both.
    #[test]
    fn a_seed_decides_everything() {
        let draw = |seed| {
            let mut prng = Prng::new(seed);
            [prng.draw(), prng.draw(), prng.draw()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1)[0], draw(1)[1]);
    }
}
