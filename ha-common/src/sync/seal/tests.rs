//! What one side seals the other opens, and nothing else.

use super::*;

fn key(epoch: u8, secret: &[u8]) -> ClusterKey {
    ClusterKey { epoch, secret: secret.to_vec().into() }
}

fn keyring(secret: &[u8]) -> Keyring {
    Keyring::new(&[key(1, secret)], "edge")
}

fn identity(node: u8, session: u64) -> Identity {
    Identity { node: NodeId(node), session, nonce: [node; 16] }
}

fn sealed(keys: &SessionKeys, sequence: u64, body: &[u8]) -> (Header, Vec<u8>) {
    sealed_under(keys, 1, sequence, body)
}

fn sealed_under(keys: &SessionKeys, key_epoch: u8, sequence: u64, body: &[u8]) -> (Header, Vec<u8>) {
    let header = Header {
        kind: Kind::Data,
        sender: 0,
        key_epoch,
        body_len: (body.len() + TAG_LEN) as u16,
        target: 0,
        session: 7,
        sequence,
    };
    let mut datagram = header.emit().to_vec();
    datagram.extend_from_slice(body);
    assert!(keys.seal(&header, &mut datagram));
    (header, datagram)
}

/// What one side seals the other opens; the sealer itself cannot open it (directions differ).
#[test]
fn round_trip_between_two_sides() {
    let (a, b) = (identity(0, 7), identity(1, 9));
    let ring = keyring(b"secret");
    let (header, datagram) = sealed(&ring.session(&a, &b), 5, b"flows");
    assert_eq!(datagram.len(), HEADER_LEN + 5 + TAG_LEN);
    let mut body = Vec::new();
    assert_eq!(ring.session(&b, &a).open(&header, &datagram, &mut body), Ok(()));
    assert_eq!(body, b"flows");
    assert_eq!(ring.session(&a, &b).open(&header, &datagram, &mut body), Err(DropReason::FrameAuth));
    assert!(body.is_empty());
}

/// Every flipped bit, a wrong secret, another session and another cluster are refused.
#[test]
fn anything_altered_is_refused() {
    let (a, b) = (identity(0, 7), identity(1, 9));
    let ring = keyring(b"secret");
    let (header, datagram) = sealed(&ring.session(&a, &b), 5, b"flows");
    let mut body = Vec::new();
    for bit in 0..datagram.len() * 8 {
        let mut altered = datagram.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(ring.session(&b, &a).open(&header, &altered, &mut body).is_err(), "bit {bit}");
    }
    let open = |ring: &Keyring, mine: Identity, peer: Identity| {
        ring.session(&mine, &peer).open(&header, &datagram, &mut Vec::new())
    };
    assert_eq!(open(&keyring(b"other"), b, a), Err(DropReason::FrameAuth));
    assert_eq!(open(&ring, identity(1, 10), a), Err(DropReason::FrameAuth));
    let other_cluster = Keyring::new(&[key(1, b"secret")], "core");
    assert_eq!(open(&other_cluster, b, a), Err(DropReason::FrameAuth));
}

/// Secret, epoch and cluster each make another key of heartbeats.
#[test]
fn heartbeat_keys_differ() {
    let key = |secret: &[u8], cluster, epoch| heartbeat_key(&secret.to_vec().into(), cluster, epoch);
    let plain = key(b"secret", "edge", 1);
    assert_eq!(plain, key(b"secret", "edge", 1));
    for other in [key(b"other", "edge", 1), key(b"secret", "core", 1), key(b"secret", "edge", 2)] {
        assert!(other[0] != plain[0] && other[1] != plain[1]);
    }
}

/// A hello's tag covers header and body: each altered bit is refused.
#[test]
fn hello_tag_covers_everything() {
    let ring = keyring(b"secret");
    let mut datagram = vec![3; HEADER_LEN + 4];
    assert!(ring.close_hello(1, &mut datagram));
    assert_eq!(ring.open_hello(1, &datagram), Ok(&[3, 3, 3, 3][..]));
    for bit in 0..datagram.len() * 8 {
        let mut altered = datagram.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(ring.open_hello(1, &altered), Err(DropReason::FrameAuth));
    }
    assert_eq!(ring.open_hello(1, &datagram[..20]), Err(DropReason::FrameShort));
    assert_eq!(ring.open_hello(2, &datagram), Err(DropReason::FrameKeyEpoch));
    assert!(!ring.close_hello(2, &mut datagram));
}

/// With two secrets a session opens what is sealed under either, by the epoch in the header, and nothing under a third.
#[test]
fn two_secrets_side_by_side() {
    let (a, b) = (identity(0, 7), identity(1, 9));
    let both = Keyring::new(&[key(1, b"old"), key(2, b"new")], "edge");
    for (epoch, secret) in [(1, b"old"), (2, b"new")] {
        let alone = Keyring::new(&[key(epoch, secret)], "edge").session(&a, &b);
        let (header, datagram) = sealed_under(&alone, epoch, 5, b"flows");
        let mut body = Vec::new();
        assert_eq!(both.session(&b, &a).open(&header, &datagram, &mut body), Ok(()));
        assert_eq!(body, b"flows");
        let third = Header { key_epoch: 3, ..header };
        assert_eq!(both.session(&b, &a).open(&third, &datagram, &mut body), Err(DropReason::FrameKeyEpoch));
    }
}

/// The newest secret that the peer holds is sent under. One of the same epoch that is another secret is none of them.
#[test]
fn the_newest_common_secret_is_chosen() {
    let ring = Keyring::new(&[key(1, b"old"), key(2, b"new")], "edge");
    let marks = |keys: &[ClusterKey]| Keyring::new(keys, "edge").marks().collect::<Vec<_>>();
    assert_eq!(ring.choose(&[], None), 1);
    assert_eq!(ring.choose(&[], Some(2)), 2);
    assert_eq!(ring.choose(&[], Some(9)), 1);
    assert_eq!(ring.choose(&marks(&[key(1, b"old")]), None), 1);
    assert_eq!(ring.choose(&marks(&[key(1, b"old"), key(2, b"new")]), Some(1)), 2);
    assert_eq!(ring.choose(&marks(&[key(1, b"old"), key(2, b"another")]), Some(1)), 1);
    assert_eq!(ring.choose(&marks(&[key(2, b"new"), key(3, b"next")]), Some(3)), 2);
    assert_eq!(ring.marks().map(epoch_of).collect::<Vec<_>>(), [1, 2]);
    let three = ring.with(&[key(1, b"old"), key(2, b"new"), key(3, b"next")]);
    assert_eq!([1, 2, 3].map(|epoch| three.holds(epoch)), [false, true, true]);
    assert!(!Keyring::new(&[], "edge").close_hello(0, &mut Vec::new()));
}

/// What holds the keys of a session wipes them when it is dropped: the library does so with a feature alone, and without it
/// this does not compile.
#[test]
fn ciphers_wipe_their_keys() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() -> usize {
        size_of::<T>()
    }
    assert!(wiped::<ChaCha20Poly1305>() >= 32);
}
