//! Durations in fixed buckets.

use core::time::Duration;

/// Upper bounds in microseconds: 1, 2 and 5 per decade from 10 µs to 1 s. An echo in the driver path takes 24 µs to
/// 30 µs on one host (ebpf §11), a saturated one answers after tens of milliseconds.
const BOUNDS: [u64; 16] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];

/// How many durations were at most each bound; of constant size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Not cumulative. What is above the last bound counts in `count` only.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Histogram {
    pub(super) fn record(&mut self, value: Duration) {
        let bounds = BOUNDS.iter().zip(&mut self.counts);
        if let Some((_, count)) = bounds.into_iter().find(|(bound, _)| value <= Duration::from_micros(**bound)) {
            *count += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Upper bounds in ascending order, each with the number of values up to it (cumulative, as Prometheus counts);
    /// the bucket without a bound is [`Self::count`].
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        BOUNDS.iter().zip(&self.counts).scan(0, |below, (bound, count)| {
            *below += count;
            Some((Duration::from_micros(*bound), *below))
        })
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    pub const fn sum(&self) -> Duration {
        self.sum
    }

    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The bound under which at least `per_mille` of 1000 values lie (the largest value, where no bound is above it);
    /// `None` without values.
    pub fn quantile(&self, per_mille: u32) -> Option<Duration> {
        let wanted = u128::from(self.count) * u128::from(per_mille.min(1000));
        let reached = self.buckets().find(|(_, below)| u128::from(*below) * 1000 >= wanted);
        (self.count > 0).then(|| reached.map_or(self.max, |(bound, _)| bound.min(self.max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values fall into the first bucket that holds them, the last bound is not the last value, and nothing overflows.
    #[test]
    fn buckets_are_cumulative() {
        let mut histogram = Histogram::default();
        for micros in [0, 10, 11, 1_000_000, 1_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        histogram.record(Duration::MAX);
        histogram.record(Duration::MAX);
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets[..2], [(Duration::from_micros(10), 2), (Duration::from_micros(20), 3)]);
        assert_eq!(buckets[15], (Duration::from_secs(1), 4));
        assert_eq!((histogram.count(), histogram.sum(), histogram.max()), (7, Duration::MAX, Duration::MAX));
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    /// A quantile is the bound above it, never more than the largest value, and none of nothing.
    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(500), None);
        (0..99).for_each(|_| histogram.record(Duration::from_micros(30)));
        histogram.record(Duration::from_secs(7));
        assert_eq!(histogram.quantile(500), Some(Duration::from_micros(50)));
        assert_eq!(histogram.quantile(990), Some(Duration::from_micros(50)));
        assert_eq!(histogram.quantile(1000), Some(Duration::from_secs(7)));
    }
}
