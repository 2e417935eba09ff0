//! The counter of adverts: random until the first valid advert was heard, then adopt and increment (carp-wire §5).

use super::prng::Prng;

/// The 64-bit counter of one VHID.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter {
    /// The last counter sent or heard; `None` in the random phase.
    last: Option<u64>,
}

impl Counter {
    /// The counter of the next advert to send.
    pub(super) fn advance(&mut self, prng: &mut Prng) -> u64 {
        match &mut self.last {
            // Every advert of the random phase draws anew: not random once and then incremented.
            None => prng.draw(),
            Some(last) => {
                *last = last.wrapping_add(1);
                *last
            }
        }
    }

    /// A valid advert overwrites the counter and ends the random phase for ever.
    pub(super) fn adopt(&mut self, heard: u64) {
        self.last = Some(heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random while alone, then heard + 1, + 2, also after hearing a smaller one, wrapping at the end.
    #[test]
    fn random_then_adopted_and_incremented() {
        let (mut counter, mut prng) = (Counter::default(), Prng::new(1));
        let (first, second) = (counter.advance(&mut prng), counter.advance(&mut prng));
        assert_ne!(first.wrapping_add(1), second);
        counter.adopt(0x85b6_303f_9817_4f8d);
        assert_eq!(counter.advance(&mut prng), 0x85b6_303f_9817_4f8e);
        assert_eq!(counter.advance(&mut prng), 0x85b6_303f_9817_4f8f);
        counter.adopt(u64::MAX);
        assert_eq!(counter.advance(&mut prng), 0);
        assert_eq!(counter.advance(&mut prng), 1);
    }
}
