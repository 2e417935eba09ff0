//! A cable with bad weather: a thread that carries Ethernet frames between two interfaces, and loses, doubles and
//! overtakes them as a seed decides. nft can lose packets, but nothing in this kernel's reach doubles or reorders them.

use crate::netns::Netns;
use crate::packet;
use anyhow::{Context, Result};
use socket2::Socket;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ETHERTYPES: [u16; 2] = [IPV4, ARP];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// A frame of the largest segmentation offload.
const FRAME_BYTES_MAX: usize = 65_600;
/// Frames under way; more are lost, and counted as such.
const UNDER_WAY_MAX: usize = 20_000;
/// Pause when nothing came and nothing is due.
const IDLE: Duration = Duration::from_micros(100);

/// What happens to IPv4 packets; ARP passes.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// So many are held back, for up to `delay_max`.
    pub reorder_percent: u64,
    pub delay_max: Duration,
}

/// What has happened, both directions together.
#[derive(Debug, Default)]
pub struct Toll {
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub held_back: AtomicU64,
}

/// The thread; dropping it cuts the cable.
#[derive(Debug)]
pub struct Cable {
    pub toll: Arc<Toll>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cable {
    /// Carries frames between two interfaces of a namespace. Their far ends must compute checksums themselves (`ethtool -K … tx
    /// off`), because a packet socket shows packets before an offload would.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when an interface is missing.
    pub fn start(namespace: &Netns, interfaces: [&str; 2], weather: Weather, seed: u64) -> Result<Self> {
        let open = |interface: &str| -> Result<Vec<Socket>> {
            ETHERTYPES.iter().map(|&ethertype| packet::open(interface, ethertype)).collect()
        };
        let [a, b] = namespace.enter(|| interfaces.map(open))?;
        let (a, b) = (a?, b?);
        let (toll, stop) = (Arc::new(Toll::default()), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::clone(&toll), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("weather".to_owned()).spawn(move || {
            let mut directions = [Direction::new(seed), Direction::new(!seed)];
            while !stopped.load(Ordering::Relaxed) {
                let [there, back] = &mut directions;
                if !(there.carry(&a, &b, weather, &told) | back.carry(&b, &a, weather, &told)) {
                    std::thread::sleep(IDLE);
                }
            }
        });
        Ok(Self { toll, stop, thread: Some(thread.context("cannot start the cable's thread")?) })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When it leaves, its number among those of that time, which socket it is for, and its bytes.
type UnderWay = (Instant, u64, usize, Vec<u8>);

struct Direction {
    random: u64,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
    buffer: Vec<u8>,
}

impl Direction {
    fn new(seed: u64) -> Self {
        Self { random: seed, under_way: BinaryHeap::new(), number: 0, buffer: vec![0; FRAME_BYTES_MAX] }
    }

    /// Takes what has come and sends what is due; false when there was nothing of either.
    fn carry(&mut self, from: &[Socket], to: &[Socket], weather: Weather, toll: &Toll) -> bool {
        let mut busy = false;
        for (kind, socket) in from.iter().enumerate() {
            for _ in 0..256 {
                let Ok(length) = (&*socket).read(&mut self.buffer) else { break };
                busy = true;
                self.take(kind, length, weather, toll);
            }
        }
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, _, kind, frame))) = self.under_way.pop() else { break };
            busy = true;
            if to.get(kind).is_some_and(|socket| socket.send(&frame).is_ok()) {
                toll.carried.fetch_add(1, Ordering::Relaxed);
            }
        }
        busy
    }

    fn take(&mut self, kind: usize, length: usize, weather: Weather, toll: &Toll) {
        let harmed = ETHERTYPES.get(kind) == Some(&IPV4);
        let mut percent = |limit: u64| harmed && self.next() % 100 < limit;
        let (lost, twice) = (percent(weather.loss_percent), percent(weather.duplicate_percent));
        let held = percent(weather.reorder_percent);
        if lost || self.under_way.len() >= UNDER_WAY_MAX {
            toll.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let longest = u64::try_from(weather.delay_max.as_nanos()).unwrap_or(u64::MAX).max(1);
        let delay = if held { Duration::from_nanos(self.next() % longest) } else { Duration::ZERO };
        toll.held_back.fetch_add(u64::from(held), Ordering::Relaxed);
        toll.duplicated.fetch_add(u64::from(twice), Ordering::Relaxed);
        let frame = self.buffer.get(..length).unwrap_or_default().to_vec();
        let now = Instant::now();
        for at in [Some(now + delay), twice.then_some(now + weather.delay_max)].into_iter().flatten() {
            self.number += 1;
            self.under_way.push(Reverse((at, self.number, kind, frame.clone())));
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
