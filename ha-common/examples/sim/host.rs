//! One node: a host with its clock, its kernel (lease and gate, connection table, programs), and the two loops of its daemon.

use crate::clock::Clock;
use crate::conntrack::Conntrack;
use crate::model::daemon::{Daemon, Settings};
use crate::model::lease_kernel::Kernel;
use crate::model::segments::Packet;
use crate::sync_loop::SyncLoop;
use crate::world::PATHS;
use ha_common::election::{Command, Input};
use ha_common::role::SyncHealth;
use ha_common::secret::ClusterKey;
use ha_common::time::Instant;
use ha_common::wire::genuine::SessionEntry;
use std::collections::VecDeque;
use std::time::Duration;

/// Stalls that are remembered.
const STALLS_MAX: usize = 6;

/// What waits for a control loop that does not run.
#[derive(Default)]
pub struct Missed {
    /// With the host's own time when each came.
    pub adverts: Vec<(Instant, usize, Packet)>,
    pub health: Option<SyncHealth>,
    pub links: bool,
    /// What an operator and the tracks said last.
    pub maintenance: Option<bool>,
    pub demotion: Option<u16>,
}

impl Missed {
    /// Keeps what is not lost when nobody reads it at once: it waits in the loop's mailbox.
    pub fn keep(&mut self, input: &Input<'_>) {
        match input {
            Input::Command(Command::Maintenance(on)) => self.maintenance = Some(*on),
            Input::Demotion(total) => self.demotion = Some(*total),
            Input::Command(Command::Stop | Command::HandOver { .. } | Command::Want) => {}
            // Time and words are those of the next tick; the rest has its place above.
            Input::Timer
            | Input::Advert(_)
            | Input::Link { .. }
            | Input::Sync(_)
            | Input::Peer(_)
            | Input::Lease(_) => {}
        }
    }
}

pub struct Host {
    pub clock: Clock,
    /// `None`: the host is without power.
    pub kernel: Option<Kernel>,
    pub conntrack: Conntrack,
    pub control: Option<Box<Daemon>>,
    pub sync: Option<Box<SyncLoop>>,
    pub settings: Settings,
    /// In the file of secrets.
    pub keys: Vec<ClusterKey>,
    /// The epoch that the peer accepts, as the sync loop has said.
    pub key_in_use: Option<u8>,
    /// What the programs know of the peers' sessions, by node.
    pub sessions: Vec<SessionEntry>,
    pub link_up: [bool; PATHS],
    pub tick_at: Instant,
    pub sync_at: Instant,
    pub control_frozen_until: Instant,
    pub sync_frozen_until: Instant,
    /// The control loop will stop for so long in the middle of its next tick.
    pub freeze_in_tick: Option<Duration>,
    /// It will stop for so long when it is offered the group.
    pub freeze_at_offer: Option<Duration>,
    pub paused_until: Instant,
    /// When the sync loop stood still lately, from and until.
    pub stalls: VecDeque<(Instant, Instant)>,
    pub missed: Missed,
    /// How many transitions of the control loop were passed on, and how many ends of hand-overs.
    pub told: (usize, usize),
    /// The hand-over that the sync loop was last asked to drain for.
    pub draining: Option<Instant>,
    /// What was flushed for the offer that stands: everything of before this moment. A stop that takes it over flushes nothing again.
    pub offered: Option<Instant>,
    pub health: SyncHealth,
    /// When its engine last met a peer.
    pub met_at: Instant,
}

impl Host {
    pub fn freeze(&mut self, now: Instant, control_until: Instant, sync_until: Instant) {
        self.stall(now, sync_until);
        self.control_frozen_until = self.control_frozen_until.max(control_until);
        self.sync_frozen_until = self.sync_frozen_until.max(sync_until);
    }

    fn stall(&mut self, now: Instant, until: Instant) {
        if until > now {
            if self.stalls.len() == STALLS_MAX {
                self.stalls.pop_front();
            }
            self.stalls.push_back((now, until));
        }
    }

    /// Nothing of the host runs for so long; a clock that does not count it stands still meanwhile.
    pub fn pause(&mut self, now: Instant, length: Duration, counted: bool) {
        if self.paused_until <= now {
            self.paused_until = now + length;
            self.stall(now, now + length);
            if !counted {
                self.clock.miss(now, length);
            }
        }
    }

    pub fn has_power(&self) -> bool {
        self.kernel.is_some()
    }

    /// Its kernel answers and forwards.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.has_power() && self.paused_until <= now
    }

    pub fn control_runs(&self, now: Instant) -> bool {
        self.control.is_some() && self.is_alive(now) && self.control_frozen_until <= now
    }

    pub fn sync_runs(&self, now: Instant) -> bool {
        self.sync.is_some() && self.is_alive(now) && self.sync_frozen_until <= now
    }

    pub fn local(&self, now: Instant) -> Instant {
        self.clock.local(now)
    }

    pub fn is_open(&self, now: Instant) -> bool {
        self.is_alive(now) && self.kernel.as_ref().is_some_and(|kernel| kernel.is_open(self.local(now)))
    }

    pub fn has_vips(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.vips)
    }

    /// When its control loop acts next.
    pub fn tick_due(&self) -> Option<Instant> {
        self.control.as_ref().map(|_| self.tick_at.max(self.control_frozen_until).max(self.paused_until))
    }

    pub fn sync_due(&self) -> Option<Instant> {
        self.sync.as_ref().map(|_| self.sync_at.max(self.sync_frozen_until).max(self.paused_until))
    }

    /// Looks anew when the sync loop wakes up.
    pub fn schedule_sync(&mut self, now: Instant) {
        let Some(sync) = &self.sync else { return };
        let socket = self.conntrack.socket.as_ref();
        let events = socket.is_some_and(|socket| socket.lost || !socket.queue.is_empty());
        let local = self.clock.local(now);
        // Never: its peers' silence always has a time.
        let due = sync.wake_at(local, events).unwrap_or(local + Duration::from_secs(1));
        self.sync_at = if due <= local { now } else { self.clock.world(due) };
    }

    /// Other secrets are in the file.
    pub fn hold(&mut self, keys: &[ClusterKey]) {
        self.keys = keys.to_vec();
    }

    pub fn accepts(&self, epoch: u8) -> bool {
        self.keys.iter().any(|key| key.epoch == epoch)
    }

    /// What probes are keyed with: the secret that the peer accepts, and the oldest while that is not known.
    pub fn heartbeat_epoch(&self) -> u8 {
        let accepted = self.key_in_use.filter(|epoch| self.accepts(*epoch));
        accepted.or(self.keys.first().map(|key| key.epoch)).unwrap_or(0)
    }
}
