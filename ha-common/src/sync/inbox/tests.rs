use super::*;
use std::collections::HashSet;

/// A window against a plain set under a random walk around its edge: a sequence is accepted exactly
/// once, and never when it is at or below the base.
#[test]
fn accepts_each_sequence_once() {
    let (mut window, mut seen) = (Window::default(), HashSet::new());
    let mut random = 3u64;
    for step in 0..50_000u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sequence = (step / 10 + 1).saturating_sub((random >> 40) % 1200) + (random >> 33) % 40;
        if window.check(sequence).is_ok() {
            assert!(seen.insert(sequence), "{sequence} twice");
            assert!(sequence > window.base());
            window.accept(sequence);
        } else {
            assert!(seen.contains(&sequence) || sequence <= window.base());
        }
    }
    assert!(seen.len() > 4000);
}

/// Gaps show in the acknowledgement; the floor closes them; a jump over the whole window forgets them.
#[test]
fn gaps_and_floor() {
    let mut window = Window::default();
    for sequence in [1, 2, 5, 70] {
        window.accept(sequence);
    }
    assert_eq!(window.ack(7), proto::Ack { base: 2, later: vec![1 << 2, 1 << 3], sent: 7 });
    window.raise_floor(5);
    assert_eq!((window.base(), window.has_gap()), (5, true));
    assert_eq!(window.check(3), Err(DropReason::FrameReplay));
    window.raise_floor(71);
    assert_eq!((window.base(), window.has_gap()), (70, false));
    window.accept(5000);
    assert_eq!(window.base(), 5000 - WINDOW);
    assert_eq!(window.check(4999), Ok(()));
    window.raise_floor(u64::MAX);
    assert_eq!(window.check(u64::MAX), Ok(()));
}

/// The last sequences there are, which only a broken peer uses, are numbers like others.
#[test]
fn sequences_end() {
    let mut window = Window::default();
    for sequence in [u64::MAX - 70, u64::MAX - 3, u64::MAX] {
        window.accept(sequence);
    }
    window.raise_floor(u64::MAX - 69);
    assert_eq!(window.ack(0), proto::Ack { base: u64::MAX - 70, later: vec![0, 1 << 2 | 1 << 5], sent: 0 });
    let mut inbox = Inbox::new(PeerId(0), &super::super::fixture::config(super::super::Mode::Ftfw));
    inbox.on_data(Instant(1), u64::MAX, &proto::Data { floor: u64::MAX, ..proto::Data::default() });
    assert!(inbox.is_latest(u64::MAX) && !inbox.is_older_possible(u64::MAX));
    assert_eq!(inbox.data.check(u64::MAX), Err(DropReason::FrameReplay));
}

/// A removal is acknowledged by a peer that had sent three frames by then, of which two have come. The third may have been built
/// before the peer knew: the removal is remembered until it has come.
#[test]
fn a_removal_outlives_the_frames_before_its_acknowledgement() {
    let mut table = super::super::table::tests::table(10);
    let mut inbox = Inbox::new(PeerId(0), &super::super::fixture::config(super::super::Mode::Ftfw));
    let slot = table.insert(&super::super::table::tests::flow(1), Owner::Local, 5).unwrap();
    table.entomb(slot);
    table.get_mut(slot).unwrap().owed = 1;
    [1, 2].iter().for_each(|sequence| inbox.on_data(Instant(1), *sequence, &proto::Data::default()));
    inbox.on_told(3, slot, 5, &mut table);
    inbox.release(&mut table);
    assert!(table.get(slot).is_some_and(Entry::is_tombstone));
    inbox.on_data(Instant(2), 3, &proto::Data::default());
    inbox.release(&mut table);
    assert!(table.get(slot).is_none());
}

/// Acks wait for more frames, but neither for more than eight nor when a gap shows.
#[test]
fn ack_pacing() {
    let mut inbox = Inbox::new(PeerId(0), &super::super::fixture::config(super::super::Mode::Ftfw));
    let now = Instant(1_000_000_000);
    let data = proto::Data::default();
    inbox.on_data(now, 1, &data);
    assert_eq!(inbox.take_ack(now, 5), None);
    assert_eq!(inbox.poll_at(now), Some(now + ACK_DELAY));
    (2..=8).for_each(|sequence| inbox.on_data(now, sequence, &data));
    assert_eq!(inbox.take_ack(now, 5), Some(proto::Ack { base: 8, later: vec![], sent: 5 }));
    inbox.on_data(now, 10, &data);
    assert_eq!(inbox.take_ack(now, 5), Some(proto::Ack { base: 8, later: vec![2], sent: 5 }));
    assert!(!inbox.is_gap_old(now) && inbox.is_gap_old(now + GAP_TOLERANCE));
}
