//! What liveness tells the election of the peer, and what the election wants the peer to know.

use crate::role::Role;
use crate::time::Instant;
use crate::wire::heartbeat::{self, Gate, Standing};
use core::time::Duration;

/// What is known of the peer by heartbeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// No heartbeat was ever answered, or too few paths were alive to draw a conclusion from their silence: a foreign
    /// peer (ucarp), no XDP there, or not started yet. Plain CARP holds.
    #[default]
    Unknown,
    /// Its kernel answers.
    Alive(PeerReport),
    /// Its kernel answered on at least two paths, and is silent on all since `last.heard`.
    Silent { last: PeerReport },
}

/// The newest thing that the peer's kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// Of the peer's process.
    pub session: u64,
    /// The highest term that it knows; its own while it is MASTER.
    pub term: u64,
    pub standing: Standing,
    /// Since its controller last was alive.
    pub beat_age: Duration,
    pub lease_left: Duration,
    /// When this was heard here.
    pub heard: Instant,
    /// When it was asked for: it was said after that.
    pub asked: Instant,
}

impl PeerReport {
    /// MASTER with its gate open.
    pub const fn serves(&self) -> bool {
        self.standing.serves()
    }

    /// MASTER whose lease is over for good.
    pub fn has_lapsed(&self) -> bool {
        self.standing.gate == Gate::Lapsed
    }
}

/// The byte of a role in heartbeats.
pub const fn role_byte(role: Role) -> u8 {
    match role {
        Role::Init => heartbeat::ROLE_INIT,
        Role::Backup => heartbeat::ROLE_BACKUP,
        Role::Master => heartbeat::ROLE_MASTER,
        Role::Fault => heartbeat::ROLE_FAULT,
    }
}

/// The role that a byte in a heartbeat stands for; unknown ones are no MASTER.
pub const fn role_of(byte: u8) -> Role {
    match byte {
        heartbeat::ROLE_BACKUP => Role::Backup,
        heartbeat::ROLE_MASTER => Role::Master,
        heartbeat::ROLE_FAULT => Role::Fault,
        _ => Role::Init,
    }
}
