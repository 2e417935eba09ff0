//! How many requests go into one write.
//!
//! The kernel works a write off in one go, and on kernels without full preemption nothing else runs on that CPU
//! meanwhile, not even the control thread with its lease of 40 ms. A request takes some microseconds, but with source
//! NAT a new entry is compared with every other one of the same source (`find_appropriate_src` in net/netfilter/nf_nat_core.c):
//! ten thousand flows from one port make it a quarter of a millisecond, and a write of 256 some sixty.

use std::time::Duration;

/// Fewer are not worth a system call.
const BATCH_MIN: usize = 4;
/// What one write may take.
const WRITE_MAX: Duration = Duration::from_millis(2);

/// The size of the next batch, learned from how long the last one took.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    batch: usize,
    max: usize,
}

impl Pace {
    /// Begins small: nothing is known of the table yet. Never more than `max`.
    pub fn new(max: usize) -> Self {
        Self { batch: (max / 16).max(BATCH_MIN), max }
    }

    /// How many requests to send next.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// A batch of `sent` took so long. A batch that was not full says little about a full one.
    pub fn learn(&mut self, sent: usize, took: Duration) {
        if took > WRITE_MAX {
            self.batch = (self.batch.min(sent) / 2).max(BATCH_MIN);
        } else if sent >= self.batch && took * 2 <= WRITE_MAX {
            self.batch = (self.batch * 2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of 4 µs fill the batch within a few writes; of 250 µs, eight go into one; and back again.
    #[test]
    fn batches_fit_into_the_time() {
        let mut pace = Pace::new(256);
        let mut run = |each: Duration, writes: usize| {
            for _ in 0..writes {
                pace.learn(pace.batch(), each * u32::try_from(pace.batch()).unwrap());
            }
            pace.batch()
        };
        assert_eq!(run(Duration::from_micros(4), 6), 256);
        assert_eq!(run(Duration::from_micros(250), 6), 8);
        assert_eq!(run(Duration::from_millis(50), 6), BATCH_MIN);
        assert_eq!(run(Duration::from_micros(4), 10), 256);
    }

    /// A lone request, quick or slow, does not make the next batch larger.
    #[test]
    fn a_lone_request_teaches_caution_only() {
        let mut pace = Pace::new(256);
        pace.learn(1, Duration::from_micros(3));
        assert_eq!(pace.batch(), 16);
        pace.learn(1, Duration::from_millis(3));
        assert_eq!(pace.batch(), BATCH_MIN);
    }
}
