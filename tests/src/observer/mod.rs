//! The observer: asks on the LAN and on the WAN, a thousand times a second, who has the virtual address, and notes
//! every answer. What a neighbour can be told is what it sees, whatever the nodes think of themselves.
//!
//! Each request carries its number in the asker's hardware address, which the answer repeats or is sent to. So each
//! answer names its request, however late it comes.

mod arp;
mod ndp;
pub mod timeline;

use crate::netns::Netns;
use crate::topology::{LAN_VIP, LAN_VIP6, Node, Pair, Port, WAN_VIP, WAN_VIP6};
use crate::{packet, realtime};
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
pub use timeline::{Answer, Apart, Side, Timeline, Violation};

/// Between two requests, nanoseconds.
const INTERVAL: u64 = 1_000_000;
/// Answers kept of one side: half an hour of one node's.
const ANSWERS_MAX: usize = 2_000_000;
/// Requests whose sending time is known: an answer that comes a minute later is not counted.
const REQUESTS_KNOWN: usize = 1 << 16;
/// In whose name is asked: addresses that nobody has, so that no neighbour's entry changes.
const LAN_ASKER: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 250);
const WAN_ASKER: Ipv4Addr = Ipv4Addr::new(157, 159, 40, 189);
const LAN_ASKER6: &str = "fd00:103::250";
const WAN_ASKER6: &str = "fd00:40::189";
/// How an asker's hardware address begins (locally administered); the request's number follows.
const NUMBERED: [u8; 2] = [0x02, 0x0b];

/// Which of a side's two virtual addresses is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Arp { asker: Ipv4Addr, vip: Ipv4Addr },
    Ndp { asker: Ipv6Addr, vip: Ipv6Addr },
}

/// Who answered which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    /// The hardware address that has the virtual address.
    mac: [u8; 6],
    number: u32,
}

/// Two threads that ask; they end when it is dropped.
#[derive(Debug)]
pub struct Observer {
    epoch: Instant,
    records: [Arc<Record>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What one thread has noted.
#[derive(Debug, Default)]
struct Record {
    answers: Mutex<Vec<Answer>>,
    asked: AtomicU64,
    /// Answers that were not kept, or came from neither node.
    refused: AtomicU64,
}

impl Observer {
    /// Begins to ask for the IPv4 addresses, from the client and from the server.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(pair: &Pair) -> Result<Self> {
        let lan = Question::Arp { asker: LAN_ASKER, vip: LAN_VIP };
        Self::with(pair, lan, Question::Arp { asker: WAN_ASKER, vip: WAN_VIP })
    }

    /// Begins to ask for the IPv6 addresses.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start_ipv6(pair: &Pair) -> Result<Self> {
        let question = |asker: &str, vip: &str| -> Result<Question> {
            Ok(Question::Ndp { asker: asker.parse()?, vip: vip.parse()? })
        };
        Self::with(pair, question(LAN_ASKER6, LAN_VIP6)?, question(WAN_ASKER6, WAN_VIP6)?)
    }

    fn with(pair: &Pair, lan: Question, wan: Question) -> Result<Self> {
        let mut observer =
            Self { epoch: Instant::now(), records: Default::default(), stop: Arc::default(), threads: Vec::new() };
        observer.ask(&pair.client, Side::Lan, lan)?;
        observer.ask(&pair.server, Side::Wan, wan)?;
        Ok(observer)
    }

    /// Nanoseconds since the observer began: the clock of its timelines.
    pub fn now(&self) -> u64 {
        since(self.epoch)
    }

    /// The answers that arrived from then on.
    ///
    /// # Errors
    /// When answers had to be refused: nothing can be said for certain then.
    pub fn timeline(&self, from: u64) -> Result<Timeline> {
        for record in &self.records {
            let refused = record.refused.load(Ordering::Relaxed);
            ensure!(refused == 0, "{refused} answers came from strangers or were too many to be kept");
        }
        let answers = self.records.each_ref().map(|record| {
            let answers = record.lock();
            let first = answers.partition_point(|answer| answer.arrived < from);
            answers.get(first..).unwrap_or_default().to_vec()
        });
        Ok(Timeline { answers })
    }

    /// Drops the answers that arrived before then, so that a long watch stays within its memory.
    pub fn forget(&self, before: u64) {
        for record in &self.records {
            record.lock().retain(|answer| answer.arrived >= before);
        }
    }

    /// Requests sent so far, LAN and WAN.
    pub fn asked(&self) -> [u64; 2] {
        self.records.each_ref().map(|record| record.asked.load(Ordering::Relaxed))
    }

    fn ask(&mut self, from: &Netns, side: Side, question: Question) -> Result<()> {
        let ethertype = match question {
            Question::Arp { .. } => arp::ETHERTYPE,
            Question::Ndp { .. } => ndp::ETHERTYPE,
        };
        let asking = Asking {
            socket: from.enter(|| packet::open("eth0", ethertype))??,
            question,
            port: match side {
                Side::Lan => Port::Lan,
                Side::Wan => Port::Wan,
            },
            source: hardware_address(from)?,
            epoch: self.epoch,
            record: Arc::clone(&self.records[side.index()]),
            sent: vec![0; REQUESTS_KNOWN],
        };
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name("observer".to_owned()).spawn(move || asking.run(&stop));
        self.threads.push(thread.context("cannot start the observer's thread")?);
        Ok(())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's own.
struct Asking {
    socket: Socket,
    question: Question,
    /// Of the nodes, on this side.
    port: Port,
    source: [u8; 6],
    epoch: Instant,
    record: Arc<Record>,
    /// When each of the last requests was sent, by its number.
    sent: Vec<u64>,
}

impl Asking {
    fn run(mut self, stop: &AtomicBool) {
        realtime::enter();
        let mut number = 0;
        let mut due = since(self.epoch);
        while !stop.load(Ordering::Relaxed) {
            let now = since(self.epoch);
            if now >= due {
                self.request(number);
                number = number.wrapping_add(1);
                // After a pause of the whole machine it goes on from now; it does not flood.
                due = (due + INTERVAL).max(now.saturating_sub(5 * INTERVAL));
            }
            let wait = due.saturating_sub(since(self.epoch));
            let patience = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait).unwrap_or(0).min(999_999_999) };
            let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&patience));
            self.collect(number);
        }
    }

    fn request(&mut self, number: u32) {
        if let Some(slot) = self.sent.get_mut(number as usize % REQUESTS_KNOWN) {
            *slot = since(self.epoch);
        }
        let sent = match self.question {
            Question::Arp { asker, vip } => self.socket.send(&arp::request(self.source, asker, vip, number)),
            Question::Ndp { asker, vip } => self.socket.send(&ndp::request(self.source, asker, vip, number)),
        };
        if sent.is_ok() {
            self.record.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn collect(&mut self, next: u32) {
        let mut frame = [0; 128];
        while let Ok(length) = self.socket.read(&mut frame) {
            let arrived = since(self.epoch);
            let frame = frame.get(..length).unwrap_or_default();
            let reply = match self.question {
                Question::Arp { vip, .. } => arp::reply(frame, vip),
                Question::Ndp { vip, .. } => ndp::reply(frame, vip),
            };
            let Some(reply) = reply else { continue };
            let known = next.wrapping_sub(reply.number) as usize <= REQUESTS_KNOWN;
            let sent = self.sent.get(reply.number as usize % REQUESTS_KNOWN).copied().filter(|_| known);
            let node = Node::BOTH.into_iter().find(|node| node.mac(self.port) == reply.mac);
            let mut answers = self.record.lock();
            match (node, sent) {
                (Some(node), Some(sent)) if answers.len() < ANSWERS_MAX => answers.push(Answer { node, sent, arrived }),
                _ => {
                    self.record.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The hardware address in whose name a request asks.
fn numbered(number: u32) -> [u8; 6] {
    let ([a, b], [c, d, e, f]) = (NUMBERED, number.to_be_bytes());
    [a, b, c, d, e, f]
}

/// The number of the request in whose name such an address stands.
fn number_of(address: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(address.strip_prefix(&NUMBERED)?.try_into().ok()?))
}

fn since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn hardware_address(of: &Netns) -> Result<[u8; 6]> {
    // Not from /sys, which shows the interfaces of the namespace that mounted it.
    let shown = of.run("ip", &["-o", "link", "show", "eth0"])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    let address = words.nth(1).unwrap_or_default();
    let bytes: Vec<u8> = address.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| anyhow::anyhow!("no hardware address: {shown}"))
}
