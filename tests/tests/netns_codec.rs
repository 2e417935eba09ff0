//! What the daemon reads of the kernel's table against what `conntrack` lists of it, field by field, for more than ten
//! thousand entries of every protocol: made by real packets, and by conntrack itself. Needs root.

use anyhow::{Context, Result, ensure};
use ha_common::sync::flow::{Flow, Tuple, ZoneDirection, status};
use ha_tests::conntrack::replica::Fields;
use ha_tests::conntrack::xml;
use ha_tests::netns::Netns;
use ha_tests::traffic::dialogue::raw;
use ha_tests::traffic::icmp::{ECHO_REQUEST, Echo};
use ha_user::conntrack::dump::{DumpSource, Progress};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const ENTRIES_MIN: usize = 10_000;
/// Between the two readings of the table.
const SECONDS_APART: u32 = 20;

const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const SCTP: u8 = 132;

/// Tracks everything, and gives marks, labels, zones and translations to some of it by port.
const RULES: &str = "
table inet t {
  chain zones {
    type filter hook output priority raw;
    udp dport 9100-9199 ct zone set 7
    udp dport 9200-9249 ct original zone set 8
  }
  chain marks {
    type filter hook output priority mangle;
    udp dport 9300-9499 ct mark set numgen inc mod 1000
    udp dport 9400-9499 ct label set 5
    udp dport 9410-9450 ct label set 0
    udp dport 9420-9460 ct label set 31
    udp dport 9430-9470 ct label set 32
    udp dport 9440-9480 ct label set 96
    tcp dport 9001 ct label set 127
  }
  chain nat {
    type nat hook output priority -100;
    udp dport 9500-9699 redirect to :9009
  }
}
";

/// A namespace with a loopback that packets are sent over, and time-outs that the test does not see the end of.
fn namespace() -> Result<Netns> {
    let namespace = Netns::new("codec")?;
    namespace.ip("link set lo up")?;
    namespace.run_with_input("nft", &["-f", "-"], RULES)?;
    for name in
        ["udp_timeout", "generic_timeout", "icmp_timeout", "icmpv6_timeout", "tcp_timeout_time_wait", "gre_timeout"]
    {
        namespace.sysctl(&format!("net.netfilter.nf_conntrack_{name}"), "900")?;
    }
    // Local SCTP and UDP-Lite packets have their checksums yet to come.
    namespace.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    Ok(namespace)
}

/// Entries made by packets: UDP, ICMP, TCP in several states, and protocols that no tracker knows. What is held keeps
/// connections open.
fn packets(namespace: &Netns) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for local in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        // Eight hundred flows, half of them answered.
        namespace.enter(|| -> Result<()> {
            let client = UdpSocket::bind((local, 0))?;
            for port in 9000..9800 {
                let server = UdpSocket::bind((local, port))?;
                client.send_to(b"?", (local, port))?;
                if port % 2 == 0 && !(9100..9250).contains(&port) && !(9500..9700).contains(&port) {
                    server.send_to(b"!", client.local_addr()?)?;
                }
            }
            Ok(())
        })??;
        let streams = namespace.enter(|| -> Result<Vec<TcpStream>> {
            let listener = TcpListener::bind((local, 9001))?;
            let mut open = Vec::new();
            for n in 0..100 {
                let client = TcpStream::connect((local, 9001))?;
                let (server, _) = listener.accept()?;
                match n % 3 {
                    0 => open.extend([client, server]),
                    1 => client.shutdown(std::net::Shutdown::Write)?,
                    _ => {}
                }
            }
            // Nobody listens there.
            for _ in 0..20 {
                ensure!(TcpStream::connect((local, 9002)).is_err(), "somebody listens on port 9002");
            }
            Ok(open)
        })??;
        held.extend(streams);
        for protocol in [51, 99, 103, 253, 254] {
            let socket = raw(namespace, local, protocol)?;
            // Each protocol has one entry for a pair of addresses.
            socket.send_to(&[0; 20], SocketAddr::new(local, 0))?;
        }
    }
    let echoes = raw(namespace, Ipv4Addr::LOCALHOST.into(), 1)?;
    for identifier in 1..=200 {
        let request = Echo { kind: ECHO_REQUEST, identifier, sequence: 1, payload: b"codec" }.bytes();
        echoes.send_to(&request, (Ipv4Addr::LOCALHOST, 0))?;
    }
    Ok(held)
}

/// As many entries of each protocol as `conntrack` can make, with translations, marks, labels, zones and states.
fn by_conntrack() -> String {
    let mut lines = String::new();
    for n in 0..1200u32 {
        let (v4, v6) = (format!("10.{}.{}.1", 1 + n / 200, n % 200), format!("2001:db8::{:x}", n + 1));
        let (port, mark, zone) = (1000 + n, n * 0x0101, n % 5);
        let state = ["SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"];
        let seen = ["", "-u SEEN_REPLY", "-u SEEN_REPLY,ASSURED"][n as usize % 3];
        let nat = match n % 4 {
            0 => format!("--src-nat 192.0.2.1:{}", 20_000 + n),
            1 => "--dst-nat 192.0.2.9:8080".to_owned(),
            2 => "--src-nat 192.0.2.7".to_owned(),
            _ => String::new(),
        };
        let nat6 = if n % 4 == 1 { "--dst-nat [2001:db8:9::9]:8080" } else { "" };
        let common = format!("-t {} -m {mark}", 3000 + n);
        let state = state[n as usize % state.len()];
        for line in [
            format!("-p tcp -s {v4} -d 10.200.0.1 --sport {port} --dport 80 --state {state} {seen} {nat}"),
            format!(
                "-p tcp -s {v6} -d 2001:db8:1::1 --sport {port} --dport 80 --state {state} {seen} {nat6} -w {zone}"
            ),
            format!("-p udp -s {v4} -d 10.200.0.1 --sport {port} --dport 53 {seen} {nat} -w {zone}"),
            format!("-p udp -s {v6} -d 2001:db8:1::1 --sport {port} --dport 53 {seen} {nat6}"),
            format!(
                "-p icmp -s {v4} -d 10.200.0.1 --icmp-type {} --icmp-code 0 --icmp-id {port}",
                [8, 13][n as usize % 2]
            ),
            format!("-p icmpv6 -s {v6} -d 2001:db8:1::1 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id {port}"),
            format!(
                "-p sctp -s {v4} -d 10.200.0.1 --sport {port} --dport 36412 --state ESTABLISHED --orig-vtag {port} --reply-vtag 7"
            ),
            format!("-p gre -s {v4} -d 10.200.0.1 --srckey {port} --dstkey {}", n % 7),
            format!("-p udplite -s {v4} -d 10.200.0.1 --sport {port} --dport 53 {seen}"),
            format!("-p {} -s {v4} -d 10.200.0.1 -w {zone}", [50, 51, 89, 253][n as usize % 4]),
        ] {
            writeln!(lines, "-I {line} {common}").expect("a string takes it");
        }
    }
    for n in 0..200 {
        let direction = if n % 2 == 0 { "--orig-zone" } else { "--reply-zone" };
        writeln!(lines, "-I -p udp -s 10.99.0.1 -d 10.200.0.1 --sport {} --dport 53 {direction} 9 -t 3000", 1000 + n)
            .expect("a string takes it");
    }
    lines
}

/// The table as the daemon reads it, by the kernel's id.
fn read() -> Result<HashMap<u32, Flow>> {
    let mut dump = DumpSource::open()?;
    let mut flows = HashMap::new();
    dump.start()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let progress = dump.read(|flow| drop(flows.insert(flow.id, flow.clone())));
        match progress {
            Progress::Ended { complete: true } => break,
            Progress::Ended { complete: false } => dump.start()?,
            Progress::Running | Progress::Idle => ensure!(Instant::now() < deadline, "the dump does not end"),
        }
    }
    ensure!(dump.malformed() == 0, "{} entries were not understood", dump.malformed());
    Ok(flows)
}

/// The flow as conntrack would list it, but for the time left and how often the entry is referred to.
fn listed(flow: &Flow) -> Fields {
    let extra = flow.extra.clone().unwrap_or_default();
    let mut fields = Fields::new();
    let mut put = |name: &str, value: String| drop(fields.insert(name.to_owned(), value));
    for (direction, tuple) in [("original", &flow.key.original), ("reply", &flow.reply)] {
        for (name, value) in of_tuple(tuple) {
            put(&format!("{direction}/{name}"), value);
        }
    }
    match extra.zone_direction {
        ZoneDirection::Both if flow.key.zone == 0 => {}
        ZoneDirection::Both => put("independent/zone", flow.key.zone.to_string()),
        ZoneDirection::Original => put("original/zone", flow.key.zone.to_string()),
        ZoneDirection::Reply(zone) => put("reply/zone", zone.to_string()),
    }
    if let Some(state) = flow.tcp.map(|tcp| tcp.state).or(extra.sctp.map(|sctp| sctp.state)) {
        put("independent/state", state_name(state).to_owned());
    }
    put("independent/mark", flow.mark.to_string());
    put("independent/id", flow.id.to_string());
    if flow.status & status::SEEN_REPLY == 0 {
        put("independent/unreplied", "yes".to_owned());
    }
    if flow.status & status::ASSURED != 0 {
        put("independent/assured", "yes".to_owned());
    }
    let labels = extra.labels.unwrap_or_default();
    let is_set = |label: &usize| labels[label / 32] >> (label % 32) & 1 == 1;
    let labels: Vec<String> = (0..128).filter(is_set).map(|label| label.to_string()).collect();
    if !labels.is_empty() {
        put("independent/labels/label", labels.join(" "));
    }
    fields
}

fn of_tuple(tuple: &Tuple) -> Vec<(&'static str, String)> {
    let (family, name) = if tuple.source.is_ipv4() { ("2", "ipv4") } else { ("10", "ipv6") };
    let mut fields = vec![
        ("layer3@protonum", family.to_owned()),
        ("layer3@protoname", name.to_owned()),
        ("layer3/src", tuple.source.to_string()),
        ("layer3/dst", tuple.destination.to_string()),
        ("layer4@protonum", tuple.protocol.to_string()),
        ("layer4@protoname", protocol_name(tuple.protocol).to_owned()),
    ];
    let (source, destination) = (tuple.source_port, tuple.destination_port);
    match tuple.protocol {
        TCP | UDP | SCTP | 136 | 33 => {
            fields.extend([("layer4/sport", source.to_string()), ("layer4/dport", destination.to_string())]);
        }
        GRE => {
            fields.extend([("layer4/srckey", format!("{source:#x}")), ("layer4/dstkey", format!("{destination:#x}"))])
        }
        1 | 58 => fields.push(("icmp", format!("{}/{}/{source}", destination >> 8, destination & 0xff))),
        _ => {}
    }
    fields
}

/// The names that conntrack has for protocols.
fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        1 => "icmp",
        TCP => "tcp",
        UDP => "udp",
        33 => "dccp",
        GRE => "gre",
        58 => "icmpv6",
        SCTP => "sctp",
        136 => "udplite",
        _ => "unknown",
    }
}

/// The names that conntrack has for states: it lists those of SCTP by TCP's names.
fn state_name(state: u8) -> &'static str {
    let names = [
        "NONE",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    names.get(usize::from(state)).copied().unwrap_or("?")
}

/// Takes the time left out of a listed entry, and what counts references; addresses are written as this language does.
fn comparable(mut fields: Fields) -> Result<(u32, u32, Fields)> {
    let mut number = |name: &str| fields.remove(name).with_context(|| format!("no {name}"));
    let timeout = number("independent/timeout")?.parse()?;
    number("independent/use")?;
    let id = fields.get("independent/id").context("no id")?.parse()?;
    for name in ["original/layer3/src", "original/layer3/dst", "reply/layer3/src", "reply/layer3/dst"] {
        if let Some(address) = fields.get_mut(name) {
            *address = address.parse::<IpAddr>()?.to_string();
        }
    }
    Ok((id, timeout, fields))
}

/// More than 10,000 entries, made by packets and by conntrack: both readers have the same entries with the same fields.
/// Every protocol, translation, mark, label, zone and state was among them.
#[test]
fn netns_codec_agrees_with_conntrack() -> Result<()> {
    let namespace = namespace()?;
    let _held = packets(&namespace)?;
    xml::load(&namespace, &by_conntrack())?;
    let ours = namespace.enter(read)??;
    let theirs = xml::flows(&namespace)?;
    ensure!(theirs.len() >= ENTRIES_MIN, "there are only {} entries", theirs.len());
    ensure!(ours.len() == theirs.len(), "{} entries are read and {} listed", ours.len(), theirs.len());
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for fields in theirs {
        let (id, timeout, fields) = comparable(fields)?;
        let flow = ours.get(&id).with_context(|| format!("entry {id} is not read: {fields:?}"))?;
        ensure!(listed(flow) == fields, "{flow:?}\nis listed as {fields:#?}\nand not as {:#?}", listed(flow));
        ensure!(
            flow.timeout.abs_diff(timeout) <= SECONDS_APART,
            "{} and {timeout} s are left of {flow:?}",
            flow.timeout
        );
        for (name, value) in fields {
            let seen = seen.entry(name).or_default();
            if seen.len() < 200 {
                seen.insert(value);
            }
        }
    }
    println!("{} entries agree, of protocols {:?}", ours.len(), seen["original/layer4@protonum"]);
    let protocols = ["1", "6", "17", "47", "58", "132", "136", "50", "51", "253"];
    let names = seen["original/layer4@protonum"].clone();
    ensure!(protocols.iter().all(|protocol| names.contains(*protocol)), "a protocol is missing: {names:?}");
    ensure!(seen["independent/state"].len() >= 8, "a state is missing: {:?}", seen["independent/state"]);
    for name in ["independent/zone", "original/zone", "reply/zone", "independent/labels/label", "independent/assured"] {
        ensure!(seen.contains_key(name), "no entry has {name}");
    }
    ensure!(ours.values().any(|flow| flow.status & status::DST_NAT != 0), "nothing is translated");
    ensure!(seen["independent/mark"].len() > 100, "hardly an entry has a mark");
    Ok(())
}
