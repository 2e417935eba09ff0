//! What many runs say together.

use serde::{Deserialize, Serialize};

/// Median, 99th percentile and maximum of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub median: f64,
    /// By nearest rank: with fewer than 100 values it is the maximum.
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// Of any values; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * 99).div_ceil(100);
        let middle = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self {
            median: rounded(f64::midpoint(*middle.0, *middle.1)),
            p99: rounded(*sorted.get(rank.checked_sub(1)?)?),
            max: rounded(*sorted.last()?),
        })
    }
}

/// To microseconds, where the unit is a millisecond: more digits would only look exact.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An even number of values has the mean of the middle two as its median; the 99th percentile leaves one value of
    /// two hundred out and none of ten; nothing has no summary.
    #[test]
    fn summaries_follow_their_definitions() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { median: 2.5, p99: 4.0, max: 4.0 });
        let summary = Summary::of((1..=200).map(f64::from)).unwrap();
        assert_eq!(summary, Summary { median: 100.5, p99: 198.0, max: 200.0 });
        assert_eq!(Summary::of([7.0]).unwrap(), Summary { median: 7.0, p99: 7.0, max: 7.0 });
        assert_eq!(Summary::of([]), None);
    }
}
