use super::super::table::{Owner, tests::flow};
use super::*;

fn table(flows: u32) -> Table {
    let mut table = super::super::table::tests::table(100_000);
    for n in 0..flows {
        let owner = if n % 2 == 0 { Owner::Local } else { Owner::Found };
        table.insert(&flow(n), owner, 1).unwrap();
    }
    table
}

/// The walk names each local flow once, and the end is due only when every marked frame is settled and
/// what a lost one carried was sent again.
#[test]
fn end_waits_for_every_frame() {
    let table = table(6);
    let mut bulk = Bulk::new();
    bulk.start(1, true, table.slots(), RecentVersions::default());
    let mut named = Vec::new();
    while let Some(slot) = bulk.peek(&table) {
        named.push(slot);
        bulk.take();
    }
    assert_eq!(named, [0, 2, 4]);
    bulk.on_frame_sent();
    assert_eq!(bulk.end_due(), None);
    assert!(bulk.on_frame_lost(1));
    named.iter().for_each(|&slot| bulk.owe(slot));
    assert_eq!(bulk.end_due(), None);
    while bulk.peek(&table).is_some() {
        bulk.take();
    }
    bulk.on_frame_sent();
    bulk.on_frame_acked(1);
    assert_eq!(
        bulk.end_due(),
        Some(proto::BulkEnd { epoch: 1, answers: 1, flows: 3, master: true, buckets: vec![], refresh: false })
    );
    bulk.on_end_sent();
    assert!(!bulk.on_end_settled(1, false) && bulk.end_due().is_some());
    bulk.on_end_sent();
    assert!(bulk.on_end_settled(1, true) && bulk.is_done());
}

/// A new transfer makes what is in flight of the old one meaningless.
#[test]
fn restart_voids_the_old_epoch() {
    let table = table(2);
    let mut bulk = Bulk::new();
    bulk.start(1, false, table.slots(), RecentVersions::default());
    bulk.take();
    bulk.on_frame_sent();
    bulk.start(2, true, table.slots(), RecentVersions::default());
    assert!(!bulk.on_frame_lost(1));
    bulk.on_frame_acked(1);
    assert_eq!(bulk.slots_left(), 2);
    assert_eq!(bulk.end_due(), None);
}

/// A long stretch of foreign flows is walked in bounded steps.
#[test]
fn seek_is_bounded() {
    let mut table = super::super::table::tests::table(100_000);
    for n in 0..SEEK_MAX + 10 {
        table.insert(&flow(n), Owner::Found, 1).unwrap();
    }
    let mut bulk = Bulk::new();
    bulk.start(1, true, table.slots(), RecentVersions::default());
    assert_eq!(bulk.seek(&table), None);
    assert_eq!(bulk.seek(&table), Some(false));
}
