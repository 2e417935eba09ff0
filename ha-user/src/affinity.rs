//! Which processors the threads use: a long system call for the state must not hold up the election.
//!
//! On kernels without full preemption a system call keeps its processor until it ends or offers to yield, and a real-time
//! thread that is woken there waits. Most take microseconds. One does not: a read of the connection table goes through all
//! buckets until it has filled its buffer, and when few entries are left, as after a flush, that are all of them in one go
//! (`ctnetlink_dump_table` in net/netfilter/nf_conntrack_netlink.c): 60 ms for a million buckets, longer than a lease. So
//! the last processor that the daemon may use is left to the control loop by the thread that reads tables. The control loop
//! is not bound to it: where another real-time thread wants it, the kernel moves one of them.

use rustix::io::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The calling thread goes to the processor that [`leave_reserved`] leaves, and stays until the kernel has a reason to move it.
///
/// # Errors
/// When the kernel refuses; the thread then runs where it did.
pub fn go_to_reserved() -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let Some(reserved) = reserved(&allowed) else { return Ok(()) };
    let mut alone = CpuSet::new();
    alone.set(reserved);
    sched_setaffinity(None, &alone)?;
    sched_setaffinity(None, &allowed)
}

/// The calling thread, and those that it starts, leave that processor alone. Returns what was allowed before.
///
/// # Errors
/// When the kernel refuses; the thread then runs where it did.
pub fn leave_reserved() -> Result<CpuSet> {
    let allowed = sched_getaffinity(None)?;
    if let Some(reserved) = reserved(&allowed) {
        let mut others = allowed;
        others.unset(reserved);
        sched_setaffinity(None, &others)?;
    }
    Ok(allowed)
}

/// The last of them, where there are two at least.
fn reserved(allowed: &CpuSet) -> Option<usize> {
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu))?;
    (allowed.count() > 1).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One processor alone is shared; else the thread that leaves has all but the last, and the one that goes there may still
    /// use all.
    #[test]
    fn one_is_left() {
        std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            go_to_reserved().unwrap();
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
            assert_eq!(leave_reserved().unwrap(), allowed);
            let left = sched_getaffinity(None).unwrap();
            let expected = if allowed.count() > 1 { allowed.count() - 1 } else { 1 };
            assert_eq!(left.count(), expected);
            assert!(!reserved(&allowed).is_some_and(|cpu| left.is_set(cpu)));
        })
        .join()
        .unwrap();
        let mut one = CpuSet::new();
        one.set(3);
        assert_eq!(reserved(&one), None);
        one.set(7);
        assert_eq!(reserved(&one), Some(7));
    }
}
