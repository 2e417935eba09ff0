use super::super::PeerId;
use super::super::digest::Buckets;
use super::*;
use crate::sync::flow::{Tuple, status};

/// The n-th of many different UDP flows.
pub(crate) fn flow(n: u32) -> Flow {
    let original = Tuple {
        source: core::net::Ipv4Addr::from_bits(0x0a00_0000 + n / 60_000).into(),
        destination: core::net::Ipv4Addr::from_bits(0xc0a8_0001).into(),
        protocol: 17,
        source_port: (n % 60_000) as u16,
        destination_port: 53,
    };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: original.inverse(),
        status: status::SEEN_REPLY,
        timeout: 30,
        mark: 0,
        tcp: None,
        id: 0,
        extra: None,
    }
}

pub(crate) fn table(flows_max: usize) -> Table {
    Table::new(1, [1, 2], 2, flows_max)
}

/// The table against a plain map under a random walk of insertions and removals: same content, bounded
/// slots, counts right.
#[test]
fn agrees_with_a_map() {
    let mut table = table(500);
    let mut model = std::collections::HashMap::new();
    let mut random = 7u64;
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let flow = flow((random >> 33) as u32 % 800);
        match table.find(&flow.key) {
            Some(slot) => {
                assert_eq!(model.remove(&flow.key), Some(slot));
                table.remove(slot);
            }
            None => match table.insert(&flow, Owner::Local, 1) {
                Some(slot) => assert_eq!(model.insert(flow.key, slot), None),
                None => assert_eq!(model.len(), 500),
            },
        }
        assert_eq!(table.counts().local, model.len() as u64);
    }
    assert!(table.slots() <= 500);
    assert!(model.iter().all(|(key, &slot)| table.find(key) == Some(slot)));
}

/// However entries come, change hands and versions, die, rise and go: the sums are those of what is there, and two tables
/// with the same flows have the same sums whatever the way to them.
#[test]
fn sums_are_those_of_the_live_entries() {
    let mut walked = table(300);
    let mut random = 11u64;
    let owners = [Owner::Local, Owner::Found, Owner::Peer(PeerId(0)), Owner::Peer(PeerId(1))];
    for version in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (flow, owner) = (flow((random >> 33) as u32 % 400), owners[(random >> 20) as usize % 4]);
        match (walked.find(&flow.key), (random >> 50) % 6) {
            (None, _) => drop(walked.insert(&flow, owner, version)),
            (Some(slot), 0) => walked.remove(slot),
            (Some(slot), 1) => walked.set_owner(slot, owner),
            (Some(slot), 2) => walked.set_version(slot, version),
            (Some(slot), 3) if walked.get(slot).unwrap().is_live() => walked.entomb(slot),
            (Some(slot), 4) if walked.get(slot).unwrap().is_tombstone() => walked.revive(slot),
            (Some(slot), 5) => walked.set_absent(slot, version % 2 == 0),
            (Some(slot), _) => walked.claim(slot, owner, version),
        }
    }
    let absent = |entry: &&Entry| entry.is_live() && entry.flags.has(Flags::ABSENT);
    let absent = (0..walked.slots()).filter_map(|slot| walked.get(slot)).filter(absent).count();
    assert_eq!(walked.counts().absent, absent as u64);
    let mut straight = table(300);
    for slot in 0..walked.slots() {
        if let Some(entry) = walked.get(slot).filter(|entry| entry.is_live()) {
            let copy = straight.insert(&entry.flow(), entry.owner(), entry.version()).unwrap();
            straight.set_absent(copy, entry.flags.has(Flags::ABSENT));
        }
    }
    for owner in owners {
        let groups = |table: &Table| table.sums(owner).map(|sums| sums.groups(&Buckets::default()));
        assert_eq!(groups(&walked), groups(&straight), "{owner:?}");
        assert!(owner == Owner::Found || groups(&straight).unwrap().iter().any(|&sum| sum != 0));
    }
}

/// A tombstone is found by its key, counted apart, and goes when nothing holds it.
#[test]
fn life_of_a_tombstone() {
    let mut table = table(10);
    let slot = table.insert(&flow(1), Owner::Local, 5).unwrap();
    table.entomb(slot);
    assert_eq!(table.counts(), Counts { tombstones: 1, ..Counts::default() });
    table.get_mut(slot).unwrap().owed = 1;
    table.bury(slot);
    assert_eq!(table.find(&flow(1).key), Some(slot));
    table.get_mut(slot).unwrap().owed = 0;
    table.bury(slot);
    assert_eq!(table.find(&flow(1).key), None);
    assert_eq!(table.counts(), Counts::default());
}
