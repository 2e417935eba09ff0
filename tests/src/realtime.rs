//! A measuring thread that ordinary load on the machine does not delay.

/// Below the daemons' control threads, above everything ordinary.
const PRIORITY: i32 = 40;

/// Gives the calling thread real-time scheduling (SCHED_FIFO) where that is permitted; elsewhere it measures later
/// than it could, never wrongly.
pub fn enter() {
    enter_at(PRIORITY);
}

/// As [`enter`], with a priority of its own (1 to 99, higher first).
#[expect(unsafe_code, reason = "no crate in use wraps sched_setscheduler")]
pub fn enter_at(priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: thread 0 is the calling one, and the parameter is a live, initialised sched_param.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameter) };
}
