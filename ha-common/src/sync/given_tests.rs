//! What a former master has given away, and nobody has named since.

use super::bulk::{Bulk, RecentVersions};
use super::engine::Engine;
use super::fixture::config;
use super::flow::Flow;
use super::stamp::Stamp;
use super::table::tests::flow;
use super::table::{Flags, Owner, Slot};
use super::{Action, Input, Mode, PeerId, WriteKind, encode};
use crate::proto::{self, change::Kind};
use crate::role::Role;
use crate::time::Instant;
use core::time::Duration;

const NOW: Instant = Instant(1_000_000_000);

fn handle(engine: &mut Engine, now: Instant, input: Input<'_>) -> Vec<Action> {
    let mut out = Vec::new();
    engine.handle(now, input, &mut out);
    out.retain(|action| matches!(action, Action::Create(_) | Action::Update(_) | Action::Delete { .. }));
    out
}

/// A change in a frame of this transfer of a peer.
fn hear(engine: &mut Engine, peer: PeerId, epoch: u32, kind: Kind) -> Vec<Action> {
    let data = proto::Data { epoch, changes: vec![proto::Change { kind: Some(kind) }], ..proto::Data::default() };
    engine.peers[usize::from(peer.0)].inbox.epoch = epoch;
    let mut out = Vec::new();
    engine.on_data(NOW, peer, 1, &data, &mut out);
    out.retain(|action| matches!(action, Action::Create(_) | Action::Update(_) | Action::Delete { .. }));
    out
}

fn end(epoch: u32, master: bool) -> Kind {
    Kind::BulkEnd(proto::BulkEnd { epoch, answers: 1, master, ..proto::BulkEnd::default() })
}

/// A master whose table was read, with one flow; then it is a backup.
fn former_master() -> (Engine, Slot) {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    for peer in &mut engine.peers {
        (peer.up, peer.heard, peer.inbox.epoch) = (true, Instant(u64::MAX), 1);
    }
    handle(&mut engine, NOW, Input::Timer);
    handle(&mut engine, NOW, Input::DumpEnd { complete: true });
    handle(&mut engine, NOW, Input::Role(Role::Master));
    handle(&mut engine, NOW, Input::Changed(&Flow { id: 7, ..flow(1) }));
    handle(&mut engine, NOW, Input::Role(Role::Backup));
    // Everything was sent, and has arrived.
    let slot = engine.table.find(&flow(1).key).unwrap();
    let entry = engine.table.get_mut(slot).unwrap();
    entry.dirty = 0;
    entry.flags.clear(Flags::HANDOVER);
    for peer in [PeerId(0), PeerId(1)] {
        acknowledge(&mut engine, peer);
        end_transfer(&mut engine.peers[usize::from(peer.0)].outbox.bulk);
    }
    (engine, slot)
}

/// A peer has every frame.
fn acknowledge(engine: &mut Engine, peer: PeerId) {
    let peer = &mut engine.peers[usize::from(peer.0)];
    let ack = proto::Ack { base: peer.outbox.sent_sequence(), later: vec![], sent: 0 };
    peer.outbox.on_ack(NOW, &ack, &mut engine.table, &mut peer.inbox);
}

/// All of it has arrived.
fn end_transfer(bulk: &mut Bulk) {
    bulk.on_end_sent();
    bulk.on_end_settled(bulk.epoch(), true);
}

/// A transfer that a backup has built before it heard of the gift, and that waited while this node stood still, does not make the
/// flow nobody's, so that the state that was given stays the newest; the heir's own transfer as master ends it.
#[test]
fn an_earlier_transfer_judges_no_gift() {
    let heir = PeerId(0);
    let (mut engine, slot) = former_master();
    assert_eq!(hear(&mut engine, heir, 2, end(2, false)), []);
    assert!(engine.table.get(slot).unwrap().is_owned_by(heir));
    let older = encode::flow_message(&Flow { mark: 5, ..flow(1) }, 0, false);
    assert_eq!(hear(&mut engine, heir, 3, Kind::Upsert(older)), []);
    assert!(matches!(hear(&mut engine, heir, 4, end(4, true))[..], [Action::Delete { .. }]));
}

/// The flow was given to one of two backups, and the other one becomes master: it is that one's then.
#[test]
fn a_gift_is_the_masters() {
    let [heir, other] = [PeerId(0), PeerId(1)];
    let (mut engine, slot) = former_master();
    assert!(engine.table.get(slot).unwrap().is_owned_by(heir));
    engine.hand_over(NOW, other, None);
    assert!(engine.table.get(slot).unwrap().is_owned_by(other));
    // What its owner has named stays its own.
    let version = engine.table.get(slot).unwrap().version();
    hear(&mut engine, other, 2, Kind::Upsert(encode::flow_message(&flow(1), version, false)));
    engine.hand_over(NOW, heir, None);
    assert_eq!(engine.table.get(slot).unwrap().owner(), Owner::Peer(other));
}

/// Events of the last moments as master were lost, and the table is read after it: what it shows is left as it is and given
/// to the heir, and what it lacks is not made anew, unless the heir has told of the flow meanwhile.
#[test]
fn a_late_dump_shows_what_the_master_did() {
    for is_named in [false, true] {
        for line in [Some(Flow { mark: 9, id: 7, ..flow(1) }), None] {
            let (mut engine, slot) = former_master();
            if is_named {
                let version = engine.table.get(slot).unwrap().version();
                hear(&mut engine, PeerId(0), 2, Kind::Upsert(encode::flow_message(&flow(1), version, false)));
            }
            handle(&mut engine, NOW, Input::DumpBegin);
            let mut written = Vec::new();
            if let Some(line) = &line {
                written.extend(handle(&mut engine, NOW, Input::Dumped(line)));
                let gifts = engine.peers[0].outbox.backlog_flows();
                assert_eq!(gifts, u64::from(!is_named));
            }
            written.extend(handle(&mut engine, NOW, Input::DumpEnd { complete: true }));
            written.extend(handle(&mut engine, NOW + Duration::from_millis(50), Input::Timer));
            assert_eq!(written.len(), usize::from(is_named), "{line:?}: {written:?}");
            if !is_named {
                assert_eq!(handle(&mut engine, NOW, Input::Role(Role::Master)), []);
                let known = engine.table.find(&flow(1).key).and_then(|slot| engine.table.get(slot));
                assert_eq!(known.map(|entry| entry.flow().mark), line.map(|line| line.mark));
            }
        }
    }
}

/// What was given away the heir takes when this node's transfer has come to its end: before, its own transfer cannot name it.
#[test]
fn a_gift_that_the_heir_cannot_name_yet_stays() {
    let (mut engine, _) = former_master();
    engine.peers[0].outbox.bulk.start(1, false, 1, RecentVersions::default());
    assert_eq!(hear(&mut engine, PeerId(0), 4, end(4, true)), []);
    end_transfer(&mut engine.peers[0].outbox.bulk);
    assert!(matches!(hear(&mut engine, PeerId(0), 5, end(5, true))[..], [Action::Delete { .. }]));
}

/// Nor can it name what is on its way to it. It does not end that.
#[test]
fn a_gift_on_its_way_stays() {
    let (mut engine, slot) = former_master();
    engine.peers[0].outbox.mark(&mut engine.table, slot, Stamp::at(NOW));
    handle(&mut engine, NOW + Duration::from_millis(5), Input::Timer);
    assert_eq!(engine.peers[0].outbox.backlog_flows(), 0);
    assert_eq!(hear(&mut engine, PeerId(0), 4, end(4, true)), []);
    acknowledge(&mut engine, PeerId(0));
    assert!(matches!(hear(&mut engine, PeerId(0), 5, end(5, true))[..], [Action::Delete { .. }]));
}

/// A master's transfer has passed by what is another's, and that comes to be the master's, as a gift or because its owner's transfer
/// does not name it: the end of the master's waits for it, or the giver, which is told of it beside, would end it.
#[test]
fn the_end_of_a_transfer_waits_for_what_was_taken_amid_it() {
    let giver = PeerId(0);
    let said = |handover| Kind::Upsert(encode::flow_message(&flow(1), 5, handover));
    for taken_by in [said(true), end(2, false)] {
        let mut engine = Engine::new(config(Mode::Ftfw), 1);
        (engine.role, engine.peers[0].up) = (Role::Master, true);
        hear(&mut engine, giver, 1, said(false));
        engine.peers[0].outbox.bulk.start(1, true, engine.table.slots(), RecentVersions::default());
        assert_eq!(engine.peers[0].outbox.bulk.seek(&engine.table), Some(false));
        assert!(engine.peers[0].outbox.bulk.end_due().is_some());
        hear(&mut engine, giver, 2, taken_by);
        let bulk = &mut engine.peers[0].outbox.bulk;
        assert_eq!((bulk.end_due(), bulk.peek(&engine.table)), (None, Some(0)));
    }
}

/// A gift is under way as the heir's transfer of before ends what it does not name, and a dump runs here: the heir's answer names the
/// flow in the state that was given, and it is made anew.
#[test]
fn a_gift_that_a_transfer_has_ended_comes_back_with_the_answer() {
    let (mut engine, slot) = former_master();
    let version = engine.table.get(slot).unwrap().version();
    handle(&mut engine, NOW, Input::DumpBegin);
    assert!(matches!(hear(&mut engine, PeerId(0), 4, end(4, true))[..], [Action::Delete { .. }]));
    let answer = encode::flow_message(&Flow { id: 7, ..flow(1) }, version, false);
    assert!(matches!(hear(&mut engine, PeerId(0), 4, Kind::Upsert(answer))[..], [Action::Create(_)]));
    assert_eq!(handle(&mut engine, NOW, Input::Dumped(&Flow { id: 7, ..flow(1) })), []);
}

/// The kernel ends the flow after it was given away, and an event tells so: the heir has it, and the copy is made anew.
#[test]
fn what_ends_after_it_was_given_is_made_anew() {
    let (mut engine, _) = former_master();
    handle(&mut engine, NOW, Input::Destroyed { key: &flow(1).key, id: 7 });
    let written = handle(&mut engine, NOW + Duration::from_millis(50), Input::Timer);
    assert!(matches!(written[..], [Action::Create(_)]), "{written:?}");
}

/// An update of what was given away is refused until it is given up, and no heir names the flow. When this node is master again it
/// answers for the flow: its kernel has an earlier state, which nobody would know of otherwise.
#[test]
fn a_gift_that_the_kernel_has_in_an_earlier_state_is_answered_for() {
    const ENOMEM: i32 = 12;
    let (mut engine, _) = former_master();
    let (key, write) = (flow(1).key, WriteKind::Update);
    for second in 1..20 {
        let now = NOW + Duration::from_secs(second);
        handle(&mut engine, now, Input::WriteFailed { key: &key, write, errno: ENOMEM });
        handle(&mut engine, now + Duration::from_millis(1), Input::Timer);
    }
    let written = handle(&mut engine, NOW + Duration::from_secs(20), Input::Role(Role::Master));
    assert!(matches!(written[..], [Action::Update(_)]), "{written:?}");
    assert_eq!(engine.stats().flows_local, 1);
}

/// A node takes over a copy, and gives the flow away before the copy's next visit: it is written within the time for what packets
/// have changed, however late that visit is.
#[test]
fn a_gift_is_kept_alive_in_its_new_time() {
    let (mut engine, _) = former_master();
    let version = engine.clock + 1;
    let created = hear(&mut engine, PeerId(0), 2, Kind::Upsert(encode::flow_message(&flow(2), version, false)));
    assert_eq!(created.len(), 1);
    handle(&mut engine, NOW, Input::Role(Role::Master));
    handle(&mut engine, NOW, Input::Changed(&Flow { mark: 9, timeout: 10, id: 8, ..flow(2) }));
    handle(&mut engine, NOW, Input::Role(Role::Backup));
    let written = handle(&mut engine, NOW + Duration::from_secs(5), Input::Timer);
    assert!(written.iter().any(|write| matches!(write, Action::Update(Flow { mark: 9, .. }))), "{written:?}");
}

/// Two nodes have found different states in their kernels, were masters for a moment, and gave them the same version. The one that
/// goes on as master refuses the other's gift, and tells its own state anew: no digest would find that they differ.
#[test]
fn a_master_tells_its_state_where_a_gift_has_the_same_version() {
    for (mark, told) in [(0, 0), (5, 1)] {
        let mut engine = Engine::new(config(Mode::Ftfw), 1);
        for peer in &mut engine.peers {
            (peer.up, peer.heard) = (true, Instant(u64::MAX));
        }
        engine.insert(&flow(1), Owner::Found, 0, &mut Vec::new());
        handle(&mut engine, NOW, Input::Role(Role::Master));
        let slot = engine.table.find(&flow(1).key).unwrap();
        engine.peers.iter_mut().for_each(|peer| peer.outbox.reset(&mut engine.table));
        let version = engine.table.get(slot).unwrap().version();
        let gift = encode::flow_message(&Flow { mark, ..flow(1) }, version, true);
        assert_eq!(hear(&mut engine, PeerId(0), 1, Kind::Upsert(gift)), []);
        assert_eq!(engine.peers[0].outbox.backlog_flows(), told);
        let entry = engine.table.get(slot).unwrap();
        assert_eq!((entry.version() > version, entry.flow().mark, entry.owner()), (told == 1, 0, Owner::Local));
    }
}
