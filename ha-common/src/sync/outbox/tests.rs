use super::super::PeerId;
use super::super::fixture::config;
use super::super::table::tests::flow;
use super::*;
use crate::sync::rtt::{RTO_FIRST, RTO_MAX};
use crate::sync::table::Owner;
use prost::Message;

const BYTES: usize = 1352;

struct Rig {
    table: Table,
    outbox: Outbox,
    inbox: Inbox,
    now: Instant,
    data: proto::Data,
}

impl Rig {
    fn new(window: usize) -> Self {
        let (table, outbox) = (super::super::table::tests::table(10_000), Outbox::new(1, window, 1400, Mode::Ftfw));
        let inbox = Inbox::new(PeerId(0), &config(Mode::Ftfw));
        Self { table, outbox, inbox, now: Instant(1_000_000_000), data: proto::Data::default() }
    }

    fn change(&mut self, n: u32, version: u64) -> Slot {
        let slot = match self.table.find(&flow(n).key) {
            Some(slot) => slot,
            None => self.table.insert(&flow(n), Owner::Local, version).unwrap(),
        };
        self.table.set_version(slot, version);
        self.outbox.mark(&mut self.table, slot, Stamp::at(self.now));
        slot
    }

    /// Lets the batch delay pass and returns the next frame: sequence, floor and versions carried.
    fn frame(&mut self) -> Option<(u64, u64, Vec<u64>)> {
        self.now = self.now + BATCH_DELAY;
        let sequence = self.outbox.fill(self.now, &mut self.table, &mut self.data, BYTES)?;
        let version = |change: &proto::Change| match &change.kind {
            Some(Kind::Upsert(flow)) => flow.version,
            Some(Kind::Removal(removal)) => removal.version,
            _ => 0,
        };
        Some((sequence, self.data.floor, self.data.changes.iter().map(version).collect()))
    }

    fn ack(&mut self, base: u64, later: &[u64]) {
        let bits = later.iter().fold(0, |word, sequence| word | 1 << (sequence - base - 1));
        let ack = proto::Ack { base, later: vec![bits], sent: 0 };
        assert_eq!(self.outbox.on_ack(self.now, &ack, &mut self.table, &mut self.inbox), None);
    }
}

/// Many changes of one flow before its frame is built are one change, the last.
#[test]
fn latest_state_wins() {
    let mut rig = Rig::new(16);
    (1..=5).for_each(|version| {
        rig.change(1, version);
    });
    assert_eq!(rig.outbox.backlog_flows(), 1);
    assert_eq!(rig.frame(), Some((1, 1, vec![5])));
    assert_eq!(rig.frame(), None);
}

/// A frame passed over by three later ones is lost. Of its flows only those go again that did not change
/// since, in their newest state, and the floor rises over it.
#[test]
fn lost_flows_go_again_unless_newer() {
    let mut rig = Rig::new(16);
    rig.change(1, 1);
    rig.change(2, 2);
    assert_eq!(rig.frame(), Some((1, 1, vec![1, 2])));
    for version in 3..=5 {
        rig.change(2, version);
        rig.frame();
    }
    rig.ack(0, &[2, 3]);
    assert_eq!((rig.outbox.backlog_flows(), rig.outbox.counters.frames_lost), (0, 0));
    rig.ack(0, &[2, 3, 4]);
    assert_eq!(rig.outbox.counters.frames_lost, 1);
    assert_eq!(rig.frame(), Some((5, 5, vec![1])));
    rig.ack(5, &[]);
    assert_eq!((rig.frame(), rig.outbox.in_flight_flows(), rig.outbox.is_pending()), (None, 0, false));
}

/// When nothing is left to say but the receiver waits for a frame given up, an empty frame tells the floor.
#[test]
fn an_empty_frame_tells_the_floor() {
    let mut rig = Rig::new(16);
    let slot = rig.change(1, 1);
    rig.frame();
    // The flow changes hands: its loss needs no repair.
    rig.table.set_version(slot, 9);
    rig.now = rig.now + RTO_FIRST;
    rig.outbox.on_timer(rig.now, &mut rig.table);
    assert_eq!(rig.frame(), Some((2, 2, vec![])));
    rig.ack(2, &[]);
    assert_eq!(rig.frame(), None);
}

/// A removal is remembered until the peer has it, also through a loss.
#[test]
fn removal_is_remembered_until_acknowledged() {
    let mut rig = Rig::new(16);
    let slot = rig.change(1, 1);
    rig.table.entomb(slot);
    rig.table.get_mut(slot).unwrap().owed = 1;
    rig.change(1, 2);
    assert_eq!(rig.frame(), Some((1, 1, vec![2])));
    rig.now = rig.now + RTO_FIRST;
    rig.outbox.on_timer(rig.now, &mut rig.table);
    assert_eq!(rig.frame(), Some((2, 2, vec![2])));
    assert_eq!(rig.table.find(&flow(1).key), Some(slot));
    rig.ack(2, &[]);
    assert_eq!(rig.table.find(&flow(1).key), None);
}

/// With the window full, changes wait: each flow once, however often it changes or its slot is used again.
#[test]
fn full_window_bounds_everything() {
    let mut rig = Rig::new(4);
    for n in 0..4 {
        rig.change(n, 1);
        assert!(rig.frame().is_some());
    }
    for round in 0..50 {
        for n in 100..120 {
            let slot = rig.change(n, 10 + round);
            if round % 2 == 1 {
                rig.table.remove(slot);
            }
        }
        assert_eq!(rig.frame(), None);
    }
    assert_eq!((rig.outbox.backlog_flows(), rig.outbox.in_flight_flows()), (20, 4));
    assert!(rig.outbox.lag(rig.now) >= BATCH_DELAY * 50);
    rig.ack(4, &[]);
    assert_eq!(rig.frame(), None);
}

/// Retransmission timers back off to a bound while nothing is heard, and recover with the first ack.
#[test]
fn timers_back_off() {
    let mut rig = Rig::new(16);
    rig.change(1, 1);
    for _ in 0..40 {
        rig.frame();
        let at = rig.outbox.poll_at(BYTES).unwrap();
        assert!(at.since(rig.now) <= RTO_MAX);
        rig.now = rig.now.max(at);
        rig.outbox.on_timer(rig.now, &mut rig.table);
    }
    assert_eq!(rig.outbox.flight.rtt.timeout(), RTO_MAX);
    rig.frame();
    rig.ack(rig.outbox.sent_sequence(), &[]);
    assert!(rig.outbox.flight.rtt.timeout() < RTO_FIRST);
}

/// Frames never exceed the size asked for, and all flows go out.
#[test]
fn frames_keep_their_size() {
    let mut rig = Rig::new(1000);
    (0..500).for_each(|n| {
        rig.change(n, 1000 + u64::from(n));
    });
    let mut flows = 0;
    while let Some((_, _, versions)) = rig.frame() {
        assert!(rig.data.encoded_len() <= BYTES);
        flows += versions.len();
    }
    assert_eq!(flows, 500);
}

/// A change that rides with the walk of a transfer is not there before its frame is acknowledged: also when that is lost,
/// however often.
#[test]
fn a_change_that_rides_with_the_walk_is_waited_for() {
    let mut rig = Rig::new(16);
    rig.table.insert(&flow(1), Owner::Local, 1).unwrap();
    rig.outbox.bulk.start(1, true, rig.table.slots(), Default::default());
    // Frames of odd sequences begin with the queue, those of even ones with the walk.
    rig.outbox.note(Kind::DigestAnswer(proto::DigestAnswer::default()));
    rig.outbox.flight.next_sequence = 2;
    rig.change(1, 5);
    let asked = rig.now;
    for sequence in 2..6 {
        let frame =
            rig.frame().map(|(sequence, _, versions)| (sequence, versions.into_iter().filter(|v| *v > 0).collect()));
        assert_eq!(frame, Some((sequence, vec![5])));
        rig.now = rig.now + RTO_MAX;
        let age = rig.now.since(asked + BATCH_DELAY);
        assert!(!rig.outbox.is_younger(rig.now, age), "frame {sequence} is under way");
        rig.outbox.on_timer(rig.now, &mut rig.table);
        assert!(!rig.outbox.is_younger(rig.now, age), "frame {sequence} was lost");
    }
    let (last, _, _) = rig.frame().unwrap();
    rig.ack(last, &[]);
    assert!(rig.outbox.is_younger(rig.now, rig.now.since(asked + BATCH_DELAY)));
}
