//! First inputs for the fuzzer, made of captures, of what two nodes say to each other, of this kernel's own tables and of
//! the packaged configuration: `cargo run -p ha-fuzz --example seeds -- DIRECTORY`, as root for the kernel's part.
//!
//! They need not be kept: `cargo xtask fuzz --keep` replaces what it is given by the smallest inputs that reach the same.

use ha_common::proto::{self, change::Kind as Change};
use ha_common::role::Role;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_common::sync::{Action, Engine, Input, LinkId};
use ha_common::time::Instant;
use ha_common::wire::frame::{Header, Kind};
use ha_common::wire::heartbeat::{self, Heartbeat, Standing};
use ha_common::wire::{arp, ndisc};
use ha_fuzz::{DATA, EVENT, HELLO, RAW, WAIT, node_config, record};
use ha_user::conntrack::attribute::Builder;
use ha_user::conntrack::{encode, uapi};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use prost::Message;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Seeds {
    directory: PathBuf,
    count: usize,
}

impl Seeds {
    fn put(&mut self, target: &str, input: &[u8]) {
        let directory = self.directory.join(target);
        fs::create_dir_all(&directory).expect("a directory for the seeds");
        self.count += 1;
        fs::write(directory.join(format!("seed-{:04}", self.count)), input).expect("room for a seed");
    }
}

fn main() {
    let directory = std::env::args_os().nth(1).expect("the directory to put the seeds into");
    let mut seeds = Seeds { directory: directory.into(), count: 0 };
    frames(&mut seeds);
    conversations(&mut seeds);
    bodies(&mut seeds);
    texts(&mut seeds);
    steps(&mut seeds);
    if let Err(error) = kernel(&mut seeds) {
        eprintln!("nothing of this kernel's tables: {error}");
    }
    println!("{} seeds", seeds.count);
}

/// Captured frames of ucarp's, and what asks for addresses.
fn frames(seeds: &mut Seeds) {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pcaps");
    for entry in fs::read_dir(captures).expect("the captures are in the repository") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a capture");
        let mut rest = bytes.get(24..).unwrap_or_default();
        while let Some(length) = rest.get(8..12) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            seeds.put("packet", rest.get(16..16 + length).unwrap_or_default());
            rest = rest.get(16 + length..).unwrap_or_default();
        }
    }
    let mac = [2, 0, 0, 0, 0, 1];
    seeds.put("packet", &arp::gratuitous(arp::Form::Request, mac, Ipv4Addr::new(192, 168, 103, 210)));
    seeds.put("packet", &ndisc::unsolicited(mac, "fd00:103::210".parse().expect("a constant")));
    let beat = Heartbeat {
        kind: heartbeat::Kind::Probe,
        sender: 0,
        target: 1,
        path: 2,
        key_epoch: 7,
        session: 5,
        sequence: 1,
        sent_ns: 1,
        other_session: 6,
        term: 0x1ff,
        standing: Standing { role: heartbeat::ROLE_MASTER, advbase: 1, ..Standing::default() },
        beat_age_us: 5,
        lease_left_us: 40_000,
    };
    let frame = heartbeat::emit(heartbeat::GROUP_MAC, mac, &beat.seal([1, 2]));
    seeds.put("heartbeat", &[&[0], &frame[..]].concat());
    seeds.put("heartbeat", &[1; 150]);
    seeds.put("packet", &frame);
}

/// What two nodes say to each other, as strangers could have recorded it.
fn conversations(seeds: &mut Seeds) {
    let mut nodes = [0, 1].map(|node| Engine::new(node_config(node, 0), 5));
    let mut now = Instant(1_000_000_000);
    let mut said = Vec::new();
    for round in 0..40u8 {
        now = now + Duration::from_millis(5);
        for from in [0, 1] {
            let mut actions = Vec::new();
            nodes[from].handle(now, Input::Role([Role::Master, Role::Backup][from]), &mut actions);
            if from == 0 {
                nodes[0].handle(now, Input::Changed(&flow(round)), &mut actions);
            }
            nodes[from].handle(now, Input::Timer, &mut actions);
            for action in &actions {
                if let Action::Send { datagram, .. } = action {
                    nodes[1 - from].handle(now, Input::Datagram { link: LinkId(0), bytes: datagram }, &mut Vec::new());
                    said.push(datagram.clone());
                }
            }
        }
    }
    for (at, datagram) in said.iter().enumerate().take(60) {
        let header = Header::parse(datagram).expect("an engine sends frames");
        let kind = Kind::ALL.iter().position(|kind| *kind == header.kind).unwrap_or(0) as u8;
        let framed = [&[kind, header.sender, 1, header.target, 1, at as u8][..], &datagram[32..]].concat();
        let steps =
            [record(RAW, datagram), record(6, &framed), record(WAIT, &[224, 1]), record(EVENT, &[0, 3, 0, 0, 0])];
        seeds.put("datagram", &[&[at as u8], &steps.concat()[..]].concat());
        seeds.put("packet", datagram);
    }
}

fn flow(n: u8) -> Flow {
    let original = Tuple {
        source: [10, 0, 0, n].into(),
        destination: [192, 0, 2, 1].into(),
        protocol: 6,
        source_port: 4000,
        destination_port: 80,
    };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: Tuple { destination: [203, 0, 113, 1].into(), ..original.inverse() },
        status: status::SEEN_REPLY | status::ASSURED,
        timeout: 100,
        mark: 1,
        tcp: Some(Tcp { state: 3, wscale: [7, 7], flags: [3, 3] }),
        id: 7,
        extra: None,
    }
}

/// Every message that a peer can send, with all of its parts.
fn bodies(seeds: &mut Seeds) {
    let tuple = proto::Tuple {
        source: 0x0a00_0001,
        destination: 0xc000_0201,
        source_port: 4000,
        destination_port: 21,
        ..Default::default()
    };
    let key = proto::Key { protocol: 6, original: Some(tuple), ..Default::default() };
    let expectation = proto::Expectation {
        protocol: 6,
        tuple: Some(tuple),
        mask: Some(proto::Tuple { source: u32::MAX, ..Default::default() }),
        timeout: 300,
        helper: "ftp".into(),
        nat: Some(proto::ExpectedNat { direction: 1, source: Some(tuple) }),
        function: "nat-follow-master".into(),
        ..Default::default()
    };
    let extra = proto::Extra {
        sctp: Some(proto::Sctp { state: 3, original: 1, reply: 2 }),
        labels: vec![1, 2, 3, 4],
        helper: "ftp".into(),
        master: Some(key),
        original: Some(proto::SequenceAdjustment { position: 1, before: -1, after: 5 }),
        synproxy: Some(proto::Synproxy { isn: 1, its: 2, timestamp_offset: 3 }),
        expectations: vec![expectation],
        ..Default::default()
    };
    let plain = proto::Flow {
        key: Some(key),
        version: 5,
        status: 6,
        timeout: 100,
        tcp: Some(proto::Tcp { state: 3, wscale: 0x77, flags: 0x0303 }),
        ..Default::default()
    };
    let rich =
        proto::Flow { extra: Some(Box::new(extra)), reply: Some(tuple), handover: true, version: 6, ..plain.clone() };
    let changes = [
        Change::Upsert(plain),
        Change::Upsert(rich),
        Change::Removal(proto::Removal { key: Some(key), version: 9 }),
        Change::Want(key),
        Change::BulkEnd(proto::BulkEnd { epoch: 1, answers: 1, flows: 2, master: true, ..Default::default() }),
        Change::BulkEnd(proto::BulkEnd { epoch: 1, answers: 1, buckets: vec![u64::MAX; 64], ..Default::default() }),
        Change::Digest(proto::Digest { round: 1, group: 0, sums: vec![5; 64], moving: Vec::new() }),
        Change::Digest(proto::Digest { round: 1, group: 3, sums: vec![5; 64], moving: vec![1] }),
        Change::DigestAnswer(proto::DigestAnswer { round: 1, group: 0, differs: 7, unknown: false }),
    ];
    let mut all = Vec::new();
    for change in changes {
        let data = proto::Data { floor: 1, epoch: 1, changes: vec![proto::Change { kind: Some(change) }] };
        let body = data.encode_to_vec();
        seeds.put("message", &[&[1], &body[..]].concat());
        let step = record(DATA, &[&[0], &body[..]].concat());
        all.extend(step.clone());
        let local = [record(EVENT, &[0, 3, 0, 0, 0]), record(WAIT, &[240, 0, 1, 0, 0, 0, 0, 0, 0])].concat();
        seeds.put("sealed", &[&[1], &step[..], &local, &step].concat());
    }
    for choice in 0..48 {
        seeds.put("sealed", &[&[choice], &all[..]].concat());
    }
    let hello = proto::Hello {
        version: 2,
        min_version: 1,
        capabilities: 0xff,
        challenge: 5,
        accepted: 1,
        keys: vec![1 << 56],
        ..Default::default()
    };
    let ack = proto::Ack { base: 5, later: vec![3, 9], sent: 7 };
    seeds.put("message", &[&[0], &hello.encode_to_vec()[..]].concat());
    seeds.put("message", &[&[2], &ack.encode_to_vec()[..]].concat());
    let steps = [
        record(HELLO, &[&[0], &hello.encode_to_vec()[..]].concat()),
        record(2, &[&[0], &ack.encode_to_vec()[..]].concat()),
    ];
    seeds.put("sealed", &[&[1], &steps.concat()[..]].concat());
    for event in 0..16 {
        let steps = [record(EVENT, &[0, 3, 0, 0, 0]), record(EVENT, &[event, 3, 0, 0, 0]), all.clone()].concat();
        seeds.put("sealed", &[&[5], &steps[..]].concat());
    }
}

fn texts(seeds: &mut Seeds) {
    let packaged = include_str!("../../../packaging/twinwall.toml");
    seeds.put("config", packaged.as_bytes());
    // What the documentation shows, piece by piece behind the packaged file.
    let documentation = include_str!("../../../docs/configuration.md");
    for example in documentation.split("```toml\n").skip(1).filter_map(|part| part.split("```").next()) {
        seeds.put("config", example.as_bytes());
        seeds.put("config", format!("{packaged}\n{example}").as_bytes());
    }
    for line in documentation.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = line.split('`').next().unwrap_or_default();
        seeds.put("config", format!("{packaged}\n{name} = 1\n").as_bytes());
    }
    let digits = "ab".repeat(32);
    seeds.put("secret", format!("twinwall-secret-v1 7 {digits}\n").as_bytes());
    seeds.put("secret", format!("twinwall-secret-v1 7 {digits}\n\ntwinwall-secret-v1 8 {digits}\n").as_bytes());
    seeds.put("secret", b"twinwall-secret-v1 0 abc\n");
    let requests = [
        r#"{"request":"status"}"#,
        r#"{"request":"flows","limit":5}"#,
        r#"{"request":"demote","cause":"works","weight":3,"seconds":60}"#,
        r#"{"request":"failover","to":"fw1","force":false,"wait":true,"timeout_ms":5000}"#,
        r#"{"request":"maintenance","on":true,"force":false}"#,
        r#"{"request":"stop","keep_role":true}"#,
        r#"{"request":"reload"}"#,
        r#"{"request":"resync"}"#,
    ];
    requests.iter().for_each(|line| seeds.put("request", line.as_bytes()));
    let replies = [
        r#"{"error":"no"}"#,
        r#""done""#,
        r#"{"stopping":{"pid":7}}"#,
        r#"{"flows":[{"owner":"peer","protocol":"tcp","state":"ESTABLISHED","timeout":5,"original":"a > b","reply":"b > a","nat":"none","mark":0,"zone":0}]}"#,
        r#"{"maintenance":{"set":{"took_ms":1.5}}}"#,
    ];
    replies.iter().for_each(|line| seeds.put("reply", line.as_bytes()));
}

/// Steps for the state machines, each kind some times.
fn steps(seeds: &mut Seeds) {
    for choice in 0..16u8 {
        let head = [1, choice, 3, choice, 5];
        let steps: Vec<u8> = (0..24u8)
            .flat_map(|step| {
                let kind = [2, 2, 0, 1, 4, 0, 1, 5, 6, 7, 3, 4][usize::from(step % 12)];
                record(kind, &[step % 2, choice & 2, 1, 100, 0, step, 2, 0, 8, 0, 0, 1, 1, 100])
            })
            .collect();
        seeds.put("election", &[&head[..], &steps].concat());
        let steps: Vec<u8> = (0..24u8)
            .flat_map(|step| {
                record(step % 4, &[0, 1, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, step % 3, step, step])
            })
            .collect();
        seeds.put("heartbeat", &[&[2, 10, 5, 200][..], &steps].concat());
        let events: Vec<u8> = (0..8u8)
            .flat_map(|event| {
                record(event, &[event & 3, [6, 17, 1, 58][usize::from(event & 3)], event * 16, 5, 1, 2, 3, 4, 9, 3])
            })
            .collect();
        let filter = [choice, choice * 16, choice % 4, choice % 3, 0, 24, 16, 1, 64, 1, 0, 32, 32, 0, 8, 40];
        seeds.put("filter", &[&filter[..], &events].concat());
    }
}

/// Dumps of this kernel's connection table, links and addresses, and requests as we write them.
fn kernel(seeds: &mut Seeds) -> std::io::Result<()> {
    let mut request = Builder::default();
    for n in 0..4 {
        encode::create(&mut request, n, &flow(n as u8)).expect("a flow of one family");
    }
    seeds.put("conntrack", request.bytes());
    let answer = |sequence: u32, errno: i32| {
        [
            &20u32.to_ne_bytes()[..],
            &uapi::NLMSG_ERROR.to_ne_bytes(),
            &[0; 2],
            &sequence.to_ne_bytes(),
            &[0; 4],
            &errno.to_ne_bytes(),
        ]
        .concat()
    };
    for errno in [0, -17, -2, -16, i32::MIN] {
        seeds.put(
            "answers",
            &[&5u32.to_le_bytes()[..], &[4], &answer(5, errno), &answer(7, -2), request.bytes()].concat(),
        );
    }
    // CT_GET and EXP_GET, with `struct nfgenmsg`; RTM_GETLINK, RTM_GETADDR and RTM_GETROUTE, with `struct ifinfomsg`.
    for (protocol, kind, target) in [
        (NETLINK_NETFILTER, uapi::CT_GET, "conntrack"),
        (NETLINK_NETFILTER, uapi::EXP_GET, "conntrack"),
        (NETLINK_ROUTE, 18, "route"),
        (NETLINK_ROUTE, 22, "route"),
        (NETLINK_ROUTE, 26, "route"),
    ] {
        let body = if target == "route" { 16 } else { 4 };
        let mut bytes = (16u32 + body).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((uapi::REQUEST | uapi::DUMP).to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.resize(16 + body as usize + 4 - 4, 0);
        dump(seeds, protocol, &bytes, target)?;
    }
    Ok(())
}

fn dump(seeds: &mut Seeds, protocol: isize, request: &[u8], target: &str) -> std::io::Result<()> {
    let mut request = request.to_vec();
    request.resize(u32::from_ne_bytes([request[0], request[1], request[2], request[3]]) as usize, 0);
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some(head) = rest.get(..16) {
            let length = (u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize).clamp(16, rest.len());
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            if kind == 3 || kind == uapi::NLMSG_ERROR {
                return Ok(());
            }
            seeds.put(target, &rest[..length]);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
