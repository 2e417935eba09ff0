//! Programs that are told of a change of role: a thread of its own runs them one at a time, each with a time limit.
//!
//! The control loop posts a change after the addresses and their announcements (state, lease, VIP, GARP, hooks) and
//! never waits. When changes come faster than the hooks run, the run that has begun ends (or is killed at its time
//! limit), the rest of its change is skipped and counted, and the newest change is told.

mod event;
mod post;
mod record;

pub use event::{Event, priority};
pub use post::HookPost;
pub use record::Record;

use crate::child::{self, Leftovers, Progress, Run};
use crate::clock;
use crate::config::Resolved;
use crate::mailbox::Mailbox;
use crate::poller::Poller;
use crate::request::HookRequest;
use event::Call;
use ha_common::time::{Instant, earliest};
use record::Outcome;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long the daemon's end waits for what is still to be told; the service manager must wait for longer.
pub const END_WITHIN: Duration = Duration::from_secs(5);

const ANYTHING: u64 = 0;
const REQUESTS_MAX: usize = 64;

/// Why the hooks cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for hooks: {0} (are file descriptors exhausted? see `ulimit -n`)")]
pub struct HookError(#[source] io::Error);

/// The thread's state.
pub struct HookRunner {
    config: Arc<Resolved>,
    record: Arc<Record>,
    poller: Poller,
    /// The change that is being told, and what is left of it.
    telling: Option<Event>,
    calls: VecDeque<Call>,
    run: Option<Running>,
    /// Set by [`HookRequest::Stop`].
    end_at: Option<Instant>,
}

struct Running {
    run: Run,
    call: Call,
    /// It was killed and counted; only its end is awaited, so that no two ever run at one time.
    killed: bool,
}

impl HookRunner {
    /// # Errors
    /// When descriptors are exhausted.
    pub fn new(config: Arc<Resolved>, record: Arc<Record>) -> Result<Self, HookError> {
        let poller = Poller::new().map_err(HookError)?;
        Ok(Self { config, record, poller, telling: None, calls: VecDeque::new(), run: None, end_at: None })
    }

    /// Runs hooks until [`HookRequest::Stop`], and what is still to be told then for at most [`END_WITHIN`].
    ///
    /// # Errors
    /// When the kernel refuses to report events any more.
    pub fn run(mut self, mailbox: Mailbox<HookRequest>) -> Result<(), HookError> {
        self.poller.watch(mailbox.fd(), ANYTHING).map_err(HookError)?;
        let mut ready = Vec::new();
        loop {
            for _ in 0..REQUESTS_MAX {
                match mailbox.next() {
                    None => break,
                    Some(HookRequest::Event(event)) => self.tell(event),
                    Some(HookRequest::Stop) => self.end_at = Some(clock::now() + END_WITHIN),
                }
            }
            let now = clock::now();
            self.advance(now);
            if let Some(end_at) = self.end_at
                && (self.is_idle() || end_at <= now)
            {
                self.skip_rest();
                self.abandon(now);
                return Ok(());
            }
            let deadline = earliest(self.run.as_ref().and_then(|running| running.run.poll_at()), self.end_at);
            self.poller.wait(deadline, &mut ready).map_err(HookError)?;
        }
    }

    /// The newest change wins: what is left of the one before it is skipped.
    fn tell(&mut self, event: Event) {
        // The change whose last program runs has been told.
        let event = match self.telling.take().filter(|_| !self.calls.is_empty()) {
            Some(older) => event.after(&older),
            None => event,
        };
        self.skip_rest();
        self.calls = event.calls(&self.config).into();
        self.telling = Some(event);
    }

    fn is_idle(&self) -> bool {
        self.run.is_none() && self.calls.is_empty()
    }

    fn skip_rest(&mut self) {
        for call in self.calls.drain(..) {
            tracing::warn!(
                hook = call.occasion.name(),
                command = command(&call),
                "a hook is skipped: a newer change overtook it, or the daemon ends"
            );
            self.record.count(call.occasion, Outcome::Skipped, 1);
        }
    }

    /// The daemon ends, and with it the program that still runs.
    fn abandon(&mut self, now: Instant) {
        if let Some(running) = self.run.take().filter(|running| !running.killed) {
            let detail = "still ran at the end of the daemon and was killed".to_owned();
            report(&self.record, &running.call, Outcome::TimedOut, detail, now);
        }
    }

    /// Sees to the run, and begins the next one when there is none.
    fn advance(&mut self, now: Instant) {
        if let Some(running) = &mut self.run {
            let progress = running.run.advance(now);
            let line = running.run.last_line();
            match progress {
                Progress::Running => return,
                Progress::Overdue => {
                    running.killed = true;
                    let detail = format!("did not end within {:?} and was killed", self.config.hooks.timeout);
                    report(&self.record, &running.call, Outcome::TimedOut, child::with_line(detail, &line), now);
                    return;
                }
                Progress::Ended(status) => {
                    if !running.killed {
                        let outcome = if status.success() { Outcome::Ok } else { Outcome::Failed };
                        report(&self.record, &running.call, outcome, child::describe(status, &line), now);
                    }
                    self.run = None;
                }
            }
        }
        while self.run.is_none() {
            let Some(call) = self.calls.pop_front() else { return };
            self.start(call, now);
        }
    }

    fn start(&mut self, call: Call, now: Instant) {
        let deadline = now + self.config.hooks.timeout;
        let environment = call.environment.iter().cloned();
        let started = Run::start(&call.program, &call.arguments, environment, deadline, Leftovers::Keep)
            .and_then(|run| run.watch(&self.poller, ANYTHING).map(|()| run));
        match started {
            Ok(run) => {
                self.record.begun(command(&call));
                self.run = Some(Running { run, call, killed: false });
            }
            Err(error) => {
                let detail = format!("{error} (is it there and executable?)");
                report(&self.record, &call, Outcome::CouldNotStart, detail, now);
            }
        }
    }
}

fn report(record: &Record, call: &Call, outcome: Outcome, detail: String, now: Instant) {
    let (hook, command, result) = (call.occasion.name(), command(call), outcome.name());
    match outcome {
        Outcome::Ok => tracing::info!(hook, command, detail, "a hook has run"),
        Outcome::Failed | Outcome::TimedOut | Outcome::Skipped | Outcome::CouldNotStart => {
            tracing::warn!(hook, command, result, detail, "a hook failed");
        }
    }
    record.ended(call.occasion, outcome, command, detail, now);
}

/// Program and arguments, for people.
fn command(call: &Call) -> String {
    let words = std::iter::once(call.program.display().to_string()).chain(call.arguments.iter().cloned());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
