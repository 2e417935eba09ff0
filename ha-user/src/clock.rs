//! The only place where a clock is read.

use ha_common::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now on CLOCK_BOOTTIME, the clock of `bpf_ktime_get_boot_ns`: it goes on while the machine sleeps, and no
/// administrator can step it.
pub fn now() -> Instant {
    let now = clock_gettime(ClockId::Boottime);
    Instant(u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Seconds since 1970, for people and Prometheus only: no decision may depend on it.
pub fn unix_seconds() -> f64 {
    let now = clock_gettime(ClockId::Realtime);
    std::time::Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
        .as_secs_f64()
}
