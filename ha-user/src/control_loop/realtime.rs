//! A thread that load on the machine cannot delay: SCHED_FIFO, and no page of the process swapped out.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;

/// The middle of the range, where the kernel runs its own threaded interrupts: above all ordinary work, not above
/// what delivers the packets.
const PRIORITY: i32 = 50;

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
                if let Err(error) = schedule_first() {
                    tracing::warn!(
                        %error,
                        "no real-time scheduling: load may delay the election (grant CAP_SYS_NICE or LimitRTPRIO=)"
                    );
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
}

#[expect(unsafe_code, reason = "no crate in use wraps sched_setscheduler")]
fn schedule_first() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: PRIORITY };
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
/// The limit goes first: with a finite one, locking the future would make ordinary allocations fail once the
/// capability is dropped.
fn lock_memory() -> io::Result<()> {
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}
