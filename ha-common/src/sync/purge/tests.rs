use super::super::bulk::RecentVersions;
use super::super::digest::BUCKETS;
use super::super::fixture::config;
use super::super::table::tests::flow;
use super::super::{Config, Input, encode};
use super::*;
use crate::proto::{self, change::Kind};

/// A frame of the peer's transfer `epoch`, and what it leads to.
fn hear(engine: &mut Engine, now: Instant, peer: PeerId, epoch: u32, kind: Kind) -> Vec<Action> {
    let data = proto::Data { epoch, changes: vec![proto::Change { kind: Some(kind) }], ..proto::Data::default() };
    engine.peers[usize::from(peer.0)].inbox.epoch = epoch;
    let mut out = Vec::new();
    engine.on_data(now, peer, 1, &data, &mut out);
    out
}

fn end(epoch: u32, master: bool) -> Kind {
    Kind::BulkEnd(proto::BulkEnd { epoch, answers: 1, master, ..proto::BulkEnd::default() })
}

/// Of three nodes a backup had a flow of the other backup, which starts anew and knows nothing of it. The master's transfer
/// has ended before that: what it does not name until a second later is deleted all the same.
#[test]
fn what_a_backup_leaves_is_judged_by_the_masters_earlier_word() {
    let [master, backup] = [PeerId(0), PeerId(1)];
    for is_named in [false, true] {
        let (mut engine, mut now) = (Engine::new(config(Mode::Ftfw), 1), Instant(1_000_000_000));
        engine.role = Role::Backup;
        let named = |version| Kind::Upsert(encode::flow_message(&flow(1), version, false));
        for peer in &mut engine.peers {
            (peer.up, peer.heard) = (true, Instant(u64::MAX));
        }
        engine.peers[0].role = Role::Master;
        hear(&mut engine, now, backup, 1, named(5));
        assert_eq!(hear(&mut engine, now, master, 1, end(1, true)).len(), 1);
        assert_eq!(hear(&mut engine, now, backup, 2, end(2, false)).len(), 1);
        if is_named {
            hear(&mut engine, now, master, 1, named(5));
        }
        let mut deleted = Vec::new();
        for _ in 0..15 {
            now = now + Duration::from_millis(100);
            let mut out = Vec::new();
            engine.handle(now, Input::Timer, &mut out);
            out.retain(|action| matches!(action, Action::Delete { .. }));
            deleted.extend(out.into_iter().map(|action| (now, action)));
        }
        let late = deleted.iter().all(|(at, _)| *at >= Instant(1_000_000_000) + ORPHAN_AGE);
        assert_eq!((deleted.len(), late), (usize::from(!is_named), true), "{deleted:?}");
    }
}

/// A peer leaves a flow, and its process has a successor, which names it with a clock that has begun anew: that is its newest word,
/// however soon it comes.
#[test]
fn the_successor_of_who_left_a_flow_names_it() {
    let peer = PeerId(0);
    let (mut engine, now) = (Engine::new(config(Mode::Ftfw), 1), Instant(1_000_000_000));
    engine.role = Role::Backup;
    engine.peers[0].up = true;
    let named = |version| Kind::Upsert(encode::flow_message(&flow(1), version, false));
    hear(&mut engine, now, peer, 1, named(500));
    hear(&mut engine, now, peer, 2, end(2, false));
    assert_eq!(engine.stats().flows_found, 1);
    engine.begin_session(now, 0, &mut Vec::new());
    hear(&mut engine, now, peer, 1, named(5));
    assert_eq!(hear(&mut engine, now, peer, 1, end(1, true)).len(), 1, "no deletion");
    assert_eq!((engine.stats().flows_found, engine.stats().flows_peer), (0, 1));
}

/// Of three nodes the new master knows less of a flow than another backup has told of, and names it in vain. That backup's next
/// transfer has the same number as the master's and leaves the flow out: it is nobody's.
#[test]
fn a_master_names_nothing_for_another_peer() {
    let [master, backup] = [PeerId(0), PeerId(1)];
    let (mut engine, now) = (Engine::new(config(Mode::Ftfw), 1), Instant(1_000_000_000));
    engine.role = Role::Backup;
    let named = |version| Kind::Upsert(encode::flow_message(&flow(1), version, false));
    hear(&mut engine, now, backup, 1, named(50));
    hear(&mut engine, now, master, 2, named(5));
    hear(&mut engine, now, backup, 2, end(2, false));
    assert_eq!(engine.stats().flows_found, 1);
}

/// Another backup's flow has become nobody's, and the master does not name it. Its own timeout is short, but the copy of it was
/// written with a longer one, or was found here with one: that is cut. What traffic made here ends by itself.
#[test]
fn a_written_copy_is_cut_however_short_its_flows_timeout() {
    let [master, backup] = [PeerId(0), PeerId(1)];
    for (is_told, found) in [(true, None), (true, Some(600)), (false, Some(30))] {
        let (mut engine, now) = (Engine::new(config(Mode::Alarm), 1), Instant(1_000_000_000));
        engine.role = Role::Backup;
        if let Some(timeout) = found {
            engine.insert(&Flow { timeout, ..flow(1) }, Owner::Found, 0, &mut Vec::new());
        }
        if is_told {
            hear(&mut engine, now, backup, 1, Kind::Upsert(encode::flow_message(&flow(1), 5, false)));
            hear(&mut engine, now, backup, 2, end(2, false));
            engine.table.set_owner(0, Owner::Found);
        }
        let led_to = hear(&mut engine, now, master, 1, end(1, true));
        let is_cut = |action: &Action| matches!(action, Action::Update(Flow { timeout: 60, .. }));
        assert_eq!((led_to.iter().any(is_cut), engine.counters.cut), (is_told, 1), "{found:?}");
    }
}

/// The kernel refuses to cut a flow that the master does not name: it is cut when it is judged, or tried, again.
#[test]
fn a_refused_cut_is_tried_again() {
    let [master, backup] = [PeerId(0), PeerId(1)];
    for owner in [Owner::Found, Owner::Peer(master)] {
        let (mut engine, now) = (Engine::new(config(Mode::Notrack), 1), Instant(1_000_000_000));
        engine.role = Role::Backup;
        for peer in &mut engine.peers {
            (peer.up, peer.heard) = (true, Instant(u64::MAX));
        }
        engine.peers[usize::from(master.0)].role = Role::Master;
        engine.peers[usize::from(backup.0)].role = Role::Backup;
        engine.insert(&Flow { timeout: 600, ..flow(1) }, owner, 5, &mut Vec::new());
        let is_cut = |action: &Action| matches!(action, Action::Update(Flow { timeout: 60, .. }));
        let peer = &mut engine.peers[usize::from(master.0)];
        peer.wanted = 1;
        assert!(hear(&mut engine, now, master, 1, end(1, true)).iter().any(is_cut), "{owner:?}");
        let (key, write) = (&flow(1).key, crate::sync::WriteKind::Update);
        engine.handle(now, Input::WriteFailed { key, write, errno: 12 }, &mut Vec::new());
        let mut out = Vec::new();
        engine.handle(now + 2 * ORPHAN_AGE, Input::Timer, &mut out);
        assert!(out.iter().any(is_cut), "{owner:?}: {out:?}");
        out.clear();
        engine.handle(now + 4 * ORPHAN_AGE, Input::Timer, &mut out);
        assert!(!out.iter().any(is_cut), "{owner:?}: {out:?}");
    }
}

/// A mastership has ended, and its flows are the new master's, which has sent its table before and repairs some buckets
/// now: what is in the others was proven, and is not cut because the repair does not name it.
#[test]
fn what_a_repair_need_not_name_stays() {
    let mut engine = Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1);
    let (mut out, now) = (Vec::new(), Instant(1_000_000_000));
    let peer = &mut engine.peers[0];
    (peer.up, peer.role, peer.heard, peer.inbox.epoch) = (true, Role::Master, now, 1);
    engine.handle(now, Input::Role(Role::Master), &mut out);
    engine.on_changed(now, &flow(1), &mut out);
    engine.handle(now, Input::Role(Role::Backup), &mut out);
    let slot = engine.table.find(&flow(1).key).unwrap();
    assert!(engine.table.get(slot).unwrap().is_owned_by(PeerId(0)));
    engine.peers[0].inbox.epoch = 2;
    let buckets = vec![0; BUCKETS / 64];
    let end = proto::BulkEnd { epoch: 2, answers: 1, flows: 0, master: true, buckets, refresh: false };
    let changes = vec![proto::Change { kind: Some(Kind::BulkEnd(end)) }];
    let data = proto::Data { epoch: 2, changes, ..proto::Data::default() };
    engine.on_data(now, PeerId(0), 1, &data, &mut out);
    engine.run_purge(now + JUDGEMENT_MAX, &mut out);
    assert_eq!(engine.counters.cut, 0);
}

/// What was given away and is nobody's since is not told to a master, and so not spared by the end of its transfer, although
/// this node's own is under way and changes wait.
#[test]
fn what_is_nobodys_is_not_on_offer() {
    let [master, backup] = [PeerId(0), PeerId(1)];
    let (mut engine, now) = (Engine::new(config(Mode::Ftfw), 1), Instant(1_000_000_000));
    engine.role = Role::Backup;
    let slot = engine.table.insert(&flow(1), Owner::Peer(backup), 5).unwrap();
    let entry = engine.table.get_mut(slot).unwrap();
    entry.dirty = super::super::peer::bit(master);
    let bulk = &mut engine.peers[1].outbox.bulk;
    bulk.start(1, false, 0, RecentVersions::default());
    bulk.on_end_sent();
    assert!(bulk.on_end_settled(1, true));
    for (peer, deletes) in [(master, 0), (backup, 0), (master, 1)] {
        if deletes > 0 {
            engine.table.get_mut(slot).unwrap().flags.set(Flags::GIVEN);
        }
        let led_to = hear(&mut engine, now, peer, 1, end(1, peer == master));
        let is_delete = |action: &&Action| matches!(action, Action::Delete { .. });
        assert_eq!(led_to.iter().filter(is_delete).count(), deletes, "{peer:?}");
    }
}
