//! Handshakes between two sides: what makes a session, what ends it, and under which secret it speaks.

use super::super::capabilities::VERSION;
use super::*;
use crate::role::NodeId;
use crate::secret::ClusterKey;

struct Side {
    keyring: Keyring,
    session: Session,
}

const QUIET: Statement =
    Statement { clock: 0, role: Role::Backup, in_sync: false, bulk_wanted: 1, links_heard: LinkSet(1) };

fn key(epoch: u8) -> ClusterKey {
    ClusterKey { epoch, secret: vec![epoch; 32].into() }
}

fn side(node: u8, session: u64, cluster: &str) -> Side {
    let keyring = Keyring::new(&[key(1)], cluster);
    let mine = Identity { node: NodeId(node), session, nonce: [session as u8; 16] };
    let abilities = Abilities { version: VERSION, capabilities: Capabilities::ALL, mode: Mode::Ftfw };
    let session = Session::new(&keyring, mine, NodeId(1 - node), abilities);
    Side { keyring, session }
}

impl Side {
    fn say(&mut self, answered: Option<Stranger>) -> Vec<u8> {
        self.session.hello(&self.keyring, &QUIET, answered).unwrap()
    }
    fn hold(&mut self, epochs: &[u8]) {
        self.keyring = self.keyring.with(&epochs.iter().copied().map(key).collect::<Vec<_>>());
        self.session.rekey(&self.keyring);
    }
    fn hear(&mut self, datagram: &[u8]) -> Result<Greeting, DropReason> {
        let header = Header::parse(datagram)?;
        let hello = Hello::decode(self.keyring.open_hello(header.key_epoch, datagram)?).unwrap();
        self.session.on_hello(&self.keyring, &header, &hello)
    }
}

/// Lets `a` greet `b` until both are settled, and returns the last hello of each.
fn greet(a: &mut Side, b: &mut Side) -> [Vec<u8>; 2] {
    let first = a.say(None);
    let Ok(Greeting::Stranger(stranger)) = b.hear(&first) else { panic!("b knows a already") };
    let answer = b.say(Some(stranger));
    assert_eq!(a.hear(&answer), Ok(Greeting::New));
    let proof = a.say(None);
    assert_eq!(b.hear(&proof), Ok(Greeting::New));
    assert!(b.session.is_mutual() && !a.session.is_mutual());
    let last = b.say(None);
    assert_eq!(a.hear(&last), Ok(Greeting::Known { answer: false }));
    assert!(a.session.is_mutual());
    [proof, last]
}

/// Three hellos make a session in which each side opens what the other seals.
#[test]
fn three_hellos_make_a_session() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "edge"));
    greet(&mut a, &mut b);
    let sealed = a.session.seal(Kind::Ack, 1, &crate::proto::Ack { base: 3, later: vec![], sent: 0 }).unwrap();
    let header = Header::parse(&sealed).unwrap();
    let mut body = Vec::new();
    b.session.keys_for(&header).unwrap().open(&header, &sealed, &mut body).unwrap();
    assert_eq!(crate::proto::Ack::decode(&body[..]).unwrap().base, 3);
}

/// After the peer restarted, every hello of its ended session is refused, also when it was the very one
/// that had been believed, and also after the list of ended sessions has overflowed.
#[test]
fn ended_sessions_never_return() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "edge"));
    let [recorded, _] = greet(&mut a, &mut b);
    assert_eq!(b.hear(&recorded), Err(DropReason::FrameReplay));
    let mut a2 = side(0, 11, "edge");
    greet(&mut a2, &mut b);
    assert_eq!(b.hear(&recorded), Err(DropReason::FrameSession));
    for session in 30..30 + RETIRED_MAX as u64 + 1 {
        greet(&mut side(0, session, "edge"), &mut b);
    }
    let before = b.session.peer_session();
    assert!(matches!(b.hear(&recorded), Ok(Greeting::Stranger(_))));
    assert_eq!(b.session.peer_session(), before);
}

/// Secrets change in either order of reloads within one session: each side moves when the other has said that it
/// accepts the new one, what is sealed under either is opened all the time, and in the end the old one is refused.
#[test]
fn a_session_outlives_its_secret() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "edge"));
    greet(&mut a, &mut b);
    let ack = crate::proto::Ack { base: 3, later: vec![], sent: 0 };
    let exchange = |a: &mut Side, b: &mut Side, sequence| {
        for (from, to) in [(&*a, &*b), (&*b, &*a)] {
            let sealed = from.session.seal(Kind::Ack, sequence, &ack).unwrap();
            let header = Header::parse(&sealed).unwrap();
            to.session.keys_for(&header).unwrap().open(&header, &sealed, &mut Vec::new()).unwrap();
        }
        let said = a.say(None);
        b.hear(&said).unwrap();
        let said = b.say(None);
        a.hear(&said).unwrap();
        [a.session.key_epoch(), b.session.key_epoch()]
    };
    assert_eq!(exchange(&mut a, &mut b, 1), [1, 1]);
    a.hold(&[1, 2]);
    assert_eq!(exchange(&mut a, &mut b, 2), [1, 1]);
    assert!(!b.session.accepts_any(&a.keyring.with(&[key(3)])));
    b.hold(&[1, 2]);
    assert_eq!(exchange(&mut a, &mut b, 3), [2, 2]);
    let recorded = b.say(None);
    a.hold(&[2]);
    assert_eq!(exchange(&mut a, &mut b, 4), [2, 2]);
    assert_eq!(a.session.key_epochs_accepted(), [1, 2]);
    b.hold(&[2]);
    assert_eq!(exchange(&mut a, &mut b, 5), [2, 2]);
    assert_eq!(a.hear(&recorded), Err(DropReason::FrameReplay));
    assert_eq!((a.session.peer_session(), b.session.peer_session()), (20, 10));
}

/// A node that starts with both secrets and one that holds the new one alone find each other, by answers under the
/// secret of whom they answer.
#[test]
fn strangers_are_answered_under_their_secret() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "edge"));
    a.hold(&[1, 2]);
    b.hold(&[2]);
    let unheard = a.say(None);
    assert_eq!(b.hear(&unheard), Err(DropReason::FrameKeyEpoch));
    greet(&mut b, &mut a);
    assert_eq!((a.session.key_epoch(), b.session.key_epoch()), (2, 2));
}

/// Two secrets of the same epoch are noticed, and the older common one stays in use.
#[test]
fn two_secrets_of_one_epoch() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "edge"));
    a.hold(&[1, 2]);
    b.keyring = b.keyring.with(&[key(1), ClusterKey { epoch: 2, secret: vec![77; 32].into() }]);
    b.session.rekey(&b.keyring);
    greet(&mut a, &mut b);
    assert_eq!((a.session.key_epoch(), a.session.key_conflict(&a.keyring)), (1, Some(2)));
    a.hold(&[1]);
    assert_eq!(a.session.key_conflict(&a.keyring), None);
}

/// Another cluster with the same secret is refused by name, a forged tag as such.
#[test]
fn foreign_hellos_are_refused() {
    let (mut a, mut b) = (side(0, 10, "edge"), side(1, 20, "core"));
    let hello = a.say(None);
    assert_eq!(b.hear(&hello), Err(DropReason::FrameCluster));
    let mut b = side(1, 20, "edge");
    let mut forged = hello.clone();
    forged[40] ^= 1;
    assert_eq!(b.hear(&forged), Err(DropReason::FrameAuth));
}
