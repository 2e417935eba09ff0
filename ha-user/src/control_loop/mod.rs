//! The election's loop: the only place where the pure election meets the edges that serve it.
//!
//! Never blocked by state replication: adverts (ring or sockets), link events, requests and one deadline
//! come in; what [`Election::handle`] wants done is done strictly in its order.

mod act;
mod addresses;
mod adverts;
pub mod breakdown;
mod demotions;
mod explain;
mod failure;
mod links;
mod operate;
pub mod plan;
mod pulse;
pub mod realtime;
mod report;
mod roles;
mod stop;
mod turns;

use crate::advert_socket::{AdvertSocketError, AdvertSockets};
use crate::clock;
use crate::config::Resolved;
use crate::damper::Damper;
use crate::datapath::{self, Datapath, SocketCounters};
use crate::demotion::Demotion;
use crate::forwarded::Forwarded;
use crate::hooks::{Event, HookPost};
use crate::link::{LinkError, Links};
use crate::mailbox::{Mailbox, Postman};
use crate::poller::Poller;
use crate::request::{ControlRequest, SyncRequest};
use crate::vip::{VipError, Vips};
use addresses::Addresses;
use breakdown::Explainer;
use failure::{Failure, Failures};
use ha_common::election::{Action, Command, Election, Input, InterfaceId, Transition, Wait};
use ha_common::time::{Instant, earliest};
use operate::Operators;
use plan::Heritage;
use pulse::Pulse;
use realtime::Realtime;
use roles::RolePost;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Requests answered at one wake-up.
const REQUESTS_MAX: usize = 64;

const MAILBOX: u64 = 0;
const LINKS: u64 = 1;
const RING: u64 = 2;
const LOG: u64 = 3;
const ADDRESSES: u64 = 4;
/// Listeners of interfaces without XDP follow, by [`InterfaceId`].
const LISTENERS: u64 = 16;

/// Why the loop cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Links(#[from] LinkError),
    #[error(transparent)]
    Vips(#[from] VipError),
    #[error(transparent)]
    Adverts(#[from] AdvertSocketError),
    #[error("cannot wait for events: {0} (are file descriptors exhausted? see `ulimit -n`)")]
    Poll(#[source] io::Error),
    #[error("the sync loop does not take the map of sessions: {0}")]
    Sessions(String),
    #[error("cannot start the thread that moves the addresses: {0} (are threads or file descriptors exhausted?)")]
    Mover(#[source] io::Error),
    #[error("the kernel gives no random seed: {0}")]
    Seed(getrandom::Error),
}

/// Everything the election needs on this node.
pub struct ControlLoop {
    config: Arc<Resolved>,
    election: Election,
    datapath: Datapath,
    /// What the socket path counts, in the rows that XDP counts in as well.
    counters: SocketCounters,
    links: Links,
    addresses: Addresses,
    adverts: AdvertSockets,
    poller: Poller,
    roles: RolePost,
    /// `None` where nobody runs hooks: in tests of the loop alone.
    hooks: Option<HookPost>,
    sync: Postman<SyncRequest>,
    pulse: Pulse,
    operators: Operators,
    /// The hand-over that the sync loop was last asked to drain for.
    draining: Option<Instant>,
    /// Contacts with other masters that were told.
    contacts_told: u64,
    /// What the election waits for, and since when.
    waiting: Option<(Wait, Instant)>,
    /// The mastership of the process before was taken over at the start.
    resumed: bool,
    /// Told to stop: when to end at the latest, whatever the election still waits for.
    stop_by: Option<Instant>,
    failures: Failures,
    realtime: Realtime,
    /// Carrying virtual addresses, sync link included; position is the [`InterfaceId`].
    interfaces: Vec<Watched>,
    /// What demotes this node, as the tracker said last, and what it weighs together.
    explainer: Explainer,
    /// `None` when `/proc` does not show it.
    forwarded: Option<Forwarded>,
    demotions: Vec<Demotion>,
    demotion_weight: u16,
    /// The change of role that the hooks are to be told of, once everything that belongs to it is done.
    untold: Option<Event>,
    /// The takeover whose addresses are not in the kernel yet.
    taking_over: Option<Transition>,
    /// The last takeover and how long it took.
    takeover: Option<(Transition, Duration)>,
    started: Instant,
    /// How often another thread had to take the loop's turns because its own was not let run.
    stand_ins: u64,
    actions: Vec<Action>,
}

struct Watched {
    name: String,
    /// As told to the edges last.
    ifindex: Option<u32>,
    /// Sending adverts fails at present: said once, not with every advert.
    mute: bool,
    /// When the link counts as up and as down.
    damper: Damper,
}

impl ControlLoop {
    /// Opens every edge; the election stays in INIT until [`Self::run`].
    ///
    /// # Errors
    /// When the kernel refuses a socket that nothing works without. Missing interfaces are no error.
    ///
    /// `maintenance`: under maintenance since before this start.
    pub fn new(
        config: Arc<Resolved>,
        datapath: Datapath,
        sync: Postman<SyncRequest>,
        maintenance: bool,
    ) -> Result<Self, ControlError> {
        let plan = datapath::Plan::from_config(&config);
        let names: Vec<String> = plan.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let virtual_addresses = config.vips.iter().flat_map(|vip| vip.addresses.iter().map(|(address, _)| *address));
        let (up_delay, down_delay) = (config.election.link_up_delay, config.election.link_down_delay);
        let watched = |name| Watched { name, ifindex: None, mute: false, damper: Damper::new(up_delay, down_delay) };
        let seed = getrandom::u64().map_err(ControlError::Seed)?;
        let session = getrandom::u64().map_err(ControlError::Seed)?;
        let heritage = Heritage { datapath: datapath.inherited(), maintenance, now: clock::now() };
        let election_config = plan::election_config(&config, &heritage);
        let vips = Vips::open(&config)?;
        Ok(Self {
            counters: datapath.counters().socket(),
            links: Links::open(&names, virtual_addresses.collect())?,
            addresses: Addresses::new(vips, config.vips.len()).map_err(ControlError::Mover)?,
            adverts: AdvertSockets::open(&config)?,
            poller: Poller::new().map_err(ControlError::Poll)?,
            hooks: None,
            pulse: Pulse::new(&plan, &config, session, seed),
            roles: RolePost::new(sync.clone()),
            sync,
            operators: Operators::default(),
            draining: None,
            contacts_told: 0,
            waiting: None,
            resumed: election_config.resume.is_some(),
            stop_by: None,
            failures: Failures::default(),
            realtime: Realtime::Wanted,
            interfaces: names.into_iter().map(watched).collect(),
            explainer: Explainer::default(),
            forwarded: Forwarded::open().ok(),
            demotions: Vec::new(),
            demotion_weight: 0,
            untold: None,
            taking_over: None,
            takeover: None,
            started: clock::now(),
            stand_ins: 0,
            actions: Vec::new(),
            election: Election::new(election_config, seed),
            datapath,
            config,
        })
    }

    /// Whether [`Self::run`] asks for real-time scheduling and locked memory; it does unless told otherwise.
    #[must_use]
    pub fn realtime(mut self, realtime: Realtime) -> Self {
        self.realtime = realtime;
        self
    }

    /// Who is told of changes of role, so that the hooks run.
    #[must_use]
    pub fn hooks(mut self, hooks: HookPost) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// Takes part in the election until [`ControlRequest::Stop`]; the virtual addresses are released at the end,
    /// also when the loop fails.
    ///
    /// # Errors
    /// When the kernel refuses to report events any more.
    pub fn run(mut self, mailbox: Mailbox<ControlRequest>) -> Result<(), ControlError> {
        self.realtime.enter();
        let (mut ended, result) = match self.start_addresses().and_then(|()| self.watch(&mailbox)) {
            Ok(()) => {
                let realtime = self.realtime;
                turns::run(self, mailbox, realtime)
            }
            Err(error) => (self, Err(error)),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the control loop fails and gives the mastership away");
            ended.let_go();
        }
        result
    }

    fn watch(&mut self, mailbox: &Mailbox<ControlRequest>) -> Result<(), ControlError> {
        self.poller.watch(mailbox.fd(), MAILBOX).map_err(ControlError::Poll)?;
        self.poller.watch(&self.links, LINKS).map_err(ControlError::Poll)?;
        self.poller.watch(self.addresses.fd(), ADDRESSES).map_err(ControlError::Poll)?;
        for (descriptor, token) in [(self.datapath.ring_fd(), RING), (self.datapath.log_fd(), LOG)] {
            if let Some(descriptor) = descriptor {
                self.poller.watch(descriptor, token).map_err(ControlError::Poll)?;
            }
        }
        for id in self.ids() {
            self.interface_changed(id)?;
        }
        Ok(())
    }

    /// What is to be done when the poller has something, or its deadline has come. `ready` is room for what it has.
    fn turn(&mut self, mailbox: &Mailbox<ControlRequest>, ready: &mut Vec<u64>) -> Result<Turned, ControlError> {
        self.poller.look(ready).map_err(ControlError::Poll)?;
        match self.wake(ready, mailbox)? {
            Flow::Continue => {}
            Flow::Leave => return Ok(Turned::Ended),
        }
        if self.is_stopped() {
            self.datapath.unpin();
            return Ok(Turned::Ended);
        }
        self.end_turn().map(Turned::Due)
    }

    /// Sets the poller's deadline: when the next turn is due at the latest.
    fn end_turn(&mut self) -> Result<Instant, ControlError> {
        self.retry_posts(clock::now());
        let pulse = self.pulse.poll_at(self.election.stats());
        let deadlines = [self.posts_at(), self.links_at(), self.explainer.poll_at(), pulse, self.stop_by];
        let deadline = deadlines.into_iter().fold(self.election.poll_at(), earliest);
        self.poller.arm(deadline).map_err(ControlError::Poll)?;
        Ok(deadline.unwrap_or(Instant(u64::MAX)))
    }

    /// The lease first: a process that was stopped must not do one thing more as master. Then links, because they
    /// decide who may speak; adverts and heartbeats before the deadline, because a late wake-up of this node must not
    /// be taken for the master's silence.
    fn wake(&mut self, ready: &[u64], mailbox: &Mailbox<ControlRequest>) -> Result<Flow, ControlError> {
        let now = clock::now();
        self.check_lease(now);
        if ready.contains(&LINKS) {
            self.read_links()?;
        }
        self.settle_links();
        self.read_ring();
        for token in ready.iter().filter_map(|token| token.checked_sub(LISTENERS)) {
            if let Ok(id) = u8::try_from(token) {
                self.read_listener(InterfaceId(id));
            }
        }
        let flow = if ready.contains(&MAILBOX) { self.answer(mailbox) } else { Flow::Continue };
        if flow == Flow::Leave {
            return Ok(flow);
        }
        self.tick(now);
        if ready.contains(&LOG) {
            self.datapath.flush_log();
        }
        Ok(flow)
    }

    /// What is done at every wake-up: what the addresses' thread has done, heartbeats, the election's deadline, and the news for the kernel. `now` was read
    /// at the beginning of the wake-up.
    fn tick(&mut self, now: Instant) {
        self.check_lease(now);
        self.addresses_moved();
        self.beat();
        if self.election.poll_at().is_some_and(|at| at <= clock::now()) {
            self.feed(Input::Timer);
        }
        self.drain_if_handing_over();
        self.note_wait(now);
        self.note_contact();
        self.publish(now);
        self.explain_more(now);
    }

    /// Another master was met while this node was one: who it is, as far as can be told.
    fn note_contact(&mut self) {
        let stats = self.election.stats();
        if std::mem::replace(&mut self.contacts_told, stats.dual_master_contacts) == stats.dual_master_contacts {
            return;
        }
        let heard = stats.heard.iter().flatten().max_by_key(|(_, at)| *at).map(|(source, _)| source.to_string());
        let peer = self.config.only_peer().and_then(|peer| self.config.nodes.get(usize::from(peer.0)));
        let (peer, role) = (peer.map(|node| node.name.as_str()), stats.role.name());
        tracing::warn!(peer, heard, role, contacts = stats.dual_master_contacts, "another master was met while master");
    }

    fn note_wait(&mut self, now: Instant) {
        let wait = self.election.stats().wait;
        if wait != self.waiting.map(|(of, _)| of) {
            self.waiting = wait.map(|wait| (wait, now));
        }
    }

    /// Hands one input to the election and does what it wants.
    fn feed(&mut self, input: Input<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        let now = clock::now();
        self.election.handle(now, input, &mut actions);
        for action in actions.drain(..) {
            self.act(now, action);
        }
        self.actions = actions;
        self.explainer.end_round();
        self.tell_hooks();
    }

    fn answer(&mut self, mailbox: &Mailbox<ControlRequest>) -> Flow {
        for _ in 0..REQUESTS_MAX {
            match mailbox.next() {
                None => return Flow::Continue,
                // Whoever asked may have given up waiting: that is its affair.
                Some(ControlRequest::Status(reply)) => drop(reply.send(self.report(clock::now()))),
                Some(ControlRequest::Health(health)) => self.feed(Input::Sync(health)),
                Some(ControlRequest::Demotions(demotions)) => {
                    self.demotions = demotions;
                    self.demotions_changed();
                }
                Some(ControlRequest::HandOver { force, reply }) => self.hand_over(Command::HandOver { force }, reply),
                Some(ControlRequest::Want { reply }) => self.hand_over(Command::Want, reply),
                Some(ControlRequest::Maintenance { on, force, reply }) => self.maintenance(on, force, reply),
                Some(ControlRequest::Keys { keys, reply }) => drop(reply.send(self.set_keys(keys))),
                Some(ControlRequest::KeyInUse(epoch)) => self.pulse.use_key(epoch),
                Some(ControlRequest::Stop { keep_role: false }) => self.begin_stop(),
                Some(ControlRequest::Stop { keep_role: true }) => {
                    self.bequeath(self.config.election.timing.restart_grace);
                    return Flow::Leave;
                }
            }
        }
        Flow::Continue
    }

    fn ids(&self) -> impl Iterator<Item = InterfaceId> + use<> {
        // The configuration admits at most 256 interfaces.
        (0..=u8::MAX).map(InterfaceId).take(self.interfaces.len())
    }

    fn name(&self, id: InterfaceId) -> &str {
        self.interfaces.get(usize::from(id.0)).map_or("", |watched| watched.name.as_str())
    }
}

/// What a turn of the loop has led to.
enum Turned {
    /// The next one is due then at the latest.
    Due(Instant),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    /// End at once, and leave everything in the kernel as it is.
    Leave,
}
