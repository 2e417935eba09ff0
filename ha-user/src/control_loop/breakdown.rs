//! A transition explains itself: when each of its stages was reached, and how long it took.
//!
//! Pure: the loop stamps what it does, [`Explainer::poll`] says when a transition is told, and the last ones are kept.

use crate::status::{BreakdownStatus, HistogramStatus, StageStatus, StageTimes};
use ha_common::election::Transition;
use ha_common::role::Role;
use ha_common::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a transition goes through; each is stamped once, in this order as far as it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// From the old master's last sign of life (heartbeat or advert) to the decision.
    Detected,
    /// The kernel knows: the gate is open (or closed, when mastership is left).
    Lease,
    /// Addresses and routes are there (or gone).
    Vips,
    /// The first and the last neighbour announcement of the first round were sent.
    FirstAnnounced,
    Announced,
    /// Hooks were told; they run beside the election.
    Hooks,
    /// The host's IP stack has forwarded a packet after the announcements began.
    Forwarded,
}

impl Stage {
    pub const ALL: [Self; 7] =
        [Self::Detected, Self::Lease, Self::Vips, Self::FirstAnnounced, Self::Announced, Self::Hooks, Self::Forwarded];

    /// The snake-case name used in logs, status and as metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::Lease => "lease",
            Self::Vips => "vips",
            Self::FirstAnnounced => "first_announced",
            Self::Announced => "announced",
            Self::Hooks => "hooks",
            Self::Forwarded => "forwarded",
        }
    }
}

/// The label of a whole transition beside its stages'.
const TOTAL: &str = "total";
/// Transitions that are remembered.
const HISTORY_MAX: usize = 16;
/// When a transition is told although stages are missing: nobody sends packets, or there are no hooks.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// Pace at which the forwarding counter is looked at, first and after [`SLOWER_AFTER`].
const SAMPLE_EVERY: Duration = Duration::from_millis(1);
const SAMPLE_EVERY_SLOWER: Duration = Duration::from_millis(10);
const SLOWER_AFTER: Duration = Duration::from_millis(50);

/// One transition.
#[derive(Clone, Debug)]
pub struct Breakdown {
    transition: Transition,
    /// When it began: the last sign of life of the old master, else the decision.
    began: Instant,
    stamps: [Option<Instant>; Stage::ALL.len()],
}

impl Breakdown {
    fn new(transition: Transition, last_life: Option<Instant>) -> Self {
        let began = last_life.or(transition.last_heard).filter(|at| *at <= transition.at).unwrap_or(transition.at);
        let mut stamps = [None; Stage::ALL.len()];
        if let Some(detected) = stamps.first_mut() {
            *detected = Some(transition.at);
        }
        Self { transition, began, stamps }
    }

    fn has(&self, stage: Stage) -> bool {
        self.stamps.get(stage as usize).is_some_and(Option::is_some)
    }

    fn set(&mut self, stage: Stage, at: Instant) {
        if let Some(stamp) = self.stamps.get_mut(stage as usize) {
            *stamp = Some(at);
        }
    }

    /// Reached stages with the time since the one reached before, in the order in which they were reached.
    pub fn stages(&self) -> Vec<(Stage, Duration)> {
        let mut reached: Vec<(Instant, Stage)> =
            Stage::ALL.into_iter().zip(self.stamps).filter_map(|(stage, at)| Some((at?, stage))).collect();
        reached.sort();
        let mut before = self.began;
        let durations = reached.into_iter().map(|(at, stage)| {
            let took = at.since(before);
            before = at;
            (stage, took)
        });
        durations.collect()
    }

    /// From the beginning to the last stage.
    pub fn total(&self) -> Duration {
        let last = self.stamps.iter().flatten().max().copied();
        last.map_or(Duration::ZERO, |last| last.since(self.began))
    }

    /// `detected 5.1 ms, lease 0.0 ms, …`
    pub fn explain(&self) -> String {
        let stages = self.stages().into_iter().map(|(stage, took)| format!("{} {:.1} ms", stage.name(), ms(took)));
        stages.collect::<Vec<_>>().join(", ")
    }

    pub const fn transition(&self) -> &Transition {
        &self.transition
    }

    fn status(&self, now: Instant) -> BreakdownStatus {
        let stages = self.stages().into_iter();
        BreakdownStatus {
            from: self.transition.from.name().to_owned(),
            to: self.transition.to.name().to_owned(),
            cause: self.transition.cause.name().to_owned(),
            seconds_ago: now.since(self.transition.at).as_secs_f64(),
            stages: stages.map(|(stage, took)| StageStatus { stage: stage.name().to_owned(), ms: ms(took) }).collect(),
            total_ms: ms(self.total()),
        }
    }
}

/// The transition under way, those before it, and how long their stages took.
#[derive(Debug, Default)]
pub struct Explainer {
    current: Option<Breakdown>,
    /// The first round of announcements of the current transition goes on.
    round: bool,
    /// What the forwarding counter was before the announcements, and when it is looked at next.
    sampling: Option<(u64, Instant)>,
    /// Newest first.
    history: VecDeque<Breakdown>,
    /// By cause and stage. There are some twenty causes.
    times: BTreeMap<(&'static str, &'static str), Times>,
}

impl Explainer {
    /// A transition begins; the one before is closed as it is, and returned to be told. `last_life`: when the old master
    /// was last heard by heartbeats (an advert is in the transition).
    pub fn begin(&mut self, transition: Transition, last_life: Option<Instant>) -> Option<&Breakdown> {
        let had_one = self.close();
        self.current = Some(Breakdown::new(transition, last_life));
        if had_one { self.history.front() } else { None }
    }

    /// The current transition reached a stage; only the first time counts.
    pub fn stamp(&mut self, stage: Stage, at: Instant) {
        if let Some(current) = self.current.as_mut().filter(|current| !current.has(stage)) {
            current.set(stage, at);
        }
    }

    /// Whether [`Self::begin_round`] is wanted before the next announcement.
    pub fn awaits_round(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.has(Stage::FirstAnnounced))
    }

    /// The counter cannot be read any more.
    pub fn stop_sampling(&mut self) {
        self.sampling = None;
    }

    /// The new master's neighbours are told. `forwarded`: the host's counter of forwarded packets before, if it can be read.
    pub fn begin_round(&mut self, forwarded: Option<u64>, at: Instant) {
        if self.awaits_round() {
            self.round = true;
            self.sampling = forwarded.map(|count| (count, at));
        }
    }

    /// An announcement was sent.
    pub fn announced(&mut self, at: Instant) {
        self.stamp(Stage::FirstAnnounced, at);
        if self.round
            && let Some(current) = &mut self.current
        {
            current.set(Stage::Announced, at);
        }
    }

    /// All neighbours were told once; what follows repeats it.
    pub fn end_round(&mut self) {
        self.round = false;
    }

    /// When [`Self::sample`] or [`Self::poll`] is wanted.
    pub fn poll_at(&self) -> Option<Instant> {
        let told_at = self.current.as_ref()?.transition.at + TOLD_AFTER;
        Some(self.sampling.map_or(told_at, |(_, at)| at.min(told_at)))
    }

    /// Whether the forwarding counter is to be read now.
    pub fn wants_sample(&self, now: Instant) -> bool {
        self.sampling.is_some_and(|(_, at)| at <= now)
    }

    /// The counter as it is now.
    pub fn sample(&mut self, forwarded: u64, now: Instant) {
        let Some((before, _)) = self.sampling else { return };
        // It is the host's: it may only be compared with itself, and starts anew with a network namespace alone.
        if forwarded != before {
            self.sampling = None;
            self.stamp(Stage::Forwarded, now);
            return;
        }
        let since = self.current.as_ref().map_or(TOLD_AFTER, |current| now.since(current.transition.at));
        let every = if since < SLOWER_AFTER { SAMPLE_EVERY } else { SAMPLE_EVERY_SLOWER };
        self.sampling = Some((before, now + every));
    }

    /// Closes the current transition once it has all its stages or its time is over; it is to be told then.
    pub fn poll(&mut self, now: Instant) -> Option<&Breakdown> {
        let current = self.current.as_ref()?;
        let complete = current.transition.to == Role::Master && Stage::ALL.into_iter().all(|stage| current.has(stage));
        if !complete && now < current.transition.at + TOLD_AFTER {
            return None;
        }
        self.close();
        self.history.front()
    }

    /// The last transitions, newest first, the current one included.
    pub fn history(&self, now: Instant) -> Vec<BreakdownStatus> {
        self.current.iter().chain(&self.history).take(HISTORY_MAX).map(|breakdown| breakdown.status(now)).collect()
    }

    /// How long the stages of all closed transitions took.
    pub fn stage_times(&self) -> Vec<StageTimes> {
        let rows = self.times.iter().map(|((cause, stage), times)| StageTimes {
            cause: (*cause).to_owned(),
            stage: (*stage).to_owned(),
            times: times.status(),
        });
        rows.collect()
    }

    fn close(&mut self) -> bool {
        let Some(breakdown) = self.current.take() else { return false };
        (self.round, self.sampling) = (false, None);
        let cause = breakdown.transition.cause.name();
        for (stage, took) in breakdown.stages() {
            self.times.entry((cause, stage.name())).or_default().record(took);
        }
        self.times.entry((cause, TOTAL)).or_default().record(breakdown.total());
        self.history.truncate(HISTORY_MAX - 1);
        self.history.push_front(breakdown);
        true
    }
}

/// Upper bounds of the classes, microseconds: from less than a tick to CARP's dead time.
const BOUNDS_US: [u64; 14] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// How many were not longer than the bound.
    up_to: [u64; BOUNDS_US.len()],
    count: u64,
    sum: Duration,
}

impl Times {
    fn record(&mut self, took: Duration) {
        for (bound, count) in BOUNDS_US.into_iter().zip(&mut self.up_to) {
            *count += u64::from(took <= Duration::from_micros(bound));
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    fn status(&self) -> HistogramStatus {
        let bounds = BOUNDS_US.into_iter().map(|bound| Duration::from_micros(bound).as_secs_f64());
        HistogramStatus {
            buckets: bounds.zip(self.up_to).collect(),
            sum_seconds: self.sum.as_secs_f64(),
            count: self.count,
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::election::Cause;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000) + Duration::from_millis(ms)
    }

    fn takeover(decided: u64) -> Transition {
        let (from, to) = (Role::Backup, Role::Master);
        Transition { at: at(decided), from, to, cause: Cause::MasterDown, last_heard: Some(at(1)), term: 0 }
    }

    /// A whole takeover: each stage has its own time, the sum is the total, repeated announcements change nothing, and it is
    /// told once, when the first packet was forwarded.
    #[test]
    fn a_takeover_is_explained() {
        let mut explainer = Explainer::default();
        assert!(explainer.begin(takeover(10), Some(at(5))).is_none());
        explainer.stamp(Stage::Lease, at(11));
        explainer.stamp(Stage::Vips, at(13));
        explainer.begin_round(Some(70), at(13));
        explainer.announced(at(14));
        explainer.announced(at(16));
        explainer.end_round();
        explainer.announced(at(18));
        explainer.stamp(Stage::Hooks, at(17));
        explainer.stamp(Stage::Lease, at(17));
        assert!(explainer.wants_sample(at(17)));
        explainer.sample(70, at(17));
        assert_eq!(explainer.poll_at(), Some(at(18)));
        assert!(explainer.poll(at(18)).is_none());
        explainer.sample(71, at(18));
        let told = explainer.poll(at(18)).expect("complete");
        assert_eq!(
            told.explain(),
            "detected 5.0 ms, lease 1.0 ms, vips 2.0 ms, first_announced 1.0 ms, announced 2.0 ms, hooks 1.0 ms, forwarded 1.0 ms"
        );
        assert_eq!(told.total(), Duration::from_millis(13));
        assert!(explainer.poll(at(5000)).is_none() && explainer.poll_at().is_none());
        let history = explainer.history(at(1010));
        assert_eq!((history.len(), history[0].cause.as_str(), history[0].total_ms), (1, "master_down", 13.0));
        assert!((history[0].seconds_ago - 1.0).abs() < 1e-9);
    }

    /// Where nobody sends a packet the counter is looked at ever more seldom, and the transition is told after a second
    /// without that stage; without heartbeats and adverts it begins with the decision.
    #[test]
    fn a_quiet_takeover_is_told_after_a_second() {
        let mut explainer = Explainer::default();
        let transition = Transition { last_heard: None, ..takeover(10) };
        explainer.begin(transition, None);
        explainer.begin_round(Some(0), at(10));
        let mut samples = 0;
        let mut now = at(10);
        let told = loop {
            if explainer.wants_sample(now) {
                samples += 1;
                explainer.sample(0, now);
            }
            if let Some(told) = explainer.poll(now) {
                break told.clone();
            }
            now = explainer.poll_at().expect("something is under way");
        };
        assert_eq!(now, at(1010));
        assert!((50..=200).contains(&samples), "{samples}");
        assert_eq!(told.explain(), "detected 0.0 ms");
    }

    /// A transition that is overtaken by the next one is told then; sixteen are remembered, all are counted.
    #[test]
    fn history_is_bounded() {
        let mut explainer = Explainer::default();
        for round in 0..40 {
            let told = explainer.begin(takeover(10 + round), None);
            assert_eq!(told.is_some(), round > 0);
        }
        let history = explainer.history(at(100));
        assert_eq!(history.len(), HISTORY_MAX);
        assert!(history[0].seconds_ago < history[15].seconds_ago);
        let times = explainer.stage_times();
        let total = times.iter().find(|row| row.stage == "total").expect("a total");
        assert_eq!((times.len(), total.times.count, total.cause.as_str()), (2, 39, "master_down"));
        // 9 ms to 47 ms: one at most 10 ms in two, sixteen up to 25 ms.
        assert_eq!(total.times.buckets[6], (0.01, 2));
        assert_eq!(total.times.buckets[7], (0.025, 17));
    }

    /// A last sign of life that is younger than the decision (another path's) does not make time run backwards.
    #[test]
    fn time_does_not_run_backwards() {
        let mut explainer = Explainer::default();
        let transition = Transition { last_heard: None, ..takeover(10) };
        explainer.begin(transition, Some(at(11)));
        assert_eq!(explainer.history(at(12))[0].total_ms, 0.0);
    }
}
