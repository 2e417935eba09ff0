//! A check by a program: exit code 0 is good.

use super::Verdict;
use super::judge::Judge;
use super::rhythm::Ticks;
use crate::child::{self, Leftovers, Progress, Run};
use crate::config::track::TrackedScript;
use crate::poller::Poller;
use ha_common::time::{Instant, earliest};

/// One tracked script. Two runs of it never overlap: not even when one cannot be killed.
pub struct Script {
    config: TrackedScript,
    judge: Judge,
    ticks: Ticks,
    run: Option<Run>,
    /// The present run was killed, judged then, and has not ended yet.
    judged_at: Option<Instant>,
    /// What the last failure looked like.
    failure: String,
}

impl Script {
    pub fn new(config: TrackedScript, now: Instant) -> Self {
        let (rise, fall, interval) = (config.rhythm.rise, config.rhythm.fall, config.rhythm.interval);
        let (judge, ticks) = (Judge::new(rise, fall), Ticks::new(interval, now));
        Self { config, judge, ticks, run: None, judged_at: None, failure: String::new() }
    }

    /// Sees to the present run and begins the next; to be called at each wake-up.
    pub fn advance(&mut self, now: Instant, poller: &Poller, token: u64) -> Option<Verdict> {
        let mut verdict = self.see_to_run(now);
        if self.ticks.is_due(now) {
            verdict = match &self.run {
                None => self.start(now, poller, token).or(verdict),
                Some(_) => self.judge_stuck(now).or(verdict),
            };
        }
        verdict
    }

    /// When [`Self::advance`] is wanted even if nothing happens.
    pub fn poll_at(&self) -> Option<Instant> {
        earliest(Some(self.ticks.next()), self.run.as_ref().and_then(Run::poll_at))
    }

    fn see_to_run(&mut self, now: Instant) -> Option<Verdict> {
        let run = self.run.as_mut()?;
        let progress = run.advance(now);
        let line = run.last_line();
        match progress {
            Progress::Running => None,
            Progress::Overdue => {
                self.judged_at = Some(now);
                let timeout = self.config.rhythm.timeout;
                Some(self.hear(Err(child::with_line(format!("did not end within {timeout:?}"), &line))))
            }
            Progress::Ended(status) => {
                self.run = None;
                if self.judged_at.take().is_some() {
                    return None;
                }
                let result = if status.success() { Ok(()) } else { Err(child::describe(status, &line)) };
                Some(self.hear(result))
            }
        }
    }

    /// Killed long ago and not gone: it hangs in the kernel, which is as bad as a failure.
    fn judge_stuck(&mut self, now: Instant) -> Option<Verdict> {
        self.judged_at.filter(|at| now.since(*at) >= self.config.rhythm.timeout)?;
        self.judged_at = Some(now);
        Some(self.hear(Err("was killed and has not ended yet".to_owned())))
    }

    fn start(&mut self, now: Instant, poller: &Poller, token: u64) -> Option<Verdict> {
        let deadline = now + self.config.rhythm.timeout;
        let environment = [("TWINWALL_SCRIPT", self.config.name.clone())];
        let started = Run::start(&self.config.program, &self.config.arguments, environment, deadline, Leftovers::Kill)
            .and_then(|run| run.watch(poller, token).map(|()| run));
        match started {
            Ok(run) => {
                self.run = Some(run);
                None
            }
            Err(error) => Some(self.hear(Err(format!("cannot start {}: {error}", self.config.program.display())))),
        }
    }

    fn hear(&mut self, result: Result<(), String>) -> Verdict {
        let good = result.is_ok();
        if let Err(failure) = result {
            tracing::debug!(script = self.config.name, failure, "a check failed");
            self.failure = failure;
        }
        if self.judge.hear(good) {
            Verdict::Good
        } else {
            Verdict::Bad { weight: self.config.weight, detail: self.failure.clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::tests::assert_gone;
    use crate::clock;
    use crate::config::track::Rhythm;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn script(text: &str, rise: u8, fall: u8) -> Script {
        let rhythm = Rhythm { interval: 20 * MS, timeout: 200 * MS, rise, fall };
        let config = TrackedScript {
            name: "bgp".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), text.to_owned()],
            weight: 50,
            rhythm,
        };
        Script::new(config, clock::now())
    }

    /// Lets the script run until it has given so many verdicts.
    fn verdicts(script: &mut Script, count: usize) -> Vec<Verdict> {
        let (mut poller, limit) = (Poller::new().unwrap(), clock::now() + Duration::from_secs(20));
        let mut verdicts = Vec::new();
        while verdicts.len() < count {
            assert!(clock::now() < limit, "only {verdicts:?}");
            verdicts.extend(script.advance(clock::now(), &poller, 1));
            poller.wait(script.poll_at(), &mut Vec::new()).unwrap();
        }
        verdicts
    }

    fn bad(detail: &str) -> Verdict {
        Verdict::Bad { weight: 50, detail: detail.to_owned() }
    }

    /// A script that fails, then succeeds: the first failure counts at once, two successes end it, and until then the
    /// detail is the last failure's.
    #[test]
    fn failing_and_recovering() {
        let directory = tempfile::tempdir().unwrap();
        let flag = directory.path().join("up");
        let mut script = script(&format!("echo no session; test -e {}", flag.display()), 2, 3);
        let failure = bad("exit code 1: no session");
        assert_eq!(verdicts(&mut script, 1), std::slice::from_ref(&failure));
        std::fs::write(&flag, "").unwrap();
        assert_eq!(verdicts(&mut script, 2), [failure.clone(), Verdict::Good]);
        std::fs::remove_file(&flag).unwrap();
        assert_eq!(verdicts(&mut script, 3), [Verdict::Good, Verdict::Good, failure]);
    }

    /// Runs that hang are killed and judged in time, and never more than one runs.
    #[test]
    fn a_hanging_script_fails_and_never_overlaps() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut script = script(&format!("echo $$ >>{0}; sleep 60; :", log.display()), 1, 1);
        let begin = clock::now();
        let failure = bad("did not end within 200ms");
        assert_eq!(verdicts(&mut script, 3), [failure.clone(), failure.clone(), failure]);
        assert!(clock::now().since(begin) >= 600 * MS, "runs overlapped");
        drop(script);
        let started = std::fs::read_to_string(log).unwrap();
        assert!((3..=4).contains(&started.lines().count()), "{started}");
        started.lines().for_each(assert_gone);
    }

    /// A program that does not exist is a failure that names it.
    #[test]
    fn a_missing_program_fails() {
        let mut script = script("", 1, 1);
        script.config.program = "/nonexistent/check".into();
        match verdicts(&mut script, 1).as_slice() {
            [Verdict::Bad { detail, .. }] => assert!(detail.starts_with("cannot start /nonexistent/check"), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
}
