//! Load that must move nothing: processors that are busy, and floods of frames.

use crate::netns::Netns;
use crate::packet;
use anyhow::{Context, Result};
use rustix::event::{Timespec, poll};
use socket2::Socket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Spinning threads for each processor: with two, whoever is woken at normal priority finds nobody idle.
const BURNERS_PER_CPU: usize = 2;
/// The flood sends a burst this often.
const BURST_INTERVAL: Duration = Duration::from_millis(1);
/// What nice value a flood gets, so that it keeps its rate beside the burners.
const NICE: i32 = -10;
/// EtherType of IPv4.
const ETHERTYPE_IPV4: u16 = 0x0800;

/// Keeps every processor busy at normal priority until dropped.
///
/// Threads, not processes: they cannot outlive a test that is killed.
#[derive(Debug, Default)]
pub struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    /// Begins.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> Result<Self> {
        let mut burners = Self::default();
        for _ in 0..std::thread::available_parallelism()?.get() * BURNERS_PER_CPU {
            let stop = Arc::clone(&burners.stop);
            let spin = move || while !stop.load(Ordering::Relaxed) {};
            burners.threads.push(std::thread::Builder::new().name("burner".to_owned()).spawn(spin)?);
        }
        Ok(burners)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// UDP frames at a steady rate through one interface, until dropped.
#[derive(Debug)]
pub struct FrameFlood {
    begin: Instant,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FrameFlood {
    /// Sends this many frames a second, to one hardware address after the other.
    ///
    /// # Errors
    /// When there is no such interface in the namespace.
    pub fn start(from: &Netns, interface: &str, to: [[u8; 6]; 2], frames_per_second: u32) -> Result<Self> {
        let socket = from.enter(|| packet::open(interface, ETHERTYPE_IPV4))??;
        let mut flood = Self { begin: Instant::now(), sent: Arc::default(), stop: Arc::default(), thread: None };
        let (sent, stop) = (Arc::clone(&flood.sent), Arc::clone(&flood.stop));
        let burst = u64::from(frames_per_second) * u64::try_from(BURST_INTERVAL.as_micros())? / 1_000_000;
        let thread = std::thread::Builder::new().name("frame-flood".to_owned());
        flood.thread = Some(
            thread.spawn(move || run(&socket, to.map(frame), burst, &sent, &stop)).context("cannot start a flood")?,
        );
        Ok(flood)
    }

    /// Frames a second, since it began.
    pub fn rate(&self) -> u64 {
        let milliseconds = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.sent.load(Ordering::Relaxed).saturating_mul(1000) / milliseconds
    }
}

impl Drop for FrameFlood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(socket: &Socket, frames: [Frame; 2], burst: u64, sent: &AtomicU64, stop: &AtomicBool) {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if due > now {
            let nanoseconds = i64::try_from((due - now).as_nanos()).unwrap_or(0);
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: nanoseconds.min(999_999_999) }));
            continue;
        }
        // A flood that was held up catches up for a little while only.
        due = (due + BURST_INTERVAL).max(now.checked_sub(20 * BURST_INTERVAL).unwrap_or(now));
        // A full queue is the load that is wanted, and no error.
        let burst = frames.iter().cycle().zip(0..burst);
        let through = burst.filter(|(frame, _)| socket.send(*frame).is_ok()).count();
        sent.fetch_add(u64::try_from(through).unwrap_or(0), Ordering::Relaxed);
    }
}

type Frame = [u8; 60];

/// The smallest Ethernet frame: UDP to a port that nobody listens to, without a checksum.
fn frame(to: [u8; 6]) -> Frame {
    let mut frame = [0; 60];
    let fields: [(usize, &[u8]); 4] = [
        (0, &to),
        (6, &[0x02, 0x0f, 0, 0, 0, 1, 0x08, 0x00]),
        // IPv4, 46 bytes, time to live 1, UDP; from 192.0.2.1 to 255.255.255.255.
        (14, &[0x45, 0, 0, 46, 0, 0, 0, 0, 1, 17, 0xf7, 0xbe, 192, 0, 2, 1, 255, 255, 255, 255]),
        // Ports 9 and 9, 26 bytes.
        (34, &[0, 9, 0, 9, 0, 26, 0, 0]),
    ];
    for (at, bytes) in fields {
        for (slot, byte) in frame.iter_mut().skip(at).zip(bytes) {
            *slot = *byte;
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header's words, checksum included, sum up to all ones (RFC 1071): the kernel takes the frame for sound.
    #[test]
    fn the_floods_header_is_sound() {
        let frame = frame([0xff; 6]);
        let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
