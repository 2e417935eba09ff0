//! Waiting for descriptors and one deadline: epoll, and a timerfd on CLOCK_BOOTTIME.
//!
//! The deadline is absolute and on the very clock of [`ha_common::time::Instant`], so nothing is lost between
//! computing and waiting, and nanoseconds are kept (`epoll_wait` rounds to milliseconds).

use ha_common::time::Instant;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// The timer's own token; callers use smaller ones.
const TIMER: u64 = u64::MAX;
/// Events taken at one wake-up; more wait for the next, as epoll is level-triggered here.
const EVENTS_MAX: usize = 32;

/// A set of descriptors and a deadline to wait for.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Poller {
    /// # Errors
    /// When descriptors are exhausted.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self { epoll, timer, armed: None })
    }

    /// Reports nothing of a watched descriptor until it is resumed; what waits there is reported then.
    ///
    /// # Errors
    /// As `epoll_ctl`.
    pub fn pause(&self, source: impl AsFd, token: u64, pause: bool) -> io::Result<()> {
        let events = if pause { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token), events)?)
    }

    /// Waits for `source` to become readable from now on; `token` (below `u64::MAX`) is what [`Self::wait`] reports.
    /// Watching it again is fine, and closing it ends the watch.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub fn watch(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        match epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sleeps until a descriptor is readable or `deadline` has come (`None`: as long as it takes), and puts the
    /// tokens of the readable ones into `ready`.
    ///
    /// # Errors
    /// When the kernel refuses to wait; an interrupting signal is not an error but an early wake-up.
    pub fn wait(&mut self, deadline: Option<Instant>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.arm(deadline)?;
        self.collect(None, ready)
    }

    /// As [`Self::wait`], with what is there now: for whoever has waited for [`Self::duplicate`]'s descriptor.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn look(&mut self, ready: &mut Vec<u64>) -> io::Result<()> {
        self.collect(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }), ready)
    }

    /// Another descriptor of the poller, to wait for on any thread: readable when [`Self::wait`] would not sleep.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    fn collect(&mut self, at_most: Option<&Timespec>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        // On the stack, because an event may hold a pointer and would tie the poller to one thread.
        let mut space = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let events = match epoll::wait(&self.epoll, &mut space, at_most) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        for event in events.iter() {
            let token = event.data.u64();
            if token == TIMER {
                // It has fired: the next wait must set it again, even to the same instant.
                self.armed = None;
                let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            } else {
                ready.push(token);
            }
        }
        Ok(())
    }

    /// Sets the deadline; `None`: there is none.
    ///
    /// # Errors
    /// When the kernel refuses the timer.
    pub fn arm(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.armed == deadline {
            return Ok(());
        }
        // All zeros would disarm; a deadline at the epoch is long past and may fire one nanosecond late.
        let at = deadline.map_or(0, |deadline| deadline.0.max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        self.armed = deadline;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::mailbox::mailbox;
    use std::time::Duration;

    /// A deadline ends the wait with nothing ready, not before its time, and again when it is set again.
    #[test]
    fn deadline_ends_the_wait() {
        let mut poller = Poller::new().unwrap();
        let mut ready = vec![9];
        for _ in 0..2 {
            let deadline = clock::now() + Duration::from_micros(1500);
            poller.wait(Some(deadline), &mut ready).unwrap();
            assert!(clock::now() >= deadline);
            assert!(ready.is_empty());
        }
        // A deadline in the past, twice the same, returns at once both times.
        poller.wait(Some(Instant(0)), &mut ready).unwrap();
        poller.wait(Some(Instant(0)), &mut ready).unwrap();
    }

    /// A readable descriptor is reported under its token, as long as it is readable.
    #[test]
    fn readable_is_reported() {
        let (postman, mailbox) = mailbox::<u8>(1).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.watch(mailbox.fd(), 5).unwrap();
        postman.post(1).unwrap();
        let mut ready = Vec::new();
        poller.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [5]);
        while mailbox.next().is_some() {}
        poller.wait(Some(clock::now() + Duration::from_millis(1)), &mut ready).unwrap();
        assert!(ready.is_empty());
    }
}
