//! The sync loop: where the conntrack and peer edges meet the sync engine, on a thread of their own.
//!
//! Conntrack events in, frames out; frames in, conntrack writes out. Every wake-up takes a bounded amount from
//! each ready descriptor, so that none starves another; what is left wakes the loop again.

mod actions;
mod links;
mod requests;
mod sessions;
mod status;
mod writing;

use crate::affinity;
use crate::clock;
use crate::config::Resolved;
use crate::conntrack::ConntrackError;
use crate::conntrack::dump::{DumpSource, Progress};
use crate::conntrack::events::{Event, EventSource};
use crate::conntrack::expectation_dump::ExpectationDump;
use crate::conntrack::own_addresses::OwnAddresses;
use crate::conntrack::sysctl;
use crate::conntrack::writer::Writer;
use crate::link::{LinkError, Links};
use crate::mailbox::{Mailbox, Postman};
use crate::peer::PeerSockets;
use crate::poller::Poller;
use crate::request::{ControlRequest, SyncRequest};
use actions::Pending;
use ha_common::role::NodeId;
use ha_common::sync::filter::{Admission, Filter, Prefix};
use ha_common::sync::{Action, Capabilities, Config, Engine, Input, VERSION};
use ha_common::time::{Instant, earliest};
use sessions::Sessions;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use writing::Writing;

/// Frames sent and not yet acknowledged per peer: some thousand flows. What is in flight waits at a peer that is
/// short of CPU time, and must not wait longer than the sender takes it for lost.
const WINDOW_FRAMES: usize = 128;
/// How often the sync socket is looked after, and opened when it is not.
const SOCKET_INTERVAL: Duration = Duration::from_secs(1);
/// How often the own addresses are read when no event told of a change.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Portions of events taken per wake-up, before anything else: what waits is read by then, also after this loop has stood still
/// for a moment, and a storm leaves time for the rest all the same.
const PORTIONS_PER_WAKE: usize = 64;
/// Events and datagrams that follow each other closely are taken together: the loop is not woken for them again before this
/// time has passed. A wake-up costs as much as several of them.
const WAKE_GAP: Duration = Duration::from_millis(1);

/// What each descriptor of the poller is; those that are ready together are served in this order. What the kernel has told comes
/// first: what happened before a change of role belongs to the former role, and a peer's frame must not be written over a
/// state that this node has not looked at yet.
const EVENTS: u64 = 0;
const MAILBOX: u64 = 1;
const DUMP: u64 = 2;
const ADDRESSES: u64 = 3;
const PEERS: u64 = 4;
const WRITTEN: u64 = 5;
const EXPECTATIONS: u64 = 6;
const LINKS: u64 = 7;

/// Why the loop cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SyncLoopError {
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    #[error("cannot read the addresses of this node's interfaces: {0} (is NETLINK_ROUTE allowed?)")]
    Addresses(io::Error),
    #[error("cannot watch the sync links: {0}")]
    Links(#[from] LinkError),
    #[error("cannot get random numbers for the session: {0}")]
    Randomness(getrandom::Error),
    #[error("cannot make a poller: {0} (are file descriptors exhausted?)")]
    Poller(io::Error),
    #[error("cannot make a mailbox: {0} (are file descriptors exhausted?)")]
    Mailbox(io::Error),
}

/// Everything of the sync thread.
pub struct SyncLoop {
    config: Arc<Resolved>,
    control: Postman<ControlRequest>,
    engine: Engine,
    /// The other nodes, by the engine's peer position.
    peers: Vec<NodeId>,
    events: EventSource,
    dump: DumpSource,
    expectations: ExpectationDump,
    writing: Writing,
    socket: PeerSockets,
    links: Links,
    addresses: OwnAddresses,
    /// What the administrator wants replicated; [`Admission`] has the node's own addresses in addition.
    wanted: Filter,
    admission: Admission,
    poller: Poller,
    actions: Vec<Action>,
    pending: Pending,
    sessions: Sessions,
    /// The last complaint about each link's socket, not to be repeated every second.
    socket_complaints: Vec<Option<String>>,
    /// What the engine was told of the largest datagram.
    frame_bytes: usize,
    socket_due: Instant,
    addresses_due: Instant,
    /// The sync socket is polled for datagrams.
    looks_at_peers: bool,
    /// Until when events and datagrams are left to gather.
    gather_until: Instant,
    /// Set by a stop request: when to end even if something is pending.
    stop_by: Option<Instant>,
}

impl SyncLoop {
    /// Opens the sockets in the network namespace of the calling thread; [`SyncLoop::run`] must run in it too.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN or nfnetlink. A sync interface or address that is missing is none.
    pub fn new(config: Arc<Resolved>, control: Postman<ControlRequest>) -> Result<Self, SyncLoopError> {
        if let Err(error) = sysctl::enable_events() {
            tracing::warn!(%error, "cannot set {}=1: flows may be missing on the peer", sysctl::EVENTS_NAME);
        }
        let writer = Writer::open()?;
        let events = EventSource::open(writer.port(), config.sync.netlink_buffer, config.sync.netlink_buffer_max)?;
        let mut addresses = OwnAddresses::open().map_err(SyncLoopError::Addresses)?;
        let wanted = config.sync.filter.clone();
        let filter = with_own(&wanted, &mut addresses).map_err(SyncLoopError::Addresses)?;
        restrict(&events, &filter);
        let peers = peers_of(&config);
        let (socket, links) = links::open(&config, &peers)?;
        let seed = getrandom::u64().map_err(SyncLoopError::Randomness)?;
        let frame_bytes = socket.datagram_bytes_max();
        let links_count = config.sync_links().len();
        let engine = Engine::new(engine_config(&config, &peers, frame_bytes)?, seed);
        Ok(Self {
            config,
            control,
            engine,
            peers,
            events,
            dump: DumpSource::open()?,
            expectations: ExpectationDump::open()?,
            writing: Writing::new(writer).map_err(SyncLoopError::Mailbox)?,
            socket,
            links,
            addresses,
            wanted,
            admission: Admission::new(filter, seed),
            poller: Poller::new().map_err(SyncLoopError::Poller)?,
            actions: Vec::new(),
            pending: Pending::default(),
            sessions: Sessions::default(),
            socket_complaints: vec![None; links_count],
            frame_bytes,
            socket_due: Instant(0),
            addresses_due: clock::now() + ADDRESS_INTERVAL,
            looks_at_peers: true,
            gather_until: Instant(0),
            stop_by: None,
        })
    }

    /// Runs until [`SyncRequest::Stop`], or until nobody can send a request any more.
    ///
    /// # Errors
    /// When the kernel refuses to poll.
    pub fn run(mut self, mailbox: Mailbox<SyncRequest>) -> io::Result<()> {
        self.poller.watch(mailbox.fd(), MAILBOX)?;
        self.poller.watch(self.events.fd(), EVENTS)?;
        self.poller.watch(self.dump.fd(), DUMP)?;
        self.poller.watch(self.expectations.fd(), EXPECTATIONS)?;
        self.poller.watch(self.addresses.fd(), ADDRESSES)?;
        self.poller.watch(&self.links, LINKS)?;
        let allowed = affinity::leave_reserved();
        if let Err(error) = &allowed {
            tracing::warn!(%error, "no processor is left to the election: reading large tables may delay it");
        }
        if let Err(error) = self.writing.start(allowed.ok()) {
            tracing::warn!(%error, "cannot start a thread for conntrack writes: they are done between other work");
        }
        self.poller.watch(self.writing.fd(), WRITTEN)?;
        let mut ready = Vec::new();
        self.on_timers(clock::now());
        while !self.is_finished(clock::now()) {
            let deadline = self.deadline();
            self.look_at_peers();
            self.poller.wait(deadline, &mut ready)?;
            self.gather(&ready);
            ready.sort_unstable();
            let mut more = false;
            for token in &ready {
                match *token {
                    MAILBOX => self.on_mailbox(&mailbox),
                    EVENTS => more |= self.on_events(PORTIONS_PER_WAKE),
                    DUMP => self.on_dump(),
                    EXPECTATIONS => self.on_expectations(),
                    ADDRESSES => self.on_addresses(),
                    PEERS => more |= self.on_peers(),
                    WRITTEN => self.on_written(),
                    LINKS => self.on_links(),
                    _ => {}
                }
                self.execute();
            }
            if more {
                self.gather_until = Instant(0);
            }
            self.on_timers(clock::now());
        }
        Ok(())
    }

    /// Frames wait in the socket while the kernel has more writes than it can do soon: their senders' windows fill, and the
    /// loop goes on with the rest.
    fn look_at_peers(&mut self) {
        let look = !self.writing.is_full();
        if look == self.looks_at_peers {
            return;
        }
        self.looks_at_peers = look;
        for fd in self.socket.fds() {
            if let Err(error) = self.poller.pause(fd, PEERS, !look) {
                tracing::error!(%error, "cannot change what the sync socket is polled for");
            }
        }
    }

    /// Lets more events and datagrams come when some came just before, unless something else waits as well.
    fn gather(&mut self, ready: &[u64]) {
        if ready.is_empty() || !ready.iter().all(|token| matches!(*token, EVENTS | PEERS)) {
            return;
        }
        let now = clock::now();
        if now < self.gather_until {
            std::thread::sleep(self.gather_until.since(now));
        }
        self.gather_until = now.max(self.gather_until) + WAKE_GAP;
    }

    /// When something is due without any descriptor being ready.
    fn deadline(&self) -> Option<Instant> {
        if self.is_busy() {
            return Some(clock::now());
        }
        let own = [Some(self.socket_due), Some(self.addresses_due), self.stop_by];
        own.into_iter().fold(earliest(self.engine.poll_at(), self.admission.poll_at()), earliest)
    }

    fn on_timers(&mut self, now: Instant) {
        if now >= self.socket_due {
            self.socket_due = now + SOCKET_INTERVAL;
            self.look_after_sockets();
        }
        if now >= self.addresses_due {
            self.on_addresses();
        }
        self.admission.on_timer(now, &mut self.engine, &mut self.actions);
        if self.engine.poll_at().is_some_and(|due| due <= now) {
            self.engine.handle(now, Input::Timer, &mut self.actions);
        }
        self.execute();
    }

    /// True when more may wait.
    fn on_events(&mut self, portions: usize) -> bool {
        (0..portions).all(|_| self.read_events())
    }

    fn read_events(&mut self) -> bool {
        let now = clock::now();
        let Self { events, engine, actions, admission, .. } = self;
        events.read(|event| match event {
            Event::Changed(flow) => admission.changed(now, flow, engine, actions),
            Event::Destroyed(flow) => admission.destroyed(now, &flow.key, &flow.reply, flow.id, engine, actions),
            Event::Expected { master, expectation } => {
                engine.handle(now, Input::Expected { master, expectation }, actions);
            }
            Event::Unexpected { master, expectation } => {
                engine.handle(now, Input::ExpectationGone { master, expectation }, actions);
            }
            Event::Lost => admission.events_lost(now, engine, actions),
        })
    }

    fn on_dump(&mut self) {
        let now = clock::now();
        let Self { dump, engine, actions, admission, .. } = self;
        match dump.read(|flow| admission.dumped(now, flow, engine, actions)) {
            // Those of the flows just read: only with them the dump is over.
            Progress::Ended { complete: true } => self.start_expectations(),
            Progress::Ended { complete: false } => engine.handle(now, Input::DumpEnd { complete: false }, actions),
            Progress::Running | Progress::Idle => {}
        }
    }

    fn on_expectations(&mut self) {
        let now = clock::now();
        let Self { expectations, engine, actions, .. } = self;
        let progress = expectations.read(|master, expectation| {
            engine.handle(now, Input::DumpedExpectation { master, expectation }, actions);
        });
        match progress {
            Progress::Ended { complete } => engine.handle(now, Input::DumpEnd { complete }, actions),
            Progress::Running | Progress::Idle => {}
        }
    }

    fn on_peers(&mut self) -> bool {
        let now = clock::now();
        let Self { socket, engine, actions, .. } = self;
        socket.read(|link, bytes| engine.handle(now, Input::Datagram { link, bytes }, actions))
    }

    fn on_addresses(&mut self) {
        self.addresses_due = clock::now() + ADDRESS_INTERVAL;
        self.addresses.clear_changes();
        // The former addresses hold until the next attempt.
        if let Err(error) = self.filter_anew() {
            tracing::warn!(%error, "cannot read the addresses of this node's interfaces");
        }
    }

    /// Puts the filter in force that results from what is wanted and from the node's addresses. The kernel learns of it
    /// first: what the dump that follows misses raises events.
    fn filter_anew(&mut self) -> io::Result<()> {
        let filter = with_own(&self.wanted, &mut self.addresses)?;
        if filter != *self.admission.filter() {
            restrict(&self.events, &filter);
            self.admission.set_filter(clock::now(), filter, &mut self.engine, &mut self.actions);
        }
        Ok(())
    }
}

fn peers_of(config: &Resolved) -> Vec<NodeId> {
    (0u8..).zip(&config.nodes).map(|(index, _)| NodeId(index)).filter(|node| *node != config.node).collect()
}

fn address_of(config: &Resolved, node: NodeId) -> IpAddr {
    // Every node of a checked configuration is in it; the unspecified address would only fail to bind.
    config.nodes.get(usize::from(node.0)).map_or(IpAddr::from([0; 4]), |node| node.sync_address)
}

fn engine_config(config: &Resolved, peers: &[NodeId], frame_bytes_max: usize) -> Result<Config, SyncLoopError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(SyncLoopError::Randomness)?;
    Ok(Config {
        node: config.node,
        session: getrandom::u64().map_err(SyncLoopError::Randomness)?,
        nonce,
        cluster: config.cluster.clone(),
        peers: peers.to_vec(),
        keys: config.sync.keys.clone(),
        version: VERSION,
        capabilities: Capabilities::ALL,
        frame_bytes_max,
        links: u8::try_from(config.sync_links().len()).unwrap_or(u8::MAX),
        sending: config.sync.transport.sending,
        flows_max: config.sync.flows_max,
        window_frames: WINDOW_FRAMES,
        hello_interval: config.sync.hello_interval,
        peer_timeout: config.sync.peer_timeout,
        mode: config.sync.mode.mode,
        refresh_time: config.sync.mode.refresh_time,
        cache_timeout: config.sync.mode.cache_timeout,
        purge_timeout: config.sync.mode.purge_timeout,
    })
}

/// What is wanted, without the flows that end on this node: those of its interfaces' addresses. The virtual and the
/// peers' addresses are in it already.
fn with_own(wanted: &Filter, addresses: &mut OwnAddresses) -> io::Result<Filter> {
    let mut filter = wanted.clone();
    filter.local.extend(addresses.read()?.into_iter().map(Prefix::host));
    Ok(filter)
}

fn restrict(events: &EventSource, filter: &Filter) {
    if let Err(error) = events.restrict(filter) {
        tracing::warn!(%error, "the kernel does not filter conntrack events: unwanted ones cost some CPU time");
    }
}
