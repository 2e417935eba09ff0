//! A peer that holds the secret and says whatever it is told to: for tests of what a node makes of an authentic peer that
//! is broken, or in wrong hands. No part of the daemon (feature `puppet`).

use super::engine::Engine;
use super::links::LinkSet;
use super::seal::{Identity, Keyring};
use super::session::{Abilities, Session, Statement};
use super::{Action, Config, Input, LinkId};
use crate::proto;
use crate::role::{NodeId, Role};
use crate::time::Instant;
use crate::wire::frame::{Header, Kind};
use core::time::Duration;
use prost::Message;

/// Between two hellos of a greeting.
const TURN: Duration = Duration::from_millis(20);

/// The handshake of a node, and nothing behind it.
pub struct Puppet {
    keyring: Keyring,
    session: Session,
}

impl Puppet {
    /// That of a node of this configuration, which talks to `peer`.
    pub fn new(config: &Config, peer: NodeId) -> Self {
        let keyring = Keyring::new(&config.keys, &config.cluster);
        let mine = Identity { node: config.node, session: config.session, nonce: config.nonce };
        let abilities = Abilities { version: config.version, capabilities: config.capabilities, mode: config.mode };
        let session = Session::new(&keyring, mine, peer, abilities);
        Self { keyring, session }
    }

    /// The next hello, of a node in this role.
    pub fn hello(&mut self, role: Role) -> Option<Vec<u8>> {
        let statement = Statement { clock: 1, role, in_sync: true, bulk_wanted: 1, links_heard: LinkSet::default() };
        self.session.hello(&self.keyring, &statement, None)
    }

    /// Hears a hello of the peer; everything else it does not understand.
    pub fn hear(&mut self, datagram: &[u8]) {
        let Ok(header) = Header::parse(datagram) else { return };
        if header.kind != Kind::Hello {
            return;
        }
        let body = self.keyring.open_hello(header.key_epoch, datagram);
        if let Some(hello) = body.ok().and_then(|body| proto::Hello::decode(body).ok()) {
            // What it does not believe it need not answer: the peer says hello again.
            let _ = self.session.on_hello(&self.keyring, &header, &hello);
        }
    }

    /// Greets `engine` from `now` on until each holds the other's session for current, and returns when that is; what the
    /// engine does meanwhile is in `actions`. `None`: it does not answer.
    pub fn greet(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        role: Role,
        actions: &mut Vec<Action>,
    ) -> Option<Instant> {
        // Stranger, challenge answered, both know each other, and one to spare.
        for turn in 1..=4 {
            // Strangers are not answered at once each time.
            let now = now + TURN * turn;
            let bytes = self.hello(role)?;
            let heard = actions.len();
            engine.handle(now, Input::Datagram { link: LinkId(0), bytes: &bytes }, actions);
            engine.handle(now, Input::Timer, actions);
            for action in actions.get(heard..).unwrap_or_default() {
                if let Action::Send { datagram, .. } = action {
                    self.hear(datagram);
                }
            }
            if self.session.is_mutual() && engine.stats().peers.iter().any(|peer| peer.alive) {
                return Some(now);
            }
        }
        None
    }

    /// A sealed frame with this body; `None` without a session, or when it is too long for a frame.
    pub fn sealed(&self, kind: Kind, sequence: u64, body: &[u8]) -> Option<Vec<u8>> {
        self.session.seal_body(kind, sequence, body.len(), |datagram| datagram.extend_from_slice(body))
    }

    /// An authentic hello with this number and body.
    pub fn hello_of(&self, sequence: u64, body: &[u8]) -> Option<Vec<u8>> {
        self.session.hello_of(&self.keyring, sequence, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::DropReason;
    use crate::sync::{Mode, fixture};

    /// After the greeting the engine opens what the puppet seals, and refuses a body that is no message by that name, and
    /// not as a forgery; a hello of it that is none as well.
    #[test]
    fn what_it_says_is_authentic() {
        let config = Config { peers: vec![NodeId(1)], ..fixture::config(Mode::Ftfw) };
        let mut engine = Engine::new(config.clone(), 5);
        let mut puppet = Puppet::new(&Config { node: NodeId(1), session: 2, nonce: [2; 16], ..config }, NodeId(0));
        let mut actions = Vec::new();
        let now = puppet.greet(&mut engine, Instant(1_000_000_000), Role::Master, &mut actions).unwrap();
        let mut refused = |bytes: Option<Vec<u8>>| {
            let before = engine.stats().refused;
            let bytes = bytes.unwrap();
            engine.handle(now, Input::Datagram { link: LinkId(0), bytes: &bytes }, &mut actions);
            let after = engine.stats().refused;
            DropReason::ALL.iter().copied().find(|reason| after[*reason as usize] > before[*reason as usize])
        };
        assert_eq!(refused(puppet.sealed(Kind::Data, 1, &[0x0b])), Some(DropReason::FrameBody));
        assert_eq!(refused(puppet.sealed(Kind::Data, 2, &[])), None);
        assert_eq!(refused(puppet.sealed(Kind::Ack, 1, &[])), None);
        assert_eq!(refused(puppet.hello_of(100, &[0x0b])), Some(DropReason::FrameBody));
    }
}
