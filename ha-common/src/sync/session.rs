//! Who the peer is now: the handshake that makes a fresh session, and the refusal of everything older.
//!
//! A peer's new session is believed only when its hello echoes this node's challenge, and the challenge
//! changes with every session believed. So a recorded hello can never bring an ended session back, and
//! with it the frames sealed in it.

use super::capabilities::{Capabilities, VERSION_MIN, VERSION_TELLS};
use super::links::LinkSet;
use super::modes::Mode;
use super::seal::{Identity, Keyring, SessionKeys, epoch_of};
use crate::proto::{Hello, HelloMode, HelloRole};
use crate::reason::DropReason;
use crate::role::Role;
use crate::secret::KEYS_MAX;
use crate::wire::frame::{self, Header, Kind, TAG_LEN};
use prost::Message;
use std::collections::VecDeque;

/// Ended sessions that are refused by name; older ones fail at the challenge.
const RETIRED_MAX: usize = 64;

/// The peer's session that is believed.
struct Current {
    identity: Identity,
    keys: SessionKeys,
    hello_sequence: u64,
    /// Its challenge as last seen.
    challenge: u64,
    /// It holds this node's session for current as well: sealed frames will be understood.
    knows_me: bool,
}

/// Which secrets the peer accepts, and which is used because of that.
#[derive(Default)]
struct PeerKeys {
    /// Marks of [`Keyring::marks`], from its last hello of a believed session.
    accepted: Vec<u64>,
    /// What that hello was authenticated under.
    heard: Option<u8>,
    in_use: u8,
}

/// What a hello turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The first hello of a session that is now current.
    New,
    /// The current session is alive. `answer`: the peer does not know this node's session yet.
    Known { answer: bool },
    /// An unknown session that has not proved to be fresh: it needs an answer with its challenge.
    Stranger(Stranger),
}

/// Whom to answer, and under which secret it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub challenge: u64,
    pub key_epoch: u8,
}

/// What this node can do and how it replicates, for as long as it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    pub version: u32,
    pub capabilities: Capabilities,
    pub mode: Mode,
}

/// What the peer said of itself; nothing before its first hello.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub version: u32,
    pub capabilities: Capabilities,
    pub mode: Option<Mode>,
}

/// What this node says of itself in a hello.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statement {
    pub clock: u64,
    pub role: Role,
    pub in_sync: bool,
    pub bulk_wanted: u32,
    /// Links over which the peer is heard.
    pub links_heard: LinkSet,
}

pub(super) struct Session {
    mine: Identity,
    peer_node: crate::role::NodeId,
    challenge: u64,
    believed: u64,
    hellos_sent: u64,
    acks_sent: u64,
    current: Option<Current>,
    retired: VecDeque<u64>,
    keys: PeerKeys,
    abilities: Abilities,
    told: Told,
}

impl Session {
    pub fn new(keyring: &Keyring, mine: Identity, peer_node: crate::role::NodeId, abilities: Abilities) -> Self {
        let challenge = challenge(keyring, &mine, peer_node, 0);
        Self {
            mine,
            peer_node,
            challenge,
            believed: 0,
            hellos_sent: 0,
            acks_sent: 0,
            current: None,
            retired: VecDeque::new(),
            keys: PeerKeys { in_use: keyring.choose(&[], None), ..PeerKeys::default() },
            abilities,
            told: Told::default(),
        }
    }

    /// What the peer last said of itself.
    pub fn told(&self) -> Told {
        self.told
    }

    /// What both sides can do.
    pub fn common(&self) -> Capabilities {
        self.abilities.capabilities.common(self.told.capabilities)
    }

    /// Other secrets are valid from now on. The session goes on.
    pub fn rekey(&mut self, keyring: &Keyring) {
        if let Some(current) = &mut self.current {
            current.keys = keyring.session(&self.mine, &current.identity);
        }
        self.keys.in_use = keyring.choose(&self.keys.accepted, self.keys.heard);
    }

    /// The epoch of the secret that frames to the peer are keyed with.
    pub fn key_epoch(&self) -> u8 {
        self.keys.in_use
    }

    /// The epochs that the peer accepts, as it said last.
    pub fn key_epochs_accepted(&self) -> Vec<u8> {
        self.keys.accepted.iter().copied().map(epoch_of).collect()
    }

    /// Whether the peer holds one of these.
    pub fn accepts_any(&self, keyring: &Keyring) -> bool {
        keyring.marks().any(|mark| self.keys.accepted.contains(&mark))
    }

    /// An epoch for which the peer has another secret than this node.
    pub fn key_conflict(&self, keyring: &Keyring) -> Option<u8> {
        let differs = |&&mark: &&u64| keyring.mark(epoch_of(mark)).is_some_and(|own| own != mark);
        self.keys.accepted.iter().find(differs).copied().map(epoch_of)
    }

    /// The peer's current session; zero when there is none.
    pub fn peer_session(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.identity.session)
    }

    /// The sequence of the newest hello of the peer's current session.
    pub fn hello_sequence(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.hello_sequence)
    }

    /// Both sides hold each other's session for current.
    pub fn is_mutual(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.knows_me)
    }

    /// The keys for a sealed frame of the peer's current session.
    ///
    /// # Errors
    /// [`DropReason::FrameSession`].
    pub fn keys_for(&self, header: &Header) -> Result<&SessionKeys, DropReason> {
        let current = self.current.as_ref().ok_or(DropReason::FrameSession)?;
        if current.identity.session == header.session { Ok(&current.keys) } else { Err(DropReason::FrameSession) }
    }

    /// A sealed frame was authentic: its sender derived its key from this node's session.
    pub fn on_sealed(&mut self) {
        if let Some(current) = &mut self.current {
            current.knows_me = true;
        }
    }

    /// Judges an authentic hello.
    ///
    /// # Errors
    /// The reason of refusal; nothing has changed then.
    pub fn on_hello(&mut self, keyring: &Keyring, header: &Header, hello: &Hello) -> Result<Greeting, DropReason> {
        if hello.cluster != keyring.cluster {
            return Err(DropReason::FrameCluster);
        }
        if hello.min_version > self.abilities.version || hello.version < VERSION_MIN {
            return Err(DropReason::FrameVersion);
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.identity.session == header.session) {
            if current.identity.nonce != nonce(hello) {
                return Err(DropReason::FrameSession);
            }
            if header.sequence <= current.hello_sequence {
                return Err(DropReason::FrameReplay);
            }
            current.hello_sequence = header.sequence;
            current.challenge = hello.challenge;
            current.knows_me = hello.accepted == self.mine.session;
            let answer = !current.knows_me;
            self.learn(keyring, header, hello);
            return Ok(Greeting::Known { answer });
        }
        if self.retired.contains(&header.session) {
            return Err(DropReason::FrameSession);
        }
        if hello.echo != self.challenge {
            let stranger = Stranger { challenge: hello.challenge, key_epoch: header.key_epoch };
            return Ok(Greeting::Stranger(stranger));
        }
        self.believe(keyring, header, hello);
        self.learn(keyring, header, hello);
        Ok(Greeting::New)
    }

    /// The next hello, ready to send. It answers the stranger, if there is one, under the secret that he used; otherwise
    /// the current challenge is echoed. `None` when no secret is held.
    pub fn hello(&mut self, keyring: &Keyring, statement: &Statement, stranger: Option<Stranger>) -> Option<Vec<u8>> {
        self.hellos_sent += 1;
        let echo = stranger.map(|stranger| stranger.challenge);
        let key_epoch = stranger.map_or(self.keys.in_use, |stranger| stranger.key_epoch);
        let current = self.current.as_ref();
        let tells = self.abilities.version >= VERSION_TELLS;
        let hello = Hello {
            version: self.abilities.version,
            min_version: VERSION_MIN,
            capabilities: if tells { self.abilities.capabilities.0 } else { 0 },
            cluster: keyring.cluster,
            nonce_high: half(&self.mine.nonce, 0),
            nonce_low: half(&self.mine.nonce, 8),
            challenge: self.challenge,
            echo: echo.or(current.map(|current| current.challenge)).unwrap_or(0),
            accepted: current.map_or(0, |current| current.identity.session),
            clock: statement.clock,
            role: role_message(statement.role).into(),
            in_sync: statement.in_sync,
            bulk_wanted: statement.bulk_wanted,
            links_heard: Some(u32::from(statement.links_heard.0)),
            keys: if tells { keyring.marks().collect() } else { Vec::new() },
            mode: if tells { self.abilities.mode.message() } else { HelloMode::Untold }.into(),
        };
        let mut datagram = self.header(key_epoch, Kind::Hello, self.hellos_sent, hello.encoded_len()).emit().to_vec();
        hello.encode_raw(&mut datagram);
        keyring.close_hello(key_epoch, &mut datagram).then_some(datagram)
    }

    /// Seals a message for the peer; `None` without a session.
    pub fn seal(&self, kind: Kind, sequence: u64, message: &impl Message) -> Option<Vec<u8>> {
        self.seal_body(kind, sequence, message.encoded_len(), |datagram| message.encode_raw(datagram))
    }

    /// As [`Self::seal`]: `put` appends the body, `length` bytes.
    pub fn seal_body(
        &self,
        kind: Kind,
        sequence: u64,
        length: usize,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Vec<u8>> {
        let current = self.current.as_ref()?;
        let header = self.header(self.keys.in_use, kind, sequence, length);
        let mut datagram = Vec::with_capacity(crate::wire::frame::HEADER_LEN + length + TAG_LEN);
        datagram.extend_from_slice(&header.emit());
        put(&mut datagram);
        current.keys.seal(&header, &mut datagram).then_some(datagram)
    }

    /// An authentic hello with this number and body, whatever they say.
    #[cfg(any(test, feature = "puppet"))]
    pub fn hello_of(&self, keyring: &Keyring, sequence: u64, body: &[u8]) -> Option<Vec<u8>> {
        let key_epoch = self.keys.in_use;
        let mut datagram = self.header(key_epoch, Kind::Hello, sequence, body.len()).emit().to_vec();
        datagram.extend_from_slice(body);
        keyring.close_hello(key_epoch, &mut datagram).then_some(datagram)
    }

    /// The sequence of the next acknowledgement.
    pub fn next_ack(&mut self) -> u64 {
        self.acks_sent += 1;
        self.acks_sent
    }

    fn header(&self, key_epoch: u8, kind: Kind, sequence: u64, length: usize) -> Header {
        Header {
            kind,
            sender: self.mine.node.0,
            key_epoch,
            body_len: u16::try_from(length + TAG_LEN).unwrap_or(u16::MAX),
            target: if self.names_target() { frame::target(self.peer_node.0) } else { 0 },
            session: self.mine.session,
            sequence,
        }
    }

    /// Until the peer has said that it does not know targets it is taken to.
    fn names_target(&self) -> bool {
        self.told.version == 0 || self.common().has(Capabilities::TARGETS)
    }

    /// A hello of a session that is believed tells what its sender is.
    fn learn(&mut self, keyring: &Keyring, header: &Header, hello: &Hello) {
        self.keys.learn(keyring, header, hello);
        self.told = Told { version: hello.version, capabilities: Capabilities::of(hello), mode: Mode::of(hello) };
    }

    fn believe(&mut self, keyring: &Keyring, header: &Header, hello: &Hello) {
        let identity = Identity { node: self.peer_node, session: header.session, nonce: nonce(hello) };
        let new = Current {
            keys: keyring.session(&self.mine, &identity),
            identity,
            hello_sequence: header.sequence,
            challenge: hello.challenge,
            knows_me: hello.accepted == self.mine.session,
        };
        if let Some(old) = self.current.replace(new) {
            if self.retired.len() == RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(old.identity.session);
        }
        self.believed += 1;
        self.challenge = challenge(keyring, &self.mine, self.peer_node, self.believed);
    }
}

impl PeerKeys {
    /// A hello of a session that is believed tells which secrets its sender accepts.
    fn learn(&mut self, keyring: &Keyring, header: &Header, hello: &Hello) {
        self.accepted.clear();
        if hello.keys.is_empty() {
            self.accepted.extend(keyring.mark(header.key_epoch));
        } else {
            self.accepted.extend(hello.keys.iter().take(KEYS_MAX));
        }
        self.heard = Some(header.key_epoch);
        self.in_use = keyring.choose(&self.accepted, self.heard);
    }
}

/// A number that this start never gave to this peer before; never zero.
fn challenge(keyring: &Keyring, mine: &Identity, peer: crate::role::NodeId, believed: u64) -> u64 {
    let parts: [&[u8]; 4] = [b"twinwall challenge", &mine.nonce, &[mine.node.0, peer.0], &believed.to_be_bytes()];
    let tag = keyring.unforeseeable(&parts);
    half(&tag, 0).max(1)
}

fn half(bytes: &[u8; 16], from: usize) -> u64 {
    bytes.iter().skip(from).take(8).fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn nonce(hello: &Hello) -> [u8; 16] {
    (u128::from(hello.nonce_high) << 64 | u128::from(hello.nonce_low)).to_be_bytes()
}

fn role_message(role: Role) -> HelloRole {
    match role {
        Role::Init => HelloRole::Init,
        Role::Backup => HelloRole::Backup,
        Role::Master => HelloRole::Master,
        Role::Fault => HelloRole::Fault,
    }
}

/// The role in a hello; an unknown one of a later version is not a master.
pub(super) fn role_value(hello: &Hello) -> Role {
    match hello.role() {
        HelloRole::Init => Role::Init,
        HelloRole::Backup => Role::Backup,
        HelloRole::Master => Role::Master,
        HelloRole::Fault => Role::Fault,
    }
}

#[cfg(test)]
mod tests;
