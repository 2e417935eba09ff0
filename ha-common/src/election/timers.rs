//! How long things last: the times that follow from advbase, advskew and ratio, and the constants of the rules.

use super::Config;
use core::time::Duration;

/// 1/256 s, the unit of advskew.
const SKEW_UNIT: Duration = Duration::from_nanos(1_000_000_000 / 256);

/// Answers to the adverts of another master are at least this far apart on one member.
pub(super) const ANSWER_SPACING: Duration = Duration::from_millis(100);
/// A node that steps down stays out of the election at least this long.
pub(super) const STEP_DOWN_HOLD_MIN: Duration = Duration::from_secs(3);
/// A better node waits at most this long for its table before it preempts all the same.
pub(super) const PREEMPT_WAIT_MAX: Duration = Duration::from_secs(30);
/// After it became BACKUP a node gives a twinwall peer this long to show up on the sync link; a peer that does not
/// is taken for a foreign one (ucarp), which has no state to wait for.
pub(super) const PREEMPT_PEER_GRACE: Duration = Duration::from_secs(3);
/// Two masters with equal intervals that hear each other for longer than this do not agree on the tie-break.
pub(super) const TIE_DISPUTE: Duration = Duration::from_secs(2);
/// Two nodes that lost a tie to each other come back apart by up to this.
pub(super) const CROSSED_JITTER_MAX: Duration = Duration::from_millis(250);
/// Members whose deadlines are this close together went silent at the same time.
pub(super) const SILENCE_SLACK: Duration = Duration::from_millis(50);
/// A contact with another master is over after two of its intervals, but not later than this.
pub(super) const CONTACT_QUIET_MAX: Duration = Duration::from_secs(10);
/// First length of a claim, its longest, and how long its length is remembered (see `claim.rs`).
pub(super) const CLAIM_FIRST: Duration = Duration::from_secs(30);
pub(super) const CLAIM_MAX: Duration = Duration::from_secs(300);
pub(super) const CLAIM_MEMORY: Duration = Duration::from_secs(600);

/// Longest lease that may be configured for while the peer could take over by heartbeats; what bounds it is asserted below.
pub const LEASE_MAX: Duration = Duration::from_millis(80);
/// Words of the peer that were asked for longer ago than this are not acted upon.
pub(super) const FRESH: Duration = Duration::from_millis(20);
/// An answer to a candidacy counts for this long after the candidacy was announced.
pub(super) const TAKE_OVER_WINDOW: Duration = Duration::from_millis(40);
/// Who answers a candidacy takes nothing for this long: more than [`TAKE_OVER_WINDOW`], in which the candidate may open its
/// gate, the first lease of that, and [`FRESH`], the age of the words that tell of it, together (docs/safety.md).
pub(super) const PROMISE: Duration = Duration::from_millis(150);
/// A node that may have forgotten a promise, or knows only old words, takes nothing on words alone for this long.
pub(super) const CAREFUL: Duration = PROMISE;
/// A core that was not called for longer than this was away; it asks to be called every [`ATTENTION`].
pub(super) const AWAY: Duration = Duration::from_millis(50);
pub(super) const ATTENTION: Duration = Duration::from_millis(20);
/// A controller whose last beat is this old finds out that it was away when it runs again. More than [`AWAY`] and the
/// time between two beats, and than the longest `lease_short`, which is that of a mastership's beginning.
pub(super) const CONTROLLER_GONE: Duration = Duration::from_millis(100);
const _: () = {
    let within = TAKE_OVER_WINDOW.as_millis() + LEASE_MAX.as_millis() + FRESH.as_millis();
    assert!(within < PROMISE.as_millis(), "a promise would end while the candidate's gate may be open");
    assert!(LEASE_MAX.as_millis() < CONTROLLER_GONE.as_millis(), "a stopped controller would open its gate late");
    assert!(AWAY.as_millis() + ATTENTION.as_millis() < CONTROLLER_GONE.as_millis(), "it would not know it was away");
};
/// A worse node waits this long for the better one to take a vacant group.
pub(super) const VACANCY_MAX: Duration = Duration::from_secs(3);
/// Adverts of the peer may be under way for this long after it ceased to be master.
pub(super) const STRAGGLERS: Duration = Duration::from_millis(1500);
/// What was silent before this node was away is proven to be so after this: longer than the longest time after which the
/// prober finds a peer silent.
pub(super) const SILENCE_PROVEN: Duration = Duration::from_millis(250);
/// What an advert and its wake-ups may be late on busy machines.
pub(super) const ADVERT_LATENESS: Duration = Duration::from_millis(50);
/// A peer that closed this node's gate, but is not heard, lives: its silence proves nothing for so long.
pub(super) const FENCED_HOLD: Duration = Duration::from_secs(3);
/// After a hand-over that failed, no other begins by itself for this long.
pub(super) const HAND_OVER_RETRY: Duration = Duration::from_secs(5);
/// An operator's wish for the group is given up this long after the master's own times are over.
pub(super) const ASKING_MAX: Duration = Duration::from_millis(500);

/// Interval of a master's adverts: `advbase + advskew / 256` seconds (carp-wire §7). The invalid 0/0 is taken as
/// 0/1, because a timer without a period would never let the loop sleep.
pub fn advert_interval(advbase: u8, advskew: u8) -> Duration {
    let advskew = if advbase == 0 { advskew.max(1) } else { advskew };
    Duration::from_secs(u64::from(advbase)) + SKEW_UNIT * u32::from(advskew)
}

/// Silence after which a backup takes over: `advbase * ratio + advskew / 256` seconds (carp-wire §7).
///
/// With advbase 0 the skew is multiplied instead, as OpenBSD does (carp-wire §11). ucarp's own value there is a
/// single advert interval, which every jitter exceeds: it only seems to work because ucarp looks at its deadline
/// late. The time is local to a node, so that no peer can tell the difference.
pub fn master_down_time(advbase: u8, advskew: u8, dead_ratio: u8) -> Duration {
    let ratio = u32::from(dead_ratio.max(1));
    if advbase == 0 {
        return advert_interval(advbase, advskew) * ratio;
    }
    Duration::from_secs(u64::from(advbase)) * ratio + SKEW_UNIT * u32::from(advskew)
}

/// The two times of a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) advert: Duration,
    pub(super) master_down: Duration,
}

impl Timing {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            advert: advert_interval(config.advbase, config.advskew),
            master_down: master_down_time(config.advbase, config.advskew, config.dead_ratio),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(duration: Duration) -> u128 {
        duration.as_millis()
    }

    /// The measured values of carp-wire §7: skew 100 → 1.391 s, master down after 3.0 s and 3.39 s.
    #[test]
    fn times_of_the_reference() {
        assert_eq!(ms(advert_interval(1, 0)), 1000);
        assert_eq!(ms(advert_interval(1, 100)), 1390);
        assert_eq!(ms(advert_interval(0, 64)), 250);
        assert_eq!(ms(master_down_time(1, 0, 3)), 3000);
        assert_eq!(ms(master_down_time(1, 100, 3)), 3390, "the skew is not multiplied");
        assert_eq!(ms(master_down_time(2, 0, 5)), 10_000);
    }

    /// With advbase 0 the backup waits for several adverts, not for one.
    #[test]
    fn advbase_zero_multiplies_the_skew() {
        assert_eq!(ms(master_down_time(0, 64, 3)), 750);
    }

    /// Invalid zeros never give a zero time.
    #[test]
    fn no_time_is_zero() {
        assert!(advert_interval(0, 0) > Duration::ZERO);
        assert!(master_down_time(0, 0, 0) > Duration::ZERO);
        assert_eq!(ms(master_down_time(1, 0, 0)), 1000);
    }
}
