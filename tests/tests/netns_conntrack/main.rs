//! The conntrack edge against the real kernel, in network namespaces of its own. Needs root.

mod flows;

use anyhow::{Context, Result, ensure};
use flows::{PORT, assert_same, every_kind, plain, tuple, with_status};
use ha_common::sync::WriteKind;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, status};
use ha_tests::netns::{Netns, cable};
use ha_user::conntrack::dump::{DumpSource, Progress};
use ha_user::conntrack::events::{Event, EventSource};
use ha_user::conntrack::sysctl;
use ha_user::conntrack::writer::{Conflict, Outcome, Write, Writer};
use std::collections::HashMap;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Writes and expects nothing to say about it.
fn write_all(writer: &mut Writer, writes: &[Write]) {
    writer.apply(writes, Conflict::Replace, |outcome| panic!("{outcome:?}"));
}

/// The whole table by key.
fn table(dump: &mut DumpSource) -> Result<HashMap<FlowKey, Flow>> {
    let mut flows = HashMap::new();
    dump.start()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let progress = dump.read(|flow| {
            flows.insert(flow.key, flow.clone());
        });
        match progress {
            Progress::Ended { complete: true } => return Ok(flows),
            Progress::Ended { complete: false } => {
                flows.clear();
                dump.start()?;
            }
            Progress::Running | Progress::Idle => ensure!(Instant::now() < deadline, "the dump does not end"),
        }
    }
}

/// Every kind of flow that is written reads back equal: protocols, families, states, marks, zones, NAT.
#[test]
fn netns_every_kind_reads_back_as_written() -> Result<()> {
    let namespace = Netns::new("kinds")?;
    namespace.enter(|| -> Result<()> {
        let mut writer = Writer::open()?;
        let flows = every_kind();
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        write_all(&mut writer, &creates);
        let entries = table(&mut DumpSource::open()?)?;
        for flow in &flows {
            let entry = entries.get(&flow.key).with_context(|| format!("missing: {flow:?}"))?;
            assert_same(entry, flow);
            assert_ne!(entry.id, 0);
        }
        assert_eq!(writer.counters()["create"]["ok"], flows.len() as u64);
        Ok(())
    })?
}

/// The text between the first `<tag…>` and the next `<`.
fn xml<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let start = text.find(&format!("<{tag}>"))? + tag.len() + 2;
    text.get(start..)?.split('<').next()
}

/// `conntrack -L -o xml,id` shows the flows as we wrote them: an independent reader of both directions' addresses,
/// ports, mark, zone, state and assurance.
#[test]
fn netns_conntrack_tool_agrees() -> Result<()> {
    let namespace = Netns::new("tool")?;
    let flows: Vec<Flow> =
        every_kind().into_iter().filter(|flow| matches!(flow.key.original.protocol, 6 | 17)).collect();
    let ids = namespace.enter(|| -> Result<HashMap<FlowKey, u32>> {
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        write_all(&mut Writer::open()?, &creates);
        Ok(table(&mut DumpSource::open()?)?.into_iter().map(|(key, flow)| (key, flow.id)).collect())
    })??;
    let shown = namespace.run("conntrack", &["-L", "-o", "xml,id"])?
        + &namespace.run("conntrack", &["-L", "-f", "ipv6", "-o", "xml,id"])?;
    let states = ["NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"];
    for flow in &flows {
        let id = format!("<id>{}</id>", ids[&flow.key]);
        let element =
            shown.split("<flow").find(|element| element.contains(&id)).with_context(|| format!("{flow:?}"))?;
        let directions: Vec<&str> = element.split("<meta direction=").collect();
        ensure!(directions.len() == 4, "unexpected form: {element}");
        for (direction, tuple) in [(directions[1], flow.key.original), (directions[2], flow.reply)] {
            assert_eq!(xml(direction, "src").map(str::parse), Some(Ok(tuple.source)));
            assert_eq!(xml(direction, "dst").map(str::parse), Some(Ok(tuple.destination)));
            assert_eq!(xml(direction, "sport"), Some(tuple.source_port.to_string().as_str()));
            assert_eq!(xml(direction, "dport"), Some(tuple.destination_port.to_string().as_str()));
        }
        let meta = directions[3];
        assert_eq!(xml(meta, "mark"), Some(flow.mark.to_string().as_str()));
        assert_eq!(xml(meta, "zone"), (flow.key.zone != 0).then(|| flow.key.zone.to_string()).as_deref());
        assert_eq!(meta.contains("<assured/>"), flow.status & status::ASSURED != 0);
        if let Some(name) = flow.tcp.and_then(|tcp| states.get(usize::from(tcp.state))) {
            assert_eq!(xml(meta, "state"), Some(*name));
        }
    }
    Ok(())
}

/// A client and a server with a translating firewall between them.
struct Firewall {
    client: Netns,
    firewall: Netns,
    server: Netns,
}

impl Firewall {
    fn new() -> Result<Self> {
        let lab = Self { client: Netns::new("cl")?, firewall: Netns::new("fw")?, server: Netns::new("sv")? };
        cable((&lab.client, "eth0"), (&lab.firewall, "lan"))?;
        cable((&lab.server, "eth0"), (&lab.firewall, "wan"))?;
        lab.client.ip("addr add 10.1.0.2/24 dev eth0\nroute add default via 10.1.0.1")?;
        lab.server.ip("addr add 10.2.0.2/24 dev eth0")?;
        lab.firewall
            .ip("addr add 10.1.0.1/24 dev lan\naddr add 10.2.0.1/24 dev wan\naddr add 10.2.0.210/24 dev wan")?;
        lab.firewall.sysctl("net.ipv4.ip_forward", "1")?;
        let rules = "table ip t {
            chain marks { type filter hook prerouting priority mangle; iifname lan ct state new ct mark set 7; }
            chain post { type nat hook postrouting priority srcnat; oifname wan meta l4proto { tcp, udp } snat to 10.2.0.210:40000-40100; oifname wan snat to 10.2.0.210; }
            chain pre { type nat hook prerouting priority dstnat; iifname wan tcp dport 8080 dnat to 10.1.0.2:80; }
        }";
        lab.firewall.run_with_input("nft", &["-f", "-"], rules)?;
        Ok(lab)
    }
}

/// The newest state of each flow, and how many were destroyed, while `work` runs and for `settle` after it.
fn observe(events: &mut EventSource, settle: Duration) -> (HashMap<FlowKey, Flow>, Vec<Flow>) {
    let mut seen: HashMap<FlowKey, Flow> = HashMap::new();
    let mut destroyed = Vec::new();
    let deadline = Instant::now() + settle;
    while Instant::now() < deadline {
        events.read(|event| match event {
            Event::Changed(flow) => {
                let tcp = flow.tcp.or(seen.get(&flow.key).and_then(|flow| flow.tcp));
                seen.insert(flow.key, Flow { tcp, ..flow.clone() });
            }
            Event::Destroyed(flow) => destroyed.push(flow.clone()),
            Event::Expected { .. } | Event::Unexpected { .. } => panic!("nothing here has a helper"),
            Event::Lost => panic!("events were lost"),
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    (seen, destroyed)
}

/// Real sessions through a translating firewall (TCP out with SNAT, TCP in with DNAT, UDP, ping) are read from
/// events, written into another kernel table, and are there what they were here.
#[test]
fn netns_real_traffic_is_carried_over() -> Result<()> {
    let lab = Firewall::new()?;
    let standby = Netns::new("sb")?;
    let mut events = lab.firewall.enter(|| -> Result<EventSource> {
        sysctl::enable_events()?;
        Ok(EventSource::open(u32::MAX, MIB, MIB)?)
    })??;
    let (server, inside, datagrams) = (
        lab.server.enter(|| TcpListener::bind("10.2.0.2:80"))??,
        lab.client.enter(|| TcpListener::bind("10.1.0.2:80"))??,
        lab.server.enter(|| UdpSocket::bind("10.2.0.2:53"))??,
    );
    let out = lab.client.enter(|| TcpStream::connect("10.2.0.2:80"))??;
    let inward = lab.server.enter(|| TcpStream::connect("10.2.0.210:8080"))??;
    for (mut near, listener) in [(&out, &server), (&inward, &inside)] {
        let (mut far, _) = listener.accept()?;
        near.write_all(b"ping")?;
        far.read_exact(&mut [0; 4])?;
        far.write_all(b"pong")?;
        near.read_exact(&mut [0; 4])?;
        // Keeps the connection open to the end of the test.
        std::mem::forget(far);
    }
    let udp = lab.client.enter(|| UdpSocket::bind("10.1.0.2:0"))??;
    udp.send_to(b"q", "10.2.0.2:53")?;
    let (_, from) = datagrams.recv_from(&mut [0; 16])?;
    datagrams.send_to(b"a", from)?;
    udp.recv_from(&mut [0; 16])?;
    lab.client.run("ping", &["-c", "1", "-W", "2", "10.2.0.2"])?;

    let (seen, _) = observe(&mut events, Duration::from_millis(300));
    let flows: Vec<Flow> = seen.into_values().filter(|flow| flow.key.original.source.is_ipv4()).collect();
    let nat = |bits| flows.iter().filter(|flow| flow.status & (status::SRC_NAT | status::DST_NAT) == bits).count();
    assert_eq!((nat(status::SRC_NAT), nat(status::DST_NAT)), (3, 1), "{flows:#?}");
    standby.enter(|| -> Result<()> {
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        write_all(&mut Writer::open()?, &creates);
        let entries = table(&mut DumpSource::open()?)?;
        for flow in &flows {
            let entry = entries.get(&flow.key).with_context(|| format!("missing: {flow:?}"))?;
            assert_same(entry, flow);
            let from_lan = flow.key.original.source == IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
            assert_eq!(entry.mark, if from_lan { 7 } else { 0 });
        }
        Ok(())
    })??;
    Ok(())
}

/// Deleting with an id that is not the entry's is refused and leaves it alone; with the right one it goes.
#[test]
fn netns_delete_respects_the_id() -> Result<()> {
    let namespace = Netns::new("del")?;
    namespace.enter(|| -> Result<()> {
        let (mut writer, mut dump) = (Writer::open()?, DumpSource::open()?);
        let flow = Flow {
            key: FlowKey { zone: 3, ..plain(tuple("10.1.0.1", "10.2.0.1", 17, (1, 2))).key },
            ..plain(tuple("10.1.0.1", "10.2.0.1", 17, (1, 2)))
        };
        write_all(&mut writer, &[Write::Create(flow.clone())]);
        let id = table(&mut dump)?[&flow.key].id;
        let mut failures = Vec::new();
        writer.apply(&[Write::Delete { key: flow.key, id: id ^ 1 }], Conflict::Replace, |outcome| match outcome {
            Outcome::Failed { write, errno } => failures.push((write.kind(), *write.key(), errno)),
            other => panic!("{other:?}"),
        });
        assert_eq!(failures, [(WriteKind::Delete, flow.key, libc::ENOENT)]);
        assert!(table(&mut dump)?.contains_key(&flow.key));
        write_all(&mut writer, &[Write::Delete { key: flow.key, id }]);
        assert!(!table(&mut dump)?.contains_key(&flow.key));
        Ok(())
    })?
}

/// Ten thousand creates, every hundredth of which the kernel must refuse (reply tuple of a live entry, kept), and
/// every 97th of which is no possible entry: exactly these are reported, all others are there.
#[test]
fn netns_failures_are_attributed() -> Result<()> {
    let namespace = Netns::new("bulk")?;
    namespace.enter(|| -> Result<()> {
        let (mut writer, mut dump) = (Writer::open()?, DumpSource::open()?);
        let blocker = Flow {
            reply: tuple("10.2.0.1", "10.2.0.210", 6, (PORT, 7000)),
            ..with_status(plain(tuple("10.9.9.9", "10.2.0.1", 6, (7, PORT))), status::SRC_NAT)
        };
        write_all(&mut writer, &[Write::Create(blocker.clone())]);
        let flows: Vec<Flow> = (0..10_000u32)
            .map(|n| {
                let source = Ipv4Addr::from(0x0a01_0000 + n / 1000);
                let port = 1024 + u16::try_from(n % 1000).unwrap();
                let mut flow = plain(tuple(&source.to_string(), "10.2.0.1", 6, (port, PORT)));
                if n % 100 == 0 {
                    flow = Flow { reply: blocker.reply, ..with_status(flow, status::SRC_NAT) };
                } else if n % 97 == 0 {
                    flow.key.original.destination = "2001:db8::1".parse().unwrap();
                }
                flow
            })
            .collect();
        let creates: Vec<Write> = flows.iter().cloned().map(Write::Create).collect();
        let mut failed = HashMap::new();
        writer.apply(&creates, Conflict::KeepLive, |outcome| match outcome {
            Outcome::Failed { write, errno } => assert_eq!(failed.insert(*write.key(), errno), None),
            Outcome::Kept(live) => assert_eq!(live.key, blocker.key),
            other => panic!("{other:?}"),
        });
        let entries = table(&mut dump)?;
        for (n, flow) in flows.iter().enumerate() {
            let expected = match n {
                n if n % 100 == 0 => Some(&libc::EEXIST),
                n if n % 97 == 0 => Some(&libc::EINVAL),
                _ => None,
            };
            assert_eq!(failed.get(&flow.key), expected, "{n}");
            assert_eq!(entries.contains_key(&flow.key), expected.is_none(), "{n}");
        }
        Ok(())
    })?
}

/// A flow whose place is taken replaces what stands there (other translation, other flow with the same reply tuple),
/// unless this node forwards and the entry lives; an equal entry is updated in place.
#[test]
fn netns_conflicts_are_resolved() -> Result<()> {
    let namespace = Netns::new("conf")?;
    namespace.enter(|| -> Result<()> {
        let (mut writer, mut dump) = (Writer::open()?, DumpSource::open()?);
        let original = tuple("10.1.0.1", "10.2.0.1", 6, (5000, PORT));
        let nat = |port| Flow {
            reply: tuple("10.2.0.1", "10.2.0.210", 6, (PORT, port)),
            ..with_status(plain(original), status::SRC_NAT)
        };
        write_all(&mut writer, &[Write::Create(nat(1))]);
        let first = table(&mut dump)?[&nat(1).key].id;

        // The same flow again: the entry stays, its mark changes.
        write_all(&mut writer, &[Write::Create(Flow { mark: 5, ..nat(1) })]);
        let entry = table(&mut dump)?[&nat(1).key].clone();
        assert_eq!((entry.id, entry.mark), (first, 5));

        // Another translation on a node that forwards: kept; on one that does not: replaced.
        let mut kept = Vec::new();
        writer.apply(&[Write::Create(nat(2))], Conflict::KeepLive, |outcome| match outcome {
            Outcome::Kept(live) => kept.push(live.reply.destination_port),
            Outcome::Failed { errno, .. } => assert_eq!(errno, libc::EEXIST),
            other => panic!("{other:?}"),
        });
        assert_eq!(kept, [1]);
        write_all(&mut writer, &[Write::Create(nat(2))]);
        assert_same(&table(&mut dump)?[&nat(2).key], &nat(2));

        // Another flow needs the same reply tuple: the old one is removed and named.
        let mut other = nat(2);
        other.key.original.source = "10.1.0.77".parse()?;
        let mut removed = Vec::new();
        writer.apply(&[Write::Create(other.clone())], Conflict::Replace, |outcome| match outcome {
            Outcome::Removed(live) => removed.push(live.key),
            other => panic!("{other:?}"),
        });
        assert_eq!(removed, [nat(2).key]);
        let entries = table(&mut dump)?;
        assert!(!entries.contains_key(&nat(2).key));
        assert_same(&entries[&other.key], &other);
        Ok(())
    })?
}

/// Updates change mark, timeout and TCP state; a missing flow is told of; a status older than the entry's and a fixed
/// timeout do not stop the rest.
#[test]
fn netns_updates() -> Result<()> {
    let namespace = Netns::new("upd")?;
    namespace.enter(|| -> Result<()> {
        let (mut writer, mut dump) = (Writer::open()?, DumpSource::open()?);
        let flow = plain(tuple("10.1.0.1", "10.2.0.1", 6, (5000, PORT)));
        let mut missing = Vec::new();
        writer.apply(&[Write::Update(flow.clone())], Conflict::Replace, |outcome| match outcome {
            Outcome::Failed { errno, .. } => missing.push(errno),
            other => panic!("{other:?}"),
        });
        assert_eq!((missing, table(&mut dump)?.len()), (vec![libc::ENOENT], 0));
        write_all(&mut writer, &[Write::Create(flow.clone())]);
        let id = table(&mut dump)?[&flow.key].id;

        let closing = Flow { mark: 9, timeout: 60, tcp: Some(Tcp { state: 4, ..flow.tcp.unwrap() }), ..flow.clone() };
        write_all(&mut writer, &[Write::Update(closing.clone())]);
        assert_same(&table(&mut dump)?[&flow.key], &closing);

        let stale = Flow { status: status::CONFIRMED, mark: 10, ..closing.clone() };
        write_all(&mut writer, &[Write::Update(stale.clone())]);
        let entry = table(&mut dump)?[&flow.key].clone();
        assert_same(&entry, &Flow { status: flow.status, ..stale.clone() });
        assert_eq!(entry.id, id);

        let mut fixed = plain(tuple("10.1.0.2", "10.2.0.1", 17, (5000, 53)));
        fixed.status |= status::FIXED_TIMEOUT;
        write_all(&mut writer, &[Write::Create(fixed.clone())]);
        write_all(&mut writer, &[Write::Update(Flow { mark: 11, timeout: 30, ..fixed.clone() })]);
        assert_same(&table(&mut dump)?[&fixed.key], &Flow { mark: 11, ..fixed.clone() });
        let counters = writer.counters();
        assert_eq!((counters["update"]["ENOENT"], counters["update"]["EBUSY"], counters["update"]["EPERM"]), (1, 1, 1));
        Ok(())
    })?
}

/// Events of our own writes are not heard, those of others are: new, change and destruction with their ids.
#[test]
fn netns_own_writes_make_no_events() -> Result<()> {
    let namespace = Netns::new("own")?;
    namespace.enter(|| -> Result<()> {
        sysctl::enable_events()?;
        let (mut ours, mut theirs, mut dump) = (Writer::open()?, Writer::open()?, DumpSource::open()?);
        let mut events = EventSource::open(ours.port(), MIB, MIB)?;
        let mine = plain(tuple("10.1.0.1", "10.2.0.1", 6, (5000, PORT)));
        let foreign = plain(tuple("10.1.0.2", "10.2.0.1", 6, (5000, PORT)));
        write_all(
            &mut ours,
            &[Write::Create(mine.clone()), Write::Update(mine.clone()), Write::Delete { key: mine.key, id: 0 }],
        );
        write_all(&mut theirs, &[Write::Create(foreign.clone())]);
        let id = table(&mut dump)?[&foreign.key].id;
        write_all(&mut theirs, &[Write::Update(Flow { mark: 3, ..foreign.clone() })]);
        write_all(&mut theirs, &[Write::Delete { key: foreign.key, id }]);
        let (seen, destroyed) = observe(&mut events, Duration::from_millis(100));
        assert_eq!(seen.keys().collect::<Vec<_>>(), [&foreign.key]);
        assert_same(&seen[&foreign.key], &Flow { mark: 3, ..foreign.clone() });
        assert_eq!(destroyed.iter().map(|flow| (flow.key, flow.id)).collect::<Vec<_>>(), [(foreign.key, id)]);
        assert_eq!(events.stats().malformed, 0);
        Ok(())
    })?
}

/// A receive buffer that is too small loses events: this is told once, after what was still there, and counted; the buffer
/// grows, but not past its limit.
#[test]
fn netns_overflow_is_told() -> Result<()> {
    let namespace = Netns::new("loss")?;
    namespace.enter(|| -> Result<()> {
        sysctl::enable_events()?;
        let mut theirs = Writer::open()?;
        let mut events = EventSource::open(u32::MAX, 8 * 1024, 16 * 1024)?;
        for round in 0..3u16 {
            let creates: Vec<Write> = (0..250)
                .map(|n| Write::Create(plain(tuple("10.1.0.1", "10.2.0.1", 17, (1000 + round * 250 + n, 53)))))
                .collect();
            write_all(&mut theirs, &creates);
            let (mut changed, mut lost) = (0, 0);
            while events.read(|event| match event {
                Event::Changed(_) => {
                    assert_eq!(lost, 0, "the kernel drops events until the buffer is empty: too early to tell");
                    changed += 1;
                }
                Event::Lost => lost += 1,
                Event::Destroyed(_) | Event::Expected { .. } | Event::Unexpected { .. } => panic!("{event:?}"),
            }) {}
            assert!(lost == 1 && changed < 250, "round {round}: {changed} read, told {lost} times");
        }
        assert_eq!(events.stats().overflows, 3);
        assert_eq!(events.stats().buffer_bytes, 16 * 1024);
        Ok(())
    })?
}
