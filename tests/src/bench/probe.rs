//! The bench's probe: a UDP datagram each half millisecond, echoed by the server, stamped by the kernel when it is back.
//!
//! Two threads with real-time priority: the sender (which reads the replies whenever it has sent) and the echo. A reply
//! bears the time at which the client's kernel received it, so it does not matter when the sender gets to read it. What
//! does matter is when the probes leave: the longest interval between two of them is told beside every outage.

use crate::netns::Netns;
use crate::realtime;
use crate::traffic::server::probe_echo;
use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};
use nix::sys::time::TimeSpec;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two probes.
pub const INTERVAL: Duration = Duration::from_micros(500);
const PORT: u16 = 7010;
/// The probe ends by itself after this many (three minutes).
const PROBES_MAX: usize = 360_000;
/// Above the control threads of what is measured: the probe must not wait for them. It needs a tenth of a processor.
const PRIORITY: i32 = 60;

/// A probe under way; it ends when it is dropped.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Log>>,
    echo: Option<JoinHandle<()>>,
}

/// When each probe left and when replies came back: nanoseconds since 1970, of the clock with which the kernel stamps.
#[derive(Debug, Default)]
pub struct Log {
    /// By sequence number.
    sent: Vec<u64>,
    /// Sequence number and time.
    replies: Vec<(u64, u64)>,
}

/// What the client saw of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The longest interval between two replies, nanoseconds.
    pub silence: u64,
    /// Probes without a reply.
    pub lost: usize,
    /// The longest interval between two probes that were sent, nanoseconds.
    pub sender_gap: u64,
}

/// Now, by the kernel's receive clock; nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Probe {
    /// Starts the echo in the server's namespace and the sender in the client's.
    ///
    /// # Errors
    /// When a socket or thread cannot be made.
    pub fn start(client: &Netns, server: &Netns, address: Ipv4Addr) -> Result<Self> {
        let target = SocketAddr::from((address, PORT));
        let stop = Arc::new(AtomicBool::new(false));
        let echo = server.enter(|| probe_echo(target))??;
        let socket = client.enter(|| open(target))??;
        let stopped = Arc::clone(&stop);
        let echo = std::thread::Builder::new().name("bench-echo".to_owned()).spawn(move || {
            realtime::enter_at(PRIORITY);
            echo(&stopped);
        })?;
        let stopped = Arc::clone(&stop);
        let sender = std::thread::Builder::new().name("bench-probe".to_owned()).spawn(move || {
            realtime::enter_at(PRIORITY);
            run(&socket, &stopped)
        })?;
        Ok(Self { stop, sender: Some(sender), echo: Some(echo) })
    }

    /// Ends it and returns what it saw.
    ///
    /// # Errors
    /// When its thread has panicked.
    pub fn finish(mut self) -> Result<Log> {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().context("the probe has ended already")?;
        sender.join().map_err(|_| anyhow::anyhow!("the probe's thread has panicked"))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        if let Some(echo) = self.echo.take() {
            let _ = echo.join();
        }
    }
}

impl Log {
    /// What happened between two times: silences that end after `from` count in full, one that lasts counts up to `until`.
    pub fn seen(&self, from: u64, until: u64) -> Seen {
        let mut arrivals: Vec<u64> = self.replies.iter().map(|(_, at)| *at).collect();
        arrivals.sort_unstable();
        Seen {
            silence: longest_gap(&arrivals, from, until),
            lost: self.lost(from, until),
            sender_gap: longest_gap(&self.sent, from, until),
        }
    }

    /// When the last reply came; 0 when none did.
    pub fn last_reply(&self) -> u64 {
        self.replies.iter().map(|(_, at)| *at).max().unwrap_or(0)
    }

    fn lost(&self, from: u64, until: u64) -> usize {
        let mut answered = vec![false; self.sent.len()];
        for (sequence, _) in &self.replies {
            let slot = usize::try_from(*sequence).ok().and_then(|sequence| answered.get_mut(sequence));
            if let Some(slot) = slot {
                *slot = true;
            }
        }
        let asked = self.sent.iter().zip(answered).filter(|(at, _)| (from..until).contains(*at));
        asked.filter(|(_, answered)| !answered).count()
    }
}

/// The longest interval between two of the ascending times that ends after `from`, or at `until`.
fn longest_gap(times: &[u64], from: u64, until: u64) -> u64 {
    let first = times.partition_point(|time| *time <= from);
    let last = times.partition_point(|time| *time <= until).max(first);
    let mut begin = first.checked_sub(1).and_then(|before| times.get(before)).copied().unwrap_or(from);
    let mut longest = 0;
    for time in times.get(first..last).unwrap_or(&[]).iter().copied().chain([until]) {
        longest = longest.max(time.saturating_sub(begin));
        begin = time;
    }
    longest
}

fn open(target: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the probe's socket")?;
    socket.connect(target).context("the probe's server")?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("the kernel's receive times")?;
    Ok(socket)
}

fn run(socket: &UdpSocket, stop: &AtomicBool) -> Log {
    let mut log = Log { sent: Vec::with_capacity(PROBES_MAX), replies: Vec::with_capacity(PROBES_MAX) };
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) && log.sent.len() < PROBES_MAX {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let sequence = u64::try_from(log.sent.len()).unwrap_or(u64::MAX);
        log.sent.push(now());
        // While no firewall forwards, errors come back (host unreachable): the next probe tries again.
        let _ = socket.send(&sequence.to_be_bytes());
        // A sender that was late goes on from now; it does not flood.
        due = (due + INTERVAL).max(Instant::now());
        read_replies(socket, &mut log.replies);
    }
    // The last replies are still on their way.
    std::thread::sleep(Duration::from_millis(50));
    read_replies(socket, &mut log.replies);
    log
}

fn read_replies(socket: &UdpSocket, replies: &mut Vec<(u64, u64)>) {
    let mut payload = [0; 8];
    let mut control = nix::cmsg_space!(TimeSpec);
    // A pending error is taken off the socket by the call that reports it: a few calls more than there are replies.
    let mut errors = 0;
    while errors < 2 && replies.len() < 2 * PROBES_MAX {
        let mut parts = [IoSliceMut::new(&mut payload)];
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => {
                let length = message.bytes;
                let stamped = message.cmsgs().ok().and_then(|mut all| all.find_map(nanoseconds));
                if let (8, Some(at)) = (length, stamped) {
                    replies.push((u64::from_be_bytes(payload), at));
                }
            }
            Err(_) => errors += 1,
        }
    }
}

fn nanoseconds(message: ControlMessageOwned) -> Option<u64> {
    let ControlMessageOwned::ScmTimestampns(time) = message else { return None };
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(time.tv_nsec()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        // Ten probes 10 apart, each answered 1 later, but 4 and 5 not at all; 8 and 9 come in the wrong order.
        let sent = (0..10).map(|n| n * 10).collect();
        let mut replies: Vec<_> = (0..8).filter(|n| ![4, 5].contains(n)).map(|n| (n, n * 10 + 1)).collect();
        replies.extend([(9, 91), (8, 90)]);
        Log { sent, replies }
    }

    /// Two unanswered probes are a silence of three intervals, in whatever order other replies come, and a fault in the
    /// middle of a silence counts all of it.
    #[test]
    fn silence_and_losses_are_counted() {
        let seen = log().seen(35, 95);
        assert_eq!(seen, Seen { silence: 30, lost: 2, sender_gap: 10 });
        assert_eq!(log().seen(45, 95).silence, 30);
        assert_eq!(log().seen(45, 95).lost, 1);
        assert_eq!(log().seen(65, 95).lost, 0);
        assert_eq!(log().last_reply(), 91);
    }

    /// A silence that lasts counts up to the end of what was watched, and so does one without any reply.
    #[test]
    fn a_silence_that_lasts_counts() {
        assert_eq!(log().seen(80, 191).silence, 100);
        assert_eq!(Log::default().seen(5, 25), Seen { silence: 20, lost: 0, sender_gap: 20 });
    }
}
