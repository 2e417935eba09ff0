//! Two threads that take turns at the loop, so that it goes on when one of them is not let run.
//!
//! A real-time thread that was woken still waits for its processor: where a kernel without full preemption is in a long
//! system call there (anybody who reads a large and sparse connection table), where a driver works through its interrupts, or
//! where a hypervisor runs something else. That may take longer than a lease, and a master that is well would give the group
//! away. So a second thread, on the other processors, looks whether what was due was done. When it was not it takes the turns, in
//! time, until the first thread has one again. Whoever has the lock has the turn: nothing of the loop is done by two at once.

use super::realtime::Realtime;
use super::{ControlError, ControlLoop, Turned};
use crate::clock;
use crate::mailbox::Mailbox;
use crate::request::ControlRequest;
use ha_common::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

const THREAD_NAME: &str = "control-second";
/// A turn may be so late before the second thread takes it: more than the timers' jitter, far less than a lease.
const PATIENCE: Duration = Duration::from_millis(3);
/// The second thread's longest sleep: what is due may be earlier than it was when the sleep began.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// While it stands in it waits for descriptors, and looks so often whether the first thread is back.
const STAND_IN_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 3_000_000 };
/// The first thread's stalls are told at most so often; the counter has them all.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The loop and what its turns need.
struct Turn {
    control: ControlLoop,
    mailbox: Mailbox<ControlRequest>,
    ready: Vec<u64>,
    ended: Option<Result<(), ControlError>>,
}

struct Shared {
    turn: Mutex<Turn>,
    /// The loop's poller: readable when a turn is due.
    poller: OwnedFd,
    /// When the next turn is due at the latest, nanoseconds of [`Instant`].
    due: AtomicU64,
    /// Turns that the first thread has taken.
    taken: AtomicU64,
    ended: AtomicBool,
}

/// Runs the prepared loop to its end, on the calling thread and on one that stands in for it where `realtime` is wanted. Returns the
/// loop, and how it ended.
pub(super) fn run(
    mut control: ControlLoop,
    mailbox: Mailbox<ControlRequest>,
    realtime: Realtime,
) -> (ControlLoop, Result<(), ControlError>) {
    let poller = match control.poller.duplicate() {
        Ok(poller) => poller,
        Err(error) => return (control, Err(ControlError::Poll(error))),
    };
    let due = match control.end_turn() {
        Ok(due) => due,
        Err(error) => return (control, Err(error)),
    };
    let shared = Shared {
        turn: Mutex::new(Turn { control, mailbox, ready: Vec::new(), ended: None }),
        poller,
        due: AtomicU64::new(due.0),
        taken: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        // On a single processor it would wait beside the first.
        let is_useful = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        let second = (realtime == Realtime::Wanted && is_useful).then(|| {
            let thread = std::thread::Builder::new().name(THREAD_NAME.into());
            thread.spawn_scoped(scope, || shared.stand_in(realtime))
        });
        if let Some(Err(error)) = &second {
            tracing::warn!(%error, "cannot start a thread that stands in for the control loop's: a stall of its processor may cost a lease");
        }
        shared.lead();
        shared.ended.store(true, Ordering::Relaxed);
        if let Some(Ok(thread)) = second {
            thread.thread().unpark();
        }
    });
    let turn = shared.turn.into_inner().unwrap_or_else(PoisonError::into_inner);
    (turn.control, turn.ended.unwrap_or(Ok(())))
}

impl Shared {
    /// The first thread: takes every turn that it is let.
    fn lead(&self) {
        loop {
            let waited = wait(&self.poller, None);
            // A panic of the other thread ends the process, except in tests, where it has ended the turn.
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.taken.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = waited {
                turn.end(Err(ControlError::Poll(error.into())));
            }
            if !turn.take(&self.due) {
                return;
            }
        }
    }

    /// The second thread.
    fn stand_in(&self, realtime: Realtime) {
        realtime.enter_as_stand_in();
        let mut told = None;
        while !self.ended.load(Ordering::Relaxed) {
            let (now, late_at) = (clock::now(), Instant(self.due.load(Ordering::Relaxed)) + PATIENCE);
            if now < late_at {
                std::thread::park_timeout(late_at.since(now).min(LOOK_EVERY));
                continue;
            }
            let taken = self.taken.load(Ordering::Relaxed);
            let Some(mut turn) = self.try_turn() else {
                // The first thread is at it, and takes its time.
                std::thread::park_timeout(PATIENCE);
                continue;
            };
            // It may have had its turn since the look.
            if self.taken.load(Ordering::Relaxed) != taken {
                continue;
            }
            turn.control.stand_ins += 1;
            let goes_on = turn.take(&self.due);
            drop(turn);
            if !goes_on || !self.go_on_until(taken) {
                return;
            }
            if told.is_none_or(|at| now >= at + TOLD_EVERY) {
                told = Some(now);
                let late_ms = clock::now().since(late_at - PATIENCE).as_secs_f64() * 1e3;
                tracing::warn!(
                    late_ms,
                    "the control thread's processor did not run it in time: another thread stood in (see \
                     twinwall_control_stand_ins_total)"
                );
            }
        }
    }

    /// Takes the turns in time while the first thread has had no more than `taken`. False: the loop has ended.
    fn go_on_until(&self, taken: u64) -> bool {
        while self.taken.load(Ordering::Relaxed) == taken && !self.ended.load(Ordering::Relaxed) {
            match wait(&self.poller, Some(&STAND_IN_WAIT)) {
                Ok(true) => {}
                Ok(false) => continue,
                // The first thread will be told the same.
                Err(_) => return false,
            }
            match self.try_turn() {
                Some(mut turn) if self.taken.load(Ordering::Relaxed) == taken => {
                    if !turn.take(&self.due) {
                        return false;
                    }
                }
                Some(_) | None => return true,
            }
        }
        true
    }

    fn try_turn(&self) -> Option<MutexGuard<'_, Turn>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Turn {
    /// A turn, unless the loop has ended: then, and when it ends now, false.
    fn take(&mut self, due: &AtomicU64) -> bool {
        if self.ended.is_some() {
            return false;
        }
        match self.control.turn(&self.mailbox, &mut self.ready) {
            Ok(Turned::Due(at)) => due.store(at.0, Ordering::Relaxed),
            Ok(Turned::Ended) => self.end(Ok(())),
            Err(error) => self.end(Err(error)),
        }
        self.ended.is_none()
    }

    /// The first thread, which may sleep, is woken to find that all is over.
    fn end(&mut self, result: Result<(), ControlError>) {
        self.ended = Some(result);
        if let Err(error) = self.control.poller.arm(Some(Instant(0))) {
            tracing::error!(%error, "cannot wake the control thread");
        }
    }
}

/// Sleeps until the descriptor is readable; false when it has taken too long, or a signal came.
fn wait(fd: &OwnedFd, at_most: Option<&Timespec>) -> Result<bool, Errno> {
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], at_most) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
