//! Frames of sessions, old, new, stamped and forged, through the XDP program and through the host's judgement.

use crate::corpus;
use crate::differential::Random;
use crate::rig::Rig;
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::frame::{self, Header, Kind, TAG_LEN};
use ha_common::wire::genuine::{Admission, HELLO_BURST, HELLO_INTERVAL_NS, SessionEntry};
use ha_user::clock;
use ha_user::datapath::Path;
use ha_user::datapath::load::EDGE;
use std::collections::HashMap;

const DROP: u32 = 1;
const PASS: u32 = 2;

fn rig() -> Rig {
    Rig::new(false).expect("this test needs root (CAP_BPF) and a build with BPF")
}

fn refused(rig: &Rig) -> [u64; DropReason::COUNT] {
    rig.counters().snapshot().interfaces.into_iter().find(|row| row.path == Path::Xdp).unwrap().refused
}

fn header(kind: Kind, session: u64, sequence: u64) -> Header {
    Header { kind, session, target: frame::target(corpus::NODE), ..corpus::sync_header(sequence, TAG_LEN as u16) }
}

/// 10,000 generated frames while the sync loop says something new every few: verdict and counters are what the host's
/// judgement has. Of the hellos that are limited, each bucket lets through its burst, and then what its time allows.
#[test]
fn netns_generated_sessions_agree() {
    let mut rig = rig();
    let mut random = Random(0x7365_7373_696f_6e73);
    let (mut wanted, mut entry) = ([0u64; DropReason::COUNT], SessionEntry::default());
    let (mut through, mut asked) = (HashMap::<u32, u64>::new(), HashMap::<u32, u64>::new());
    let begin = clock::now();
    for round in 0..10_000 {
        let mut pick = |values: &[u64]| values[random.below(values.len())];
        if round % 10 == 0 {
            entry = SessionEntry {
                session: pick(&[0, 7, 7, 7]),
                hello_from: pick(&[0, 5]),
                data_from: pick(&[0, 5]),
                ack_from: pick(&[0, 5]),
                stamps: pick(&[0, 1, 1]),
            };
            rig.sessions.set(NodeId(corpus::PEER_NODE), entry).unwrap();
        }
        let kind = Kind::ALL[pick(&[0, 1, 2]) as usize];
        let header = header(kind, pick(&[0, 7, 7, 7, 8, 9]), pick(&[0, 4, 5, 6, u64::MAX]));
        let key = [None, Some(corpus::STAMP_KEY), Some(corpus::STAMP_KEY), Some([1, 2])][pick(&[0, 1, 2, 3]) as usize];
        let verdict = rig.run(EDGE, &corpus::sync_frame_of(&header, key), 1).unwrap().action;
        let at = format!("round {round}: {header:?} {key:?} {entry:?}");
        match entry.judge(&header, key == Some(corpus::STAMP_KEY)) {
            Ok(Admission::Free) => assert_eq!(verdict, PASS, "{at}"),
            Ok(Admission::Limited { bucket }) => {
                *asked.entry(bucket).or_default() += 1;
                if verdict == PASS {
                    *through.entry(bucket).or_default() += 1;
                } else {
                    wanted[DropReason::FrameRate as usize] += 1;
                }
            }
            Err(reason) => {
                wanted[reason as usize] += 1;
                assert_eq!(verdict, DROP, "{at}");
            }
        }
    }
    let allowed = HELLO_BURST + (clock::now().since(begin).as_nanos() as u64) / HELLO_INTERVAL_NS + 1;
    for (bucket, count) in &through {
        assert!((HELLO_BURST.min(asked[bucket])..=allowed).contains(count), "{bucket}: {count} of {allowed}");
    }
    assert_eq!(refused(&rig), wanted);
    for reason in [DropReason::FrameSession, DropReason::FrameAuth, DropReason::FrameReplay, DropReason::FrameRate] {
        assert!(wanted[reason as usize] > 0, "{reason:?}");
    }
}

/// Whatever the map of sessions says, and while forged hellos and recordings of an ended session come at any rate, the
/// hellos of a peer that starts anew get through, and so do those of the current session.
#[test]
fn netns_a_new_session_is_never_locked_out() {
    let mut rig = rig();
    let stale = SessionEntry { session: 7, hello_from: 100, data_from: u64::MAX, ack_from: u64::MAX, stamps: 1 };
    rig.sessions.set(NodeId(corpus::PEER_NODE), stale).unwrap();
    let forged = corpus::sync_frame_of(&header(Kind::Hello, 1000, 1), None);
    let recorded = corpus::sync_frame_of(&header(Kind::Hello, 8, 1), Some(corpus::STAMP_KEY));
    for frame in [&forged, &recorded] {
        rig.run(EDGE, frame, 100_000).unwrap();
    }
    assert!(refused(&rig)[DropReason::FrameRate as usize] > 150_000);
    let fresh = corpus::sync_frame_of(&header(Kind::Hello, 9, 1), Some(corpus::STAMP_KEY));
    let current = corpus::sync_frame_of(&header(Kind::Hello, 7, 100), Some(corpus::STAMP_KEY));
    for frame in [&fresh, &current] {
        assert_eq!(rig.run(EDGE, frame, 1).unwrap().action, PASS);
    }
}

/// Frames under a secret that is added pass from then on, those under one that is taken away do not; what is keyed with the
/// other is never touched.
#[test]
fn netns_secrets_come_and_go() {
    let mut rig = rig();
    let under = |key_epoch: u8| corpus::sync_frame_of(&Header { key_epoch, ..header(Kind::Data, 7, 1) }, None);
    let second = ha_user::datapath::DatapathKey { epoch: 8, ..corpus::KEY };
    let verdicts = |rig: &mut Rig| [corpus::KEY_EPOCH, 8].map(|epoch| rig.run(EDGE, &under(epoch), 1).unwrap().action);
    assert_eq!(verdicts(&mut rig), [PASS, DROP]);
    rig.programs.set_keys(&[corpus::KEY, second.clone()]).unwrap();
    assert_eq!(verdicts(&mut rig), [PASS, PASS]);
    rig.programs.set_keys(&[second]).unwrap();
    assert_eq!(verdicts(&mut rig), [DROP, PASS]);
    assert_eq!(refused(&rig)[DropReason::FrameKeyEpoch as usize], 2);
}
