//! Real sessions through the pair, and the probe that measures how long they were in the dark.

mod client;
pub mod dialogue;
pub mod flood;
pub mod icmp;
pub mod probe;
pub mod record;
pub mod sctp;
pub mod server;
pub mod session;

use crate::netns::Netns;
use anyhow::{Context, Result, anyhow};
use probe::Arrivals;
use session::{Kind, Session};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Port of the echo server.
const PORT: u16 = 7007;
/// Port of the probe's echo server.
const PROBE_PORT: u16 = 7008;

/// How many sessions there are and how often each of them talks.
#[derive(Clone, Debug)]
pub struct Load {
    pub tcp: usize,
    pub tcp_interval: Duration,
    pub udp: usize,
    pub udp_interval: Duration,
    pub icmp: usize,
    pub icmp_interval: Duration,
    /// So many of the TCP and of the UDP sessions talk only until they are known, and again after [`Traffic::wake`].
    pub idle: usize,
    /// The probe's interval.
    pub probe: Option<Duration>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            tcp: 200,
            tcp_interval: Duration::from_millis(100),
            udp: 200,
            udp_interval: Duration::from_millis(50),
            icmp: 20,
            icmp_interval: Duration::from_millis(100),
            idle: 0,
            probe: Some(Duration::from_millis(1)),
        }
    }
}

/// The zero of the traffic's clock (monotonic).
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    /// Nanoseconds since the traffic began.
    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Sessions between two namespaces; they end when it is dropped.
#[derive(Debug)]
pub struct Traffic {
    epoch: Epoch,
    sessions: Vec<Arc<Session>>,
    arrivals: Arc<Arrivals>,
    stop: Arc<AtomicBool>,
    awake: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// Sessions of one kind at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub opened: usize,
    /// Those that have gone on, unharmed, since the asked time.
    pub survived: usize,
    /// Those that have ended or were damaged.
    pub failed: usize,
}

impl Traffic {
    /// Starts a server and a client and opens every session of the load.
    ///
    /// # Errors
    /// When a session cannot be opened.
    pub fn start(client: &Netns, server: &Netns, address: IpAddr, load: &Load) -> Result<Self> {
        let epoch = Epoch(Instant::now());
        let mut traffic = Self {
            epoch,
            sessions: Vec::new(),
            arrivals: Arc::default(),
            stop: Arc::default(),
            awake: Arc::default(),
            threads: Vec::new(),
        };
        let echo = SocketAddr::new(address, PORT);
        let probe = SocketAddr::new(address, PROBE_PORT);
        let served = server.enter(|| server::Server::open(echo))??;
        traffic.thread("server", move |stop| served.run(stop))?;
        if load.probe.is_some() {
            let probe_echo = server.enter(|| server::probe_echo(probe))??;
            traffic.thread("probe-echo", move |stop| {
                probe_echo(stop);
                Ok(())
            })?;
        }
        let awake = Arc::clone(&traffic.awake);
        let opened = client.enter(|| client::Client::open(echo, load, epoch, awake))??;
        traffic.sessions = opened.sessions();
        traffic.thread("client", move |stop| opened.run(stop))?;
        if let Some(interval) = load.probe {
            let socket = client.enter(|| probe::open(probe))??;
            let arrivals = Arc::clone(&traffic.arrivals);
            traffic.thread("probe", move |stop| {
                probe::run(&socket, interval, epoch, &arrivals, stop);
                Ok(())
            })?;
        }
        Ok(traffic)
    }

    /// Nanoseconds since the traffic began: the clock of every figure here.
    pub fn now(&self) -> u64 {
        self.epoch.now()
    }

    /// From now on the idle sessions talk as well.
    pub fn wake(&self) {
        self.awake.store(true, Ordering::Relaxed);
    }

    /// Every session.
    pub fn sessions(&self) -> &[Arc<Session>] {
        &self.sessions
    }

    /// What the probe has measured.
    pub fn probe(&self) -> &Arrivals {
        &self.arrivals
    }

    /// The sessions of one kind, judged by what they did after `since`.
    pub fn tally(&self, kind: Kind, since: u64) -> Tally {
        let mut tally = Tally::default();
        for session in self.sessions.iter().filter(|session| session.kind == kind) {
            tally.opened += 1;
            tally.survived += usize::from(session.survived(since));
            tally.failed += usize::from(session.failure().is_some());
        }
        tally
    }

    /// Whether every session has gone on since then.
    pub fn all_survived(&self, since: u64) -> bool {
        self.sessions.iter().all(|session| session.survived(since))
    }

    /// Waits until every session has had a correct reply after `since`.
    ///
    /// # Errors
    /// After `limit`, naming up to five that have not and why.
    pub fn expect_survival(&self, since: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.all_survived(since) {
            if Instant::now() >= deadline {
                return Err(anyhow!("not every session survived within {limit:?}: {}", self.casualties(since)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How many sessions have not gone on since then, and up to five of them by name.
    pub fn casualties(&self, since: u64) -> String {
        let lost: Vec<_> = self.sessions.iter().filter(|session| !session.survived(since)).collect();
        let named: Vec<_> = lost
            .iter()
            .take(5)
            .map(|session| {
                let why = session.failure().map_or("silent", session::Failure::name);
                format!("{} {} {why}", session.kind.name(), session.number)
            })
            .collect();
        format!("{} of {} lost ({})", lost.len(), self.sessions.len(), named.join(", "))
    }

    fn thread(&mut self, name: &str, work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new()
            .name(format!("traffic-{name}"))
            .spawn(move || work(&stop))
            .with_context(|| format!("cannot start the traffic's {name} thread"))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("traffic: {error:#}");
            }
        }
    }
}
