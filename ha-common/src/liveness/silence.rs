//! How much silence is proven, and how much of it is death.
//!
//! Silence is not measured with the clock but with probes that went unanswered: every tick that came in time, and found
//! no answer on any path, proves one interval. A tick that came late proves nothing (who was stopped has sent nothing
//! that could be answered), and the time that it was late must be made up for by as much silence in time: where both
//! nodes live on one host, whatever stopped this one may have stopped the other, and it may be woken later.

use super::path::probes_in;
use super::worst_gap::WorstGap;
use crate::time::Instant;
use core::time::Duration;

/// Death is silence of so many times the worst gap seen lately.
const GAP_FACTOR: u32 = 3;
/// Longer gaps are outages, not delays: nothing is learned from them.
const LEARN_MAX: Duration = Duration::from_secs(1);
/// So many times the multiplier of unanswered rounds are proof, however late each of them was: a prober that is always
/// late must not believe for ever that the peer lives. Never fewer than fill the bound, though.
const ROUNDS_FACTOR: u32 = 40;

/// What was heard between two ticks, on any path.
#[derive(Clone, Copy, Debug)]
struct Heard {
    first: Instant,
    last: Instant,
}

/// The silence of all paths together.
#[derive(Debug)]
pub(super) struct Silence {
    interval: Duration,
    dead_after_min: Duration,
    dead_after_max: Duration,
    rounds_max: u32,
    last_tick: Option<Instant>,
    heard: Option<Heard>,
    last_heard: Option<Instant>,
    proven: Duration,
    /// Own lateness that is not made up for yet.
    debt: Duration,
    /// Ticks without an answer.
    rounds: u32,
    worst: WorstGap,
    late: u64,
    lateness_max: Duration,
}

impl Silence {
    pub fn new(interval: Duration, multiplier: u32, dead_after_max: Duration) -> Self {
        let dead_after_min = interval.saturating_mul(multiplier);
        let dead_after_max = dead_after_max.max(dead_after_min);
        Self {
            interval,
            dead_after_min,
            dead_after_max,
            rounds_max: multiplier.saturating_mul(ROUNDS_FACTOR).max(probes_in(dead_after_max, interval)),
            last_tick: None,
            heard: None,
            last_heard: None,
            proven: Duration::ZERO,
            debt: Duration::ZERO,
            rounds: 0,
            worst: WorstGap::default(),
            late: 0,
            lateness_max: Duration::ZERO,
        }
    }

    /// An answer was received, on any path.
    pub fn hear(&mut self, received: Instant) {
        let heard = self.heard.get_or_insert(Heard { first: received, last: received });
        heard.first = heard.first.min(received);
        heard.last = heard.last.max(received);
    }

    /// The silence until now has an explanation (the peer started anew): nothing is learned from it.
    pub fn excuse(&mut self) {
        self.proven = Duration::ZERO;
        self.rounds = 0;
        self.last_heard = None;
    }

    /// A tick that was due at `due` begins: judges the round since the tick before.
    pub fn tick(&mut self, now: Instant, due: Instant) {
        let elapsed = self.last_tick.map_or(Duration::ZERO, |tick| now.since(tick)).min(self.interval);
        let lateness = now.since(due);
        let is_late = lateness > self.interval / 2;
        if is_late {
            self.late += 1;
            self.lateness_max = self.lateness_max.max(lateness);
        }
        match self.heard.take() {
            Some(heard) => self.end(now, heard, elapsed, is_late),
            None => self.extend(elapsed, is_late),
        }
        if is_late {
            self.debt = self.debt.saturating_add(lateness).min(self.dead_after_max);
        }
        self.last_tick = Some(now);
    }

    /// A round with an answer.
    fn end(&mut self, now: Instant, heard: Heard, elapsed: Duration, is_late: bool) {
        let since_tick = self.last_tick.map_or(Duration::ZERO, |tick| heard.first.since(tick)).min(self.interval);
        let gap = self.proven.saturating_add(since_tick);
        if self.last_heard.is_some_and(|last| heard.first.since(last) < LEARN_MAX) {
            self.worst.observe(now, gap);
        }
        self.last_heard = Some(heard.last);
        self.proven = if is_late { Duration::ZERO } else { now.since(heard.last).min(elapsed) };
        self.debt = Duration::ZERO;
        self.rounds = 0;
    }

    /// A round without an answer.
    fn extend(&mut self, elapsed: Duration, is_late: bool) {
        self.rounds = self.rounds.saturating_add(1);
        if !is_late {
            let paid = elapsed.min(self.debt);
            self.debt -= paid;
            self.proven = self.proven.saturating_add(elapsed - paid);
        }
    }

    /// The last round had no answer.
    pub fn has_missed(&self) -> bool {
        self.rounds > 0
    }

    /// So much proven silence on all paths is death.
    pub fn dead_after(&self, now: Instant) -> Duration {
        self.worst_gap(now).saturating_mul(GAP_FACTOR).clamp(self.dead_after_min, self.dead_after_max)
    }

    /// Silent for as long as is death.
    pub fn is_death(&self, now: Instant) -> bool {
        self.proven >= self.dead_after(now) || self.rounds >= self.rounds_max
    }

    /// Silent for as long as no delay explains, whatever was seen lately.
    pub fn is_out_of_bounds(&self) -> bool {
        self.proven >= self.dead_after_max || self.rounds >= self.rounds_max
    }

    /// The longest gap between answers on any path lately, without own lateness.
    pub fn worst_gap(&self, now: Instant) -> Duration {
        self.worst.at(now)
    }

    /// Ticks that came late, and by how much at most.
    pub fn lateness(&self) -> (u64, Duration) {
        (self.late, self.lateness_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Rig {
        silence: Silence,
        now: Instant,
    }

    impl Rig {
        /// Heard from for a while.
        fn new() -> Self {
            let silence = Silence::new(MS, 5, MS * 200);
            let mut rig = Self { silence, now: Instant(1_000_000_000) };
            (0..10).for_each(|_| rig.answered());
            rig
        }

        /// One tick, `late` behind its time.
        fn tick(&mut self, late: Duration) {
            let due = self.now + MS;
            self.now = due + late;
            self.silence.tick(self.now, due);
        }

        /// One tick after an answer.
        fn answered(&mut self) {
            self.silence.hear(self.now + MS / 50);
            self.tick(Duration::ZERO);
        }

        /// How many ticks in time until death.
        fn ticks_to_death(&mut self) -> u32 {
            let mut ticks = 0;
            while !self.silence.is_death(self.now) {
                self.tick(Duration::ZERO);
                ticks += 1;
                assert!(ticks < 1000, "never dead");
            }
            ticks
        }
    }

    /// Every one of five rounds must go unanswered for a whole interval: the first tick after the last answer proves
    /// what is left of its interval, five more prove the rest.
    #[test]
    fn five_rounds_are_death() {
        let mut rig = Rig::new();
        assert_eq!(rig.ticks_to_death(), 5);
    }

    /// A stop of this node is no silence, and asks for as much silence in time before a verdict, up to the bound (where
    /// two hundred unanswered rounds decide).
    #[test]
    fn a_stop_is_made_up_for() {
        for (stop, ticks) in [(3, 8), (50, 55), (100_000, 199)] {
            let mut rig = Rig::new();
            rig.tick(MS * stop);
            assert!(!rig.silence.is_death(rig.now));
            assert_eq!(rig.ticks_to_death(), ticks, "after {stop} ms");
            assert_eq!(rig.silence.lateness(), (1, MS * stop));
        }
    }

    /// An answer from before the stop does not pay for the time after it; one from after the stop does.
    #[test]
    fn only_an_answer_in_time_ends_the_debt() {
        let mut rig = Rig::new();
        rig.silence.hear(rig.now + MS / 50);
        rig.tick(MS * 50);
        assert_eq!(rig.ticks_to_death(), 55);
        let mut rig = Rig::new();
        rig.tick(MS * 50);
        rig.answered();
        assert_eq!(rig.ticks_to_death(), 5);
    }

    /// Whoever is late at every tick comes to a verdict all the same, after two hundred rounds.
    #[test]
    fn lateness_does_not_postpone_for_ever() {
        let mut rig = Rig::new();
        for _ in 0..199 {
            rig.tick(MS * 10);
            assert!(!rig.silence.is_death(rig.now));
        }
        rig.tick(MS * 10);
        assert!(rig.silence.is_death(rig.now) && rig.silence.is_out_of_bounds());
    }

    /// A gap that ended is remembered three times; one of a stop of this node, of an outage, or with an excuse is not.
    #[test]
    fn gaps_are_learned() {
        let gap = |ticks, excused: bool| {
            let mut rig = Rig::new();
            (0..ticks).for_each(|_| rig.tick(Duration::ZERO));
            if excused {
                rig.silence.excuse();
            }
            rig.answered();
            rig.silence.dead_after(rig.now)
        };
        let learned = gap(9, false);
        assert!(learned > MS * 29 && learned <= MS * 30, "{learned:?}");
        assert_eq!(gap(9, true), MS * 5);
        assert_eq!(gap(300, false), MS * 200);
        assert_eq!(gap(1100, false), MS * 5);
        let mut rig = Rig::new();
        rig.tick(MS * 90);
        rig.answered();
        assert_eq!(rig.silence.dead_after(rig.now), MS * 5);
    }
}
