//! The times of `[election]` that go beyond CARP: the lease, and how mastership is handed over.

use super::error::{Found, Problems};
use super::reader::Section;
use super::resolve::value_or;
use super::schema;
use super::values::fixed;
use ha_common::election::timers::LEASE_MAX;
use std::time::Duration;

/// Lease and hand-over, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long after its controller last was alive a master answers for the virtual addresses, while the peer is
    /// seen by heartbeats and could take over at once.
    pub lease: Duration,
    /// The same while nobody could take over by heartbeats: a peer has to wait for CARP's dead time.
    pub lease_alone: Duration,
    /// How long a node must have been fit before it preempts.
    pub preempt_delay: Duration,
    /// For how long a daemon that ends to be restarted leaves its mastership in the kernel.
    pub restart_grace: Duration,
    /// For how long a node keeps addresses and routes after it has handed over, so that stragglers are forwarded.
    pub linger: Duration,
}

const LEASE: Duration = Duration::from_millis(40);
const LEASE_ALONE: Duration = Duration::from_millis(1500);
const RESTART_GRACE: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_millis(100);
/// What an advert and its wake-ups may be late on busy machines.
const LATENESS: Duration = Duration::from_millis(50);

/// The longest lease that is over before a peer that goes by adverts alone takes over.
///
/// The last advert of a master that freezes is at most one interval (`advbase + advskew/256` s) older than the freeze;
/// the lease was renewed at the freeze at the latest; the peer waits `advbase × dead_ratio` s at least from that
/// advert (`carp-wire` section 10). Between freeze and takeover are hence at least
/// `advbase × dead_ratio − advbase − advskew/256` seconds, provided that the last advert arrived.
pub fn bound(advbase: u8, dead_ratio: u8, advskew: u8) -> Duration {
    let dead = Duration::from_secs(u64::from(advbase) * u64::from(dead_ratio));
    let interval = Duration::from_secs(advbase.into()) + Duration::from_secs(1) * u32::from(advskew) / 256;
    dead.saturating_sub(interval).saturating_sub(LATENESS)
}

impl Default for Timing {
    /// What a file that says nothing means.
    fn default() -> Self {
        Self {
            lease: LEASE,
            lease_alone: LEASE_ALONE,
            preempt_delay: Duration::ZERO,
            restart_grace: RESTART_GRACE,
            linger: LINGER,
        }
    }
}

/// What the file says.
#[derive(Default)]
pub struct Keys {
    lease: Option<Found<Duration>>,
    lease_alone: Option<Found<Duration>>,
    preempt_delay: Option<Found<Duration>>,
    restart_grace: Option<Found<Duration>>,
    linger: Option<Found<Duration>>,
}

/// Reads the keys of `[election]`.
pub fn read(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Keys {
    let ms = Duration::from_millis;
    Keys {
        lease: section.optional(problems, "lease", fixed(ms(10)..=LEASE_MAX)),
        lease_alone: section.optional(problems, "lease_alone", fixed(ms(10)..=ms(600_000))),
        preempt_delay: section.optional(problems, "preempt_delay", fixed(ms(0)..=ms(3_600_000))),
        restart_grace: section.optional(problems, "restart_grace", fixed(ms(100)..=ms(30_000))),
        linger: section.optional(problems, "linger", fixed(ms(0)..=ms(1000))),
    }
}

/// Completes them. `interval`: between two heartbeats, and so between two renewals of the lease.
pub fn resolve(
    file: &schema::File,
    advbase: u8,
    dead_ratio: u8,
    interval: Duration,
    problems: &mut Problems<'_>,
) -> Timing {
    let keys = &file.election.timing;
    let lease = value_or(keys.lease.as_ref(), interval.saturating_mul(5).clamp(LEASE, LEASE_MAX));
    let renewed_late = interval.saturating_mul(2);
    if let Some(found) = keys.lease.as_ref().filter(|_| lease < renewed_late) {
        let message = format!("{lease:?} is less than two heartbeat intervals ({interval:?}), and each renews it");
        problems.error(&found.at, message, "raise it, or lower heartbeat.interval");
    }
    let advskews = file.nodes.iter().flatten().map(|node| value_or(node.advskew.as_ref(), 0));
    let advskew = advskews.max().unwrap_or(0);
    let bound = bound(advbase, dead_ratio, advskew);
    let lease_alone = value_or(keys.lease_alone.as_ref(), LEASE_ALONE.min(bound).max(lease));
    if let Some(found) = keys.lease_alone.as_ref() {
        if lease_alone > bound {
            let message = format!(
                "{lease_alone:?} is more than {bound:?}: a peer that hears adverts alone would take over before it ends \
                 (advbase × dead_ratio − advbase − {advskew}/256 s, and {LATENESS:?} for late ones)"
            );
            problems.error(&found.at, message, "lower it, or raise dead_ratio or advbase");
        } else if lease_alone < lease {
            problems.error(&found.at, format!("{lease_alone:?} is less than lease ({lease:?})"), "raise it");
        }
    } else if lease_alone > bound {
        let at = file.election.dead_ratio.as_ref().map_or(&file.nodes_at, |found| &found.at);
        let message = format!("with dead_ratio {dead_ratio} a peer without heartbeats takes over within {bound:?}");
        problems.warning(at, message, "raise dead_ratio to 3: else a frozen master and its peer may both answer");
    }
    let usual = Timing::default();
    Timing {
        lease,
        lease_alone,
        preempt_delay: value_or(keys.preempt_delay.as_ref(), usual.preempt_delay),
        restart_grace: value_or(keys.restart_grace.as_ref(), usual.restart_grace),
        linger: value_or(keys.linger.as_ref(), usual.linger),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CARP's defaults leave two seconds; skew and demotion shorten them, a dead ratio of one leaves nothing.
    #[test]
    fn the_bound_follows_the_adverts() {
        let ms = Duration::from_millis;
        assert_eq!(bound(1, 3, 0), ms(1950));
        assert_eq!(bound(1, 3, 128), ms(1450));
        assert_eq!(bound(1, 1, 0), Duration::ZERO);
        assert_eq!(bound(254, 255, 254).as_secs(), 254 * 254 - 2);
    }
}
