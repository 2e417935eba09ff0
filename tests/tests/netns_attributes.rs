//! The attributes that few entries have, against the real kernel: what is written reads back, changes are applied, and
//! expectations stand beside their master. Needs root.

use anyhow::{Context, Result, ensure};
use ha_common::sync::flow::{
    Expectation, ExpectedNat, Extra, Flow, FlowKey, Sctp, SequenceAdjustment, Synproxy, Tcp, Tuple, ZoneDirection,
    status,
};
use ha_tests::netns::Netns;
use ha_user::conntrack::dump::{DumpSource, Progress};
use ha_user::conntrack::expectation_dump::ExpectationDump;
use ha_user::conntrack::writer::{Conflict, Outcome, Write, Writer};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

fn tuple(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> Tuple {
    Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: ports.0,
        destination_port: ports.1,
    }
}

/// An untranslated flow between two hosts that has seen traffic both ways.
fn flow(n: u16, protocol: u8, extra: Extra) -> Flow {
    let original = tuple("10.1.0.2", "10.2.0.2", protocol, (1000 + n, 21));
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: original.inverse(),
        status: status::SEEN_REPLY | status::ASSURED | status::CONFIRMED,
        timeout: 600,
        mark: 0,
        tcp: (protocol == 6).then_some(Tcp { state: 3, wscale: [7, 9], flags: [0x0b, 0x0b] }),
        id: 0,
        extra: Some(Box::new(extra)),
    }
}

fn master() -> Flow {
    flow(1, 6, Extra { helper: Some("ftp".into()), ..Extra::default() })
}

/// One flow for every rare attribute, masters before those that they announced.
fn every_attribute() -> Vec<Flow> {
    let sequence = |n: u32| Some(SequenceAdjustment { position: 0xffff_0000 + n, before: -5, after: 7 });
    let zoned = |n, zone, direction| {
        let flow = flow(n, 17, Extra { zone_direction: direction, ..Extra::default() });
        Flow { key: FlowKey { zone, ..flow.key }, ..flow }
    };
    let original = tuple("2001:db8:1::2", "2001:db8:2::2", 6, (1020, 21));
    vec![
        master(),
        flow(2, 6, Extra { master: Some(master().key), ..Extra::default() }),
        flow(3, 132, Extra { sctp: Some(Sctp { state: 4, tags: [0xdead_beef, 0x0102_0304] }), ..Extra::default() }),
        flow(4, 132, Extra { sctp: Some(Sctp { state: 1, tags: [0, 1] }), ..Extra::default() }),
        flow(5, 6, Extra { labels: Some([2, 1 << 31, 0, 7]), ..Extra::default() }),
        flow(6, 6, Extra { sequence: [sequence(1), sequence(2)], ..Extra::default() }),
        flow(
            7,
            6,
            Extra {
                synproxy: Some(Synproxy { isn: 0x8000_0001, its: 3, timestamp_offset: 0xffff_fff0 }),
                sequence: [sequence(3), sequence(4)],
                ..Extra::default()
            },
        ),
        zoned(8, 5, ZoneDirection::Original),
        zoned(9, 0, ZoneDirection::Reply(6)),
        Flow {
            key: FlowKey { original, zone: 0 },
            reply: original.inverse(),
            ..flow(10, 6, Extra { helper: Some("sip".into()), labels: Some([1, 0, 0, 0]), ..Extra::default() })
        },
    ]
}

/// Labels exist only where a rule uses them.
fn namespace(hint: &str) -> Result<Netns> {
    let namespace = Netns::new(hint)?;
    let rules = "table ip t { chain c { type filter hook forward priority 0; ct label 1 accept; }; }";
    namespace.run_with_input("nft", &["-f", "-"], rules)?;
    Ok(namespace)
}

fn table() -> Result<HashMap<FlowKey, Flow>> {
    let mut dump = DumpSource::open()?;
    let mut flows = HashMap::new();
    dump.start()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let progress = dump.read(|flow| {
            flows.insert(flow.key, flow.clone());
        });
        match progress {
            Progress::Ended { complete: true } => return Ok(flows),
            Progress::Ended { complete: false } => dump.start()?,
            Progress::Running | Progress::Idle => ensure!(Instant::now() < deadline, "the dump does not end"),
        }
    }
}

fn expectations() -> Result<Vec<(FlowKey, Expectation)>> {
    let mut dump = ExpectationDump::open()?;
    let mut found = Vec::new();
    dump.start()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match dump.read(|master, expectation| found.push((*master, expectation.clone()))) {
            Progress::Ended { complete } => {
                ensure!(complete && dump.malformed() == 0, "incomplete or malformed");
                return Ok(found);
            }
            Progress::Running | Progress::Idle => ensure!(Instant::now() < deadline, "the dump does not end"),
        }
    }
}

fn apply(writer: &mut Writer, writes: &[Write]) {
    writer.apply(writes, Conflict::Replace, |outcome| panic!("{outcome:?}"));
}

fn expect_table(wanted: &[Flow]) -> Result<()> {
    let entries = table()?;
    for flow in wanted {
        let entry = entries.get(&flow.key).with_context(|| format!("missing: {flow:?}"))?;
        let extra = |flow: &Flow| flow.extra.as_deref().cloned().unwrap_or_default();
        assert_eq!(extra(entry), extra(flow), "{flow:?}");
        assert_eq!((entry.reply, entry.mark), (flow.reply, flow.mark), "{flow:?}");
        assert_eq!(entry.status & status::REPLICATED, flow.status & status::REPLICATED, "{flow:?}");
        let related = extra(flow).master.is_some();
        assert_eq!(entry.status & status::EXPECTED != 0, related, "{flow:?}");
        assert_eq!(entry.tcp.map(|tcp| tcp.state), flow.tcp.map(|tcp| tcp.state), "{flow:?}");
    }
    Ok(())
}

/// A flow with each attribute is created and read back by a dump: equal, and nothing that was not written.
#[test]
fn netns_rare_attributes_read_back_as_written() -> Result<()> {
    namespace("attr")?.enter(|| -> Result<()> {
        let flows = every_attribute();
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        apply(&mut Writer::open()?, &creates);
        expect_table(&flows)
    })?
}

/// Everything that can change is changed by updates, also of a related entry, whose status must repeat a bit, and of one
/// that was created without its master: states, tags, labels, adjustments, ASSURED, and a mark back to zero.
#[test]
fn netns_rare_attributes_change() -> Result<()> {
    namespace("attrchg")?.enter(|| -> Result<()> {
        let mut writer = Writer::open()?;
        let mut flows = every_attribute();
        for flow in &mut flows {
            flow.mark = 9;
            flow.status &= !status::ASSURED;
        }
        let mut orphan = flow(11, 6, Extra::default());
        orphan.status &= !status::ASSURED;
        flows.push(orphan);
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        apply(&mut writer, &creates);
        expect_table(&flows)?;
        for flow in &mut flows {
            flow.mark = 0;
            flow.status |= status::ASSURED;
            if let Some(tcp) = &mut flow.tcp {
                tcp.state = 4;
            }
            let extra = flow.extra_mut();
            if let Some(sctp) = &mut extra.sctp {
                *sctp = Sctp { state: 5, tags: [11, 12] };
            }
            if let Some(labels) = &mut extra.labels {
                *labels = [4, 0, 0, 1];
            }
            for sequence in extra.sequence.iter_mut().flatten() {
                *sequence = SequenceAdjustment { position: 77, before: 7, after: -8 };
            }
        }
        let mut updates = flows.clone();
        // What its peer believes, and this kernel does not know.
        updates.last_mut().context("the orphan")?.extra_mut().master = Some(master().key);
        let updates: Vec<Write> = updates.into_iter().map(Write::Update).collect();
        apply(&mut writer, &updates);
        expect_table(&flows)
    })?
}

/// A helper that the kernel does not have is left out, a master that is not there is told; a wrong state of the order of
/// writes in one batch (the related flow first) is mended by a second try.
#[test]
fn netns_missing_helpers_and_masters() -> Result<()> {
    namespace("attrmiss")?.enter(|| -> Result<()> {
        let mut writer = Writer::open()?;
        let unknown = flow(1, 6, Extra { helper: Some("no-such-thing".into()), ..Extra::default() });
        apply(&mut writer, &[Write::Create(unknown.clone())]);
        expect_table(&[Flow { extra: None, ..unknown }])?;
        let child = flow(2, 6, Extra { master: Some(flow(3, 6, Extra::default()).key), ..Extra::default() });
        let mut failures = Vec::new();
        writer.apply(&[Write::Create(child.clone())], Conflict::Replace, |outcome| match outcome {
            Outcome::Failed { errno, .. } => failures.push(errno),
            Outcome::Kept(_) | Outcome::Removed(_) | Outcome::Fetched { .. } | Outcome::Unknown => {
                panic!("{outcome:?}")
            }
        });
        assert_eq!(failures, [libc::ENOENT]);
        apply(&mut writer, &[Write::Create(child.clone()), Write::Create(flow(3, 6, Extra::default()))]);
        expect_table(&[child])
    })?
}

/// Opening the windows of an entry changes its flags and nothing else: a state that has moved on meanwhile stays, and an
/// entry that is gone is not made. Reading one entry gives what the dump gives.
#[test]
fn netns_windows_are_opened_without_a_state() -> Result<()> {
    namespace("attrrelax")?.enter(|| -> Result<()> {
        let mut writer = Writer::open()?;
        let mut flow = flow(1, 6, Extra::default());
        flow.tcp = Some(Tcp { state: 7, wscale: [7, 9], flags: [0x03, 0x03] });
        flow.timeout = 333;
        let gone = Tuple { source_port: 1, ..flow.key.original };
        let gone = FlowKey { original: gone, zone: 0 };
        apply(&mut writer, &[Write::Create(flow.clone()), Write::Relax(flow.key), Write::Relax(gone)]);
        let entries = table()?;
        assert_eq!(entries.len(), 1);
        let entry = entries.get(&flow.key).context("the entry")?;
        let tcp = entry.tcp.context("its state")?;
        assert_eq!((tcp.state, tcp.wscale, tcp.flags.map(|flags| flags & 0x0b)), (7, [7, 9], [0x0b; 2]));
        assert!(entry.timeout.abs_diff(333) <= 5);
        let mut answers = Vec::new();
        writer.apply(&[Write::Fetch(flow.key), Write::Fetch(gone)], Conflict::Replace, |outcome| match outcome {
            // A second may have passed since the table was read.
            Outcome::Fetched { key, flow } => {
                answers.push((*key, flow.map(|flow| Flow { timeout: entry.timeout, ..flow.clone() })));
            }
            Outcome::Kept(_) | Outcome::Removed(_) | Outcome::Failed { .. } | Outcome::Unknown => panic!("{outcome:?}"),
        });
        assert_eq!(answers, [(flow.key, Some(entry.clone())), (gone, None)]);
        Ok(())
    })?
}

/// Expectations of a master are made after it, whatever their place in the batch, read back equal, and go one by one. (The
/// kernel gives them the time of their helper's policy, here SIP's three minutes for a stream.)
#[test]
fn netns_expectations_read_back_as_written() -> Result<()> {
    namespace("attrexp")?.enter(|| -> Result<()> {
        let caller = flow(1, 17, Extra { helper: Some("sip".into()), ..Extra::default() });
        let expectation = |port| Expectation {
            tuple: tuple("10.2.0.2", "10.1.0.2", 17, (0, port)),
            mask_source: IpAddr::V4(Ipv4Addr::BROADCAST),
            mask_source_port: 0,
            timeout: 180,
            helper: Some("sip".into()),
            class: 1,
            flags: 0,
            nat: None,
            function: None,
        };
        let translated = ExpectedNat { direction: 1, source: "10.1.0.9".parse()?, source_port: 4002 };
        let wanted = [
            expectation(4001),
            Expectation { nat: Some(translated), function: Some("nat-follow-master".into()), ..expectation(4002) },
        ];
        let make = |one: &Expectation| Write::Expect { master: caller.key, expectation: Box::new(one.clone()) };
        let mut writer = Writer::open()?;
        let mut writes: Vec<Write> = wanted.iter().map(make).collect();
        writes.push(Write::Create(caller.clone()));
        apply(&mut writer, &writes);
        let found = expectations()?;
        assert_eq!(found.len(), 2, "{found:?}");
        for one in &wanted {
            let same = |(key, read): &&(FlowKey, Expectation)| *key == caller.key && read.is_same(one);
            let (_, read) = found.iter().find(same).with_context(|| format!("{one:?} is not among {found:?}"))?;
            assert!(read.timeout.abs_diff(180) <= 5, "{read:?}");
        }
        let remove = |one: &Expectation| Write::Unexpect { master: caller.key, expectation: Box::new(one.clone()) };
        apply(&mut writer, &[remove(&wanted[0]), remove(&wanted[0])]);
        let found = expectations()?;
        assert!(found.len() == 1 && found[0].1.is_same(&wanted[1]), "{found:?}");
        Ok(())
    })?
}
