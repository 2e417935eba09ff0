//! The tick, which report is the newest, and the verdict.

use super::path::{self, Path, SILENT_AFTER, Taken};
use super::silence::Silence;
use super::stats::{Refusal, Refused, Stats};
use super::{Action, Config, Input, PathId, PathReply};
use crate::sight::{PeerReport, Sight};
use crate::time::{Instant, earliest};
use core::time::Duration;

/// Most paths that are probed.
const PATHS_MAX: usize = 16;
/// Shorter intervals would be a busy loop, longer ones nobody's wish.
const INTERVAL: (Duration, Duration) = (Duration::from_micros(100), Duration::from_secs(10));
/// Pace on a path that has been silent for long, while others live or nothing was ever heard.
const PACE_SILENT: Duration = Duration::from_millis(50);
/// Pace on all paths when the peer has been silent on all for long: it shall be seen soon after it is back.
const PACE_DEAD: Duration = Duration::from_millis(10);
/// Two paths that fell silent within this time of each other fell together.
const TOGETHER: Duration = SILENT_AFTER;
/// Who speaks again this soon after it was found silent was not dead.
const RECOVERED_WITHIN: Duration = Duration::from_secs(1);

/// The state machine: answers in, probes and [`Sight`]s out.
#[derive(Debug)]
pub struct Prober {
    interval: Duration,
    /// Between the first link and the first tick.
    phase: Duration,
    paths: Vec<Path>,
    silence: Silence,
    /// The next tick; `None` before the first link.
    due: Option<Instant>,
    last: Instant,
    newest: Option<PeerReport>,
    /// As it was last told; the report in it may be older than `newest`.
    told: Sight,
    silent_since: Option<Instant>,
    silences: u64,
    recovered: u64,
    refused: Refused,
}

impl Prober {
    /// `seed` decides the phase of the ticks: two nodes on one host shall not tick at the same moment.
    pub fn new(config: Config, seed: u64) -> Self {
        let interval = config.interval.clamp(INTERVAL.0, INTERVAL.1);
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interval,
            phase: Duration::from_nanos(seed % nanos.max(1)),
            paths: config.paths.iter().take(PATHS_MAX).map(|_| Path::new(interval)).collect(),
            silence: Silence::new(interval, config.multiplier.max(1), config.dead_after_max),
            due: None,
            last: Instant::default(),
            newest: None,
            told: Sight::Unknown,
            silent_since: None,
            silences: 0,
            recovered: 0,
            refused: Refused::default(),
        }
    }

    /// Takes one input; what must be done is appended. Total: any input at any time, also one before the last.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Action>) {
        if now < self.last {
            // The boot clock does not run backwards; if it did, waiting for the old time would be a stall.
            self.due = self.due.map(|due| due.min(now + self.interval));
        }
        self.last = now;
        match input {
            Input::Timer => self.tick(now, out),
            Input::Reply(reply) => self.reply(now, reply, out),
            Input::Link { path, up } => self.link(now, path, up),
        }
    }

    /// When [`Input::Timer`] is due; `None`: not before something else happens.
    pub fn poll_at(&self) -> Option<Instant> {
        self.due
    }

    /// The peer as it is seen now, with the newest ages.
    pub fn sight(&self) -> Sight {
        match (self.told, self.newest) {
            (Sight::Alive(_), Some(report)) => Sight::Alive(report),
            (Sight::Silent { .. }, Some(last)) => Sight::Silent { last },
            (Sight::Unknown | Sight::Alive(_) | Sight::Silent { .. }, _) => Sight::Unknown,
        }
    }

    /// Counters and present values, as of the last input.
    pub fn stats(&self) -> Stats {
        let (late, lateness_max) = self.silence.lateness();
        Stats {
            paths: self.paths.iter().map(Path::stats).collect(),
            sight: self.sight(),
            dead_after: self.silence.dead_after(self.last),
            worst_gap: self.silence.worst_gap(self.last),
            late,
            lateness_max,
            silences: self.silences,
            recovered: self.recovered,
            refused: self.refused,
        }
    }

    fn link(&mut self, now: Instant, id: PathId, up: bool) {
        let Some(path) = path::find(&mut self.paths, id) else { return };
        if up && !path.link_up {
            path.hurry(now);
            let first = now + if self.due.is_none() { self.phase } else { self.interval };
            self.due = earliest(self.due, Some(first));
        }
        path.link_up = up;
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(due) = self.due.filter(|due| *due <= now) else { return };
        self.silence.tick(now, due);
        // The verdict goes first: what follows from it is urgent.
        self.judge(now, out);
        let target_session = self.newest.map_or(0, |report| report.session);
        let slow = self.slow_pace();
        // Before the peer counts as dead, the paths that were silent for long are asked as well: one may have been healed since.
        let is_missed = matches!(self.told, Sight::Alive(_)) && self.silence.has_missed();
        for (number, path) in (0..).zip(&mut self.paths) {
            if path.probe_at().is_some_and(|at| at <= now || is_missed) {
                let (sequence, to) = path.probe(now, slow);
                out.push(Action::Probe { path: PathId(number), sequence, to, target_session });
            }
        }
        self.due = self.next_tick(now, due);
    }

    fn slow_pace(&self) -> Duration {
        let pace = match self.told {
            Sight::Silent { .. } => PACE_DEAD,
            Sight::Alive(_) | Sight::Unknown => PACE_SILENT,
        };
        pace.max(self.interval)
    }

    /// The next point of the grid at which there is something to do: ticks do not drift, and missed ones are not made up.
    fn next_tick(&self, now: Instant, due: Instant) -> Option<Instant> {
        let interval = self.interval.as_nanos().max(1);
        let into = u64::try_from(now.since(due).as_nanos() % interval).unwrap_or(0);
        let grid = now + self.interval.saturating_sub(Duration::from_nanos(into));
        let probe = self.paths.iter().filter_map(Path::probe_at).min();
        match self.told {
            // Silence is counted also when nothing can be sent.
            Sight::Alive(_) => Some(grid),
            Sight::Silent { .. } | Sight::Unknown => probe.map(|at| at.max(grid)),
        }
    }

    fn judge(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (Sight::Alive(_), Some(last)) = (self.told, self.newest) else { return };
        if !self.silence.is_death(now) {
            return;
        }
        let together = self.paths.iter().filter(|path| path.was_heard_since(last.heard - self.together()));
        let (count, provable) = together.fold((0, false), |(n, any), path| (n + 1, any || path.link_up));
        if count >= 2 && provable {
            self.silences += 1;
            self.silent_since = Some(now);
            self.tell(Sight::Silent { last }, out);
        } else if self.silence.is_out_of_bounds() {
            self.tell(Sight::Unknown, out);
        }
    }

    fn together(&self) -> Duration {
        TOGETHER.max(self.interval.saturating_mul(4))
    }

    fn reply(&mut self, now: Instant, reply: &PathReply, out: &mut Vec<Action>) {
        if let Err(refusal) = self.take(now, reply, out) {
            self.refused.count(refusal);
        }
    }

    fn take(&mut self, now: Instant, reply: &PathReply, out: &mut Vec<Action>) -> Result<(), Refusal> {
        let path = path::find(&mut self.paths, reply.path).ok_or(Refusal::UnknownPath)?;
        if path.check(now, reply)? == Taken::Known {
            return Ok(());
        }
        let asked = reply.received - reply.rtt;
        let report = PeerReport { heard: reply.received, asked, ..reply.report };
        let is_restart = match self.newest {
            Some(newest) if newest.session != report.session => {
                // Two paths may deliver in another order than was spoken. What was asked after one process was heard last,
                // and is answered by another, is answered by its successor.
                if report.asked < newest.heard {
                    path.refuse(reply);
                    return Err(Refusal::OldSession);
                }
                true
            }
            Some(_) | None => false,
        };
        path.take(now, reply);
        self.due = earliest(self.due, Some(now + self.interval));
        if is_restart {
            self.begin_anew(now);
        }
        self.silence.hear(reply.received);
        self.adopt(now, report, is_restart, out);
        Ok(())
    }

    /// The peer's process has a successor: its silence in between was no delay, and it may be back on all paths.
    fn begin_anew(&mut self, now: Instant) {
        self.silence.excuse();
        self.paths.iter_mut().for_each(|path| path.hurry(now));
    }

    fn adopt(&mut self, now: Instant, report: PeerReport, is_restart: bool, out: &mut Vec<Action>) {
        // Answers come path by path, and one may overtake the other: what was asked last counts.
        let newest = match self.newest {
            Some(newest) if newest.session == report.session && newest.asked > report.asked => newest,
            Some(_) | None => report,
        };
        self.newest = Some(newest);
        if let Some(since) = self.silent_since.take() {
            self.recovered += u64::from(!is_restart && now.since(since) < RECOVERED_WITHIN);
        }
        self.tell(Sight::Alive(newest), out);
    }

    /// Tells the election, unless only ages changed.
    fn tell(&mut self, sight: Sight, out: &mut Vec<Action>) {
        let is_news = match (self.told, sight) {
            (Sight::Alive(a), Sight::Alive(b)) => (a.session, a.term, a.standing) != (b.session, b.term, b.standing),
            (Sight::Silent { .. }, Sight::Silent { .. }) | (Sight::Unknown, Sight::Unknown) => false,
            (Sight::Alive(_) | Sight::Silent { .. } | Sight::Unknown, _) => true,
        };
        if is_news {
            self.told = sight;
            out.push(Action::Sight(sight));
        }
    }
}
