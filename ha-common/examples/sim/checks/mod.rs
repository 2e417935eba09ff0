//! What must hold at every moment, whatever goes wrong; each check has a name that a failure tells.

mod calm;
mod end;
mod flows;
mod gates;
mod hand_over;
mod nonces;
mod record;

use crate::sync_loop::{CLUSTER, key};
use calm::Calm;
use flows::Flows;
use gates::Gates;
use ha_common::role::Role;
use ha_common::sync::{heartbeat_key, stamp_key};
use ha_common::time::Instant;
use ha_common::wire::siphash::Key;
use nonces::Nonces;
use std::sync::OnceLock;
use std::time::Duration;

/// Secrets of one run at most.
pub const SECRETS_MAX: u8 = 40;

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Violation {
    pub check: &'static str,
    pub detail: String,
}

pub struct Checks {
    gates: Gates,
    flows: Flows,
    nonces: Nonces,
    calm: Calm,
}

impl Checks {
    pub fn new(now: Instant, nodes: usize, sessions: u32) -> Self {
        Self {
            gates: Gates::new(nodes),
            flows: Flows::new(nodes, sessions),
            nonces: Nonces::default(),
            calm: Calm::new(now),
        }
    }

    /// What the programs know of the secret of an epoch; nobody has secrets of others.
    pub fn stamp_key(&self, epoch: u8) -> Key {
        static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
        let keys = KEYS.get_or_init(|| (0..=SECRETS_MAX).map(|epoch| stamp_key(&key(epoch), CLUSTER)).collect());
        keys.get(usize::from(epoch)).copied().unwrap_or_default()
    }

    /// What heartbeats are authenticated with under the secret of an epoch.
    pub fn heartbeat_key(&self, epoch: u8) -> Key {
        heartbeat_key(&key(epoch).secret, CLUSTER, epoch)
    }

    pub fn process_ended(&mut self, now: Instant, node: usize) {
        self.flows.process_ended(now, node);
    }

    pub fn role_changed(&mut self, now: Instant, node: usize, to: Role) {
        self.gates.role_changed(now, node, to);
    }

    pub fn power_lost(&mut self, now: Instant, node: usize) {
        self.gates.forget_terms(node);
        self.flows.power_lost(now, node);
    }

    /// The engine of that node takes itself for a master.
    pub fn is_master(&mut self, now: Instant, node: usize) {
        self.flows.is_master(now, node);
    }

    /// Every engine hears all of its peers, or not.
    pub fn hears_all(&mut self, now: Instant, hears: bool) {
        self.flows.hears_all(now, hears);
    }

    pub fn audit_pause(&self) -> Duration {
        calm::AUDIT
    }

    pub fn facts(&self) -> Facts {
        Facts {
            overlap: self.gates.overlap,
            excused: self.gates.excused,
            audits: self.calm.audits,
            created_after_end: self.flows.excused,
        }
    }
}

/// What the checks have seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The longest time of two open gates in a hand-over, and where it is excused.
    pub overlap: Duration,
    pub excused: Duration,
    /// Comparisons of tables in quiet times.
    pub audits: u64,
    /// Flows created after their end for a peer that has them.
    pub created_after_end: u64,
}

impl Facts {
    pub fn add(&mut self, other: &Facts) {
        self.overlap = self.overlap.max(other.overlap);
        self.excused = self.excused.max(other.excused);
        self.audits += other.audits;
        self.created_after_end += other.created_after_end;
    }
}
