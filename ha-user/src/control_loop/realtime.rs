//! A thread that load on the machine cannot delay: SCHED_FIFO, and no page of the process swapped out.

use crate::affinity;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use std::io;

/// The middle of the range, where the kernel runs its own threaded interrupts: above all ordinary work, not above
/// what delivers the packets.
const PRIORITY: i32 = 50;
/// Of what works for the loop beside it.
const PRIORITY_BESIDE: i32 = PRIORITY - 1;

/// Whether the control thread asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Realtime {
    /// Where it is permitted; otherwise a warning.
    #[default]
    Wanted,
    /// Not at all: for tests that share a machine.
    Skip,
}

impl Realtime {
    /// Applies it to the calling thread. What is not permitted is logged with the remedy and done without.
    pub fn enter(self) {
        match self {
            Self::Skip => {}
            Self::Wanted => {
                if let Err(error) = schedule_first(PRIORITY) {
                    tracing::warn!(
                        %error,
                        "no real-time scheduling: load may delay the election (grant CAP_SYS_NICE or LimitRTPRIO=)"
                    );
                }
                if let Err(error) = affinity::go_to_reserved() {
                    tracing::warn!(%error, "no processor is left to the election: reading large tables may delay it");
                }
                if let Err(error) = lock_memory() {
                    tracing::warn!(
                        %error,
                        "memory is not locked: swapping may delay the election (grant CAP_IPC_LOCK or \
                         LimitMEMLOCK=infinity)"
                    );
                }
            }
        }
    }

    /// The scheduling alone, on the processors that [`Self::enter`] does not begin on: for a thread that does the loop's work when
    /// the loop's own is not let run. What is not permitted the loop's thread has said.
    pub fn enter_as_stand_in(self) {
        match self {
            Self::Skip => {}
            Self::Wanted => {
                drop(schedule_first(PRIORITY));
                let _ = affinity::leave_reserved();
            }
        }
    }

    /// The scheduling alone, for a thread that serves the loop, which has said what is not permitted: it may wait for a
    /// lock of the kernel by spinning, and must let the loop run meanwhile.
    pub fn enter_beside(self) {
        match self {
            Self::Skip => {}
            Self::Wanted => drop(schedule_first(PRIORITY_BESIDE)),
        }
    }
}

#[expect(unsafe_code, reason = "no crate in use wraps sched_setscheduler")]
fn schedule_first(sched_priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority };
    // Children (hooks) start with ordinary scheduling again.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: thread 0 is the calling one, and the parameter is a live, initialised sched_param.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks what is mapped now and later, page by page as it is touched (a table of flows that is only reserved costs
/// nothing).
///
/// The future is locked only when no limit can make an ordinary allocation fail because of it.
fn lock_memory() -> io::Result<()> {
    let unlimited = getrlimit(Resource::Memlock).current.is_none()
        || setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_ok();
    let privileged = capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK);
    let mut flags = MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT;
    flags.set(MlockAllFlags::FUTURE, unlimited || privileged);
    Ok(mlockall(flags)?)
}
