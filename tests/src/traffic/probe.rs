//! The probe: a datagram each millisecond and its reply; what is missing is the outage.

use super::Epoch;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// More replies than this are not kept (half an hour at 1 kHz).
const REPLIES_MAX: usize = 2_000_000;
/// The probe's thread gets this nice value where permitted: a late timer would count as outage.
const NICE: i32 = -10;

/// What the probe has measured, readable while it runs.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Arrival times of the replies, nanoseconds since the traffic's epoch, ascending.
    replies: Mutex<Vec<u64>>,
    sent: AtomicU64,
}

/// The longest silence in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gap {
    /// When the last reply before it came, nanoseconds since the epoch.
    pub begin: u64,
    /// Nanoseconds.
    pub length: u64,
}

impl Gap {
    /// Its length in milliseconds.
    pub fn milliseconds(self) -> f64 {
        Duration::from_nanos(self.length).as_secs_f64() * 1e3
    }
}

impl Arrivals {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.replies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Replies so far.
    pub fn received(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap_or(u64::MAX)
    }

    /// Replies per bin of `width` nanoseconds, for `bins` bins that end at `end`.
    pub fn histogram(&self, end: u64, width: u64, bins: usize) -> Vec<u32> {
        let mut counts = vec![0; bins];
        for arrival in self.lock().iter().rev().skip_while(|arrival| **arrival >= end) {
            let back = usize::try_from((end - 1 - arrival) / width.max(1)).unwrap_or(usize::MAX);
            let Some(slot) = bins.checked_sub(back + 1) else { break };
            counts[slot] += 1;
        }
        counts
    }

    /// The longest interval between two replies that ends after `from`, looked at at `until`; a silence that
    /// lasts still counts up to `until`.
    pub fn longest_gap(&self, from: u64, until: u64) -> Gap {
        longest_gap(&self.lock(), from, until)
    }
}

fn longest_gap(arrivals: &[u64], from: u64, until: u64) -> Gap {
    let first = arrivals.partition_point(|arrival| *arrival <= from);
    let last = arrivals.partition_point(|arrival| *arrival <= until);
    let mut begin = first.checked_sub(1).and_then(|before| arrivals.get(before)).copied().unwrap_or(from);
    let mut longest = Gap { begin, length: 0 };
    for arrival in arrivals.get(first..last).unwrap_or(&[]).iter().copied().chain([until]) {
        let length = arrival.saturating_sub(begin);
        if length > longest.length {
            longest = Gap { begin, length };
        }
        begin = arrival;
    }
    longest
}

/// The probe's socket; the calling thread must be in the client's namespace.
///
/// # Errors
/// When the socket cannot be made.
pub fn open(server: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("the probe's socket")?;
    socket.connect(server).context("the probe's server")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Probes until `stop`.
pub fn run(socket: &UdpSocket, interval: Duration, epoch: Epoch, arrivals: &Arrivals, stop: &AtomicBool) {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    let step = u64::try_from(interval.as_nanos()).unwrap_or(1_000_000);
    let mut due = epoch.now();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let now = epoch.now();
        if now >= due {
            let sequence = arrivals.sent.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send(&sequence.to_be_bytes());
            // After a pause of the whole machine the probe goes on from now; it does not flood.
            due = (due + step).max(now.saturating_sub(20 * step));
        }
        let wait = due.saturating_sub(epoch.now());
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait).unwrap_or(0).min(999_999_999) };
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience));
        while socket.recv(&mut buffer).is_ok() {
            let mut replies = arrivals.lock();
            if replies.len() < REPLIES_MAX {
                replies.push(epoch.now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outage is the longest gap that ends after the fault: earlier gaps do not count, one that began
    /// before the fault does, and one that lasts still counts up to now.
    #[test]
    fn the_outage_is_the_longest_gap_that_ends_after_the_fault() {
        let arrivals = [10, 50, 51, 52, 60, 61];
        assert_eq!(longest_gap(&arrivals, 51, 62), Gap { begin: 52, length: 8 });
        assert_eq!(longest_gap(&arrivals, 55, 62), Gap { begin: 52, length: 8 });
        assert_eq!(longest_gap(&arrivals, 55, 100), Gap { begin: 61, length: 39 });
        assert_eq!(longest_gap(&[], 5, 9), Gap { begin: 5, length: 4 });
    }

    /// Bins count backwards from the end, and replies at or after the end do not count.
    #[test]
    fn histogram_bins_end_at_the_end() {
        let arrivals = Arrivals::default();
        arrivals.lock().extend([1, 11, 12, 29, 30]);
        assert_eq!(arrivals.histogram(30, 10, 3), [1, 2, 1]);
        assert_eq!(arrivals.histogram(30, 10, 2), [2, 1]);
    }
}
