//! `[sync.filter]` on a pair with the real conntrack: each criterion decides what is on the standby, and `reload` changes it.

use ha_common::sync::flow::{Flow, FlowKey, Tuple, status};
use ha_tests::conntrack::table;
use ha_tests::daemon::{Settings, sample, scrape};
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{Naming, Node, SERVER};
use ha_tests::traffic::flood::Flood;
use ha_user::conntrack::writer::{Conflict, Write, Writer};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Where the flows of `conntrack -I` come from: no address of the lab.
const SOURCE: &str = "10.99.1.1";
const PATIENCE: Duration = Duration::from_secs(5);
/// The lab's own `[sync.filter]`, which the tests replace.
const LAB_FILTER: &str = r#"protocols = ["tcp", "udp", "icmp"]"#;

/// A pair that nothing moves: it is not the election that is tested, and without heartbeats a busy machine moves no role.
fn started(filter: &str) -> Lab {
    let settings = Settings { extra: "[heartbeat]\nenabled = false\n".to_owned(), ..Settings::default() };
    let mut lab = Lab::new(&settings, Naming::OfProcess).unwrap();
    write_filter(&lab, LAB_FILTER, filter);
    lab.start_both().unwrap();
    lab
}

/// Replaces a part of the configuration, which both nodes read.
fn write_filter(lab: &Lab, before: &str, after: &str) {
    let file = lab.dir().join("twinwall.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(before), "{before:?} is not in {text}");
    fs::write(&file, text.replace(before, after)).unwrap();
}

/// `twinwall reload` on one node: exit code, and what it printed.
fn reload(lab: &Lab, node: Node) -> (i32, String) {
    let output = lab.files(node).command(&["reload"]).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn conntrack(lab: &Lab, node: Node, arguments: &str) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    lab.pair[node].run("conntrack", &arguments).unwrap();
}

/// Inserts an entry on the master: `PROTOCOL PORT`, and further options.
fn insert(lab: &Lab, protocol: &str, port: u16, options: &str) {
    let state = match (protocol, options.contains("--state")) {
        ("tcp", false) => "--state ESTABLISHED",
        _ => "",
    };
    let source = if options.contains("-s ") { String::new() } else { format!("-s {SOURCE}") };
    let flow = format!("-I -p {protocol} {source} -d 10.98.1.1 --sport 5000 --dport {port} -t 300");
    conntrack(lab, Node::Fw1, &format!("{flow} {state} {options}"));
}

/// Destination ports of the inserted flows in a node's kernel.
fn ports(lab: &Lab, node: Node) -> BTreeSet<u16> {
    let lines = table(&lab.pair[node], "dst=10.98.1.1").unwrap();
    let port = |line: &String| line.split_whitespace().find_map(|word| word.strip_prefix("dport="))?.parse().ok();
    lines.iter().filter_map(port).collect()
}

#[track_caller]
fn expect(lab: &Lab, node: Node, expected: &[u16]) {
    let expected: BTreeSet<u16> = expected.iter().copied().collect();
    let mut last = BTreeSet::new();
    wait_until("the flows are as expected", PATIENCE, || {
        last = ports(lab, node);
        last == expected
    })
    .unwrap_or_else(|error| {
        let config = fs::read_to_string(lab.dir().join("twinwall.toml")).unwrap();
        let filter: Vec<&str> = config.lines().skip_while(|line| *line != "[sync.filter]").skip(1).take(1).collect();
        let table = table(&lab.pair[Node::Fw1], "dst=10.98.1.1").unwrap();
        panic!("{last:?} instead of {expected:?} on {} with {filter:?}: {error}\n{table:#?}", node.name())
    });
}

/// Of the flows that are inserted on the master those whose `bool` is true reach the standby, and the others do not: the
/// last one, which passes every filter here, is there when all have been decided.
#[track_caller]
fn decides(lab: &Lab, before: &str, filter: &str, flows: &[(&str, u16, &str, bool)]) {
    write_filter(lab, before, filter);
    for node in Node::BOTH {
        let (code, text) = reload(lab, node);
        assert!(code == 0 && text.contains("in force: sync.filter"), "{code} {text}");
    }
    for (protocol, port, options, _) in flows {
        insert(lab, protocol, *port, options);
    }
    let accepted: Vec<u16> = flows.iter().filter(|flow| flow.3).map(|flow| flow.1).collect();
    assert_eq!(accepted.last(), flows.last().map(|flow| &flow.1), "the last flow is to pass");
    expect(lab, Node::Fw2, &accepted);
    assert_eq!(ports(lab, Node::Fw1).len(), flows.len(), "the master keeps all");
    conntrack(lab, Node::Fw1, "-D -d 10.98.1.1");
    expect(lab, Node::Fw2, &[]);
}

/// Each criterion by itself, put in force by `reload` under a running pair, in the forms of accepting and of ignoring.
#[test]
fn netns_each_criterion_decides_what_arrives() {
    let lab = started(LAB_FILTER);
    let mut before = LAB_FILTER.to_owned();
    let mut case = |filter: &str, flows: &[(&str, u16, &str, bool)]| {
        decides(&lab, &before, filter, flows);
        before = filter.to_owned();
    };
    case(r#"protocols = ["tcp"]"#, &[("udp", 1, "", false), ("tcp", 2, "", true)]);
    case(r#"protocols = { ignore = ["tcp"] }"#, &[("tcp", 1, "", false), ("udp", 2, "", true)]);
    case(
        r#"addresses = { ignore = ["10.99.2.0/24"] }"#,
        &[("tcp", 1, "-s 10.99.2.7", false), ("udp", 2, "-s 10.99.2.8", false), ("tcp", 3, "-s 10.99.3.1", true)],
    );
    case(
        r#"addresses = ["10.99.2.0/24"]"#,
        &[("tcp", 1, "-s 10.99.2.7", true), ("udp", 2, "-s 10.99.3.8", false), ("tcp", 3, "-s 10.99.2.1", true)],
    );
    case(
        r#"ports = ["tcp/443-444", "8000-8999"]"#,
        &[("tcp", 443, "", true), ("udp", 444, "", false), ("tcp", 7999, "", false), ("udp", 8500, "", true)],
    );
    case(r#"ports = { ignore = ["53-54"] }"#, &[("udp", 53, "", false), ("tcp", 54, "", false), ("udp", 55, "", true)]);
    case("zones = { ignore = [7] }", &[("tcp", 1, "-w 7", false), ("tcp", 2, "-w 8", true), ("tcp", 3, "", true)]);
    case("zones = [0]", &[("tcp", 1, "-w 7", false), ("tcp", 3, "", true)]);
    case(
        r#"marks = ["0x10/0xf0"]"#,
        &[
            ("tcp", 1, "-m 0x11", true),
            ("tcp", 2, "-m 0x21", false),
            ("tcp", 3, "", false),
            ("udp", 4, "-m 0x1f", true),
        ],
    );
    case("assured_only = true", &[("udp", 1, "-u SEEN_REPLY", false), ("udp", 2, "-u SEEN_REPLY,ASSURED", true)]);
    case(
        r#"tcp_states = { ignore = ["SYN_SENT", "SYN_RECV"] }"#,
        &[("tcp", 1, "--state SYN_SENT", false), ("tcp", 2, "--state FIN_WAIT", true), ("udp", 3, "", true)],
    );
    let status = lab.status(Node::Fw1).unwrap();
    for reason in ["port", "zone", "mark", "not_assured", "tcp_state"] {
        assert!(status.number(&format!("/sync/events_filtered_by/{reason}")) > 0, "{reason} is not counted");
    }
    let metrics = scrape(&lab.pair[Node::Fw1]).unwrap();
    let marks = sample(&metrics, &["twinwall_conntrack_events_filtered_total", "reason=\"mark\""]);
    assert!(marks.is_some_and(|count| count > 0.0), "{marks:?}");
}

/// What changes while a flow lives: a state that is not listed keeps it away until it is reached, and does not take it
/// back; a mark does both; the end is told in any case.
#[test]
fn netns_a_flow_changes_sides() {
    let lab = started(r#"tcp_states = ["ESTABLISHED"]"#);
    let update = |port: u16, options: &str| {
        let flow = format!("-U -p tcp -s {SOURCE} -d 10.98.1.1 --sport 5000 --dport {port}");
        conntrack(&lab, Node::Fw1, &format!("{flow} {options}"));
    };
    insert(&lab, "tcp", 1, "--state SYN_SENT");
    insert(&lab, "tcp", 2, "--state ESTABLISHED");
    expect(&lab, Node::Fw2, &[2]);
    update(1, "--state ESTABLISHED");
    expect(&lab, Node::Fw2, &[1, 2]);
    update(2, "--state TIME_WAIT");
    wait_until("the closing is followed", PATIENCE, || {
        table(&lab.pair[Node::Fw2], "dport=2").unwrap().iter().any(|line| line.contains("TIME_WAIT"))
    })
    .unwrap();
    write_filter(&lab, r#"tcp_states = ["ESTABLISHED"]"#, "marks = { ignore = [9] }");
    reload(&lab, Node::Fw1);
    expect(&lab, Node::Fw2, &[1, 2]);
    update(1, "-m 9");
    expect(&lab, Node::Fw2, &[2]);
    update(1, "-m 8");
    expect(&lab, Node::Fw2, &[1, 2]);
    assert_eq!(lab.status(Node::Fw1).unwrap().number("/sync/flows_withdrawn"), 1);
    conntrack(&lab, Node::Fw1, "-D -d 10.98.1.1");
    expect(&lab, Node::Fw2, &[]);
}

/// A narrower filter takes flows back from the standby and leaves them in the master's kernel, a wider one brings flows
/// that exist already; a broken file changes nothing and says why; what needs a restart is named. On the standby the same
/// file changes nothing that is the master's.
#[test]
fn netns_reload_works_both_ways() {
    let lab = started(LAB_FILTER);
    for port in 100..150 {
        insert(&lab, if port % 2 == 0 { "tcp" } else { "udp" }, port, "");
    }
    let all: Vec<u16> = (100..150).collect();
    let tcp: Vec<u16> = (100..150).step_by(2).collect();
    expect(&lab, Node::Fw2, &all);
    write_filter(&lab, LAB_FILTER, r#"protocols = ["tcp"]"#);
    assert_eq!(reload(&lab, Node::Fw1), (0, "in force: sync.filter\n".to_owned()));
    expect(&lab, Node::Fw2, &tcp);
    expect(&lab, Node::Fw1, &all);
    assert_eq!(lab.status(Node::Fw1).unwrap().number("/sync/flows_withdrawn"), 25);
    write_filter(&lab, r#"protocols = ["tcp"]"#, r#"protocols = ["tpc"]"#);
    let (code, text) = reload(&lab, Node::Fw1);
    assert!(code == 2 && text.contains("did you mean `tcp`?") && text.contains("everything stays as it is"), "{text}");
    assert_eq!(ports(&lab, Node::Fw2), tcp.iter().copied().collect());
    write_filter(&lab, r#"protocols = ["tpc"]"#, r#"protocols = ["tcp", "udp"]"#);
    write_filter(&lab, "advskew = 100", "advskew = 101");
    lab.signal(Node::Fw1, Signal::HUP);
    expect(&lab, Node::Fw2, &all);
    assert_eq!(reload(&lab, Node::Fw1), (0, "needs a restart (systemctl restart twinwall): nodes\n".to_owned()));
    write_filter(&lab, r#"protocols = ["tcp", "udp"]"#, r#"protocols = ["tcp"]"#);
    assert_eq!(reload(&lab, Node::Fw2).0, 0);
    insert(&lab, "udp", 151, "");
    expect(&lab, Node::Fw2, &(100..150).chain([151]).collect::<Vec<_>>());
    assert!(lab.files(Node::Fw1).log_tail().contains("the new configuration is in force"));
}

/// With a minimum age of three seconds the flows of a second's life never reach the standby, and those that are talked on
/// do. A clean stop does not wait: flows of a moment ago are told before it.
#[test]
fn netns_short_flows_cost_nothing() {
    let mut lab = started(r#"min_age = "3s""#);
    lab.pair[Node::Fw1].sysctl("net.netfilter.nf_conntrack_udp_timeout", "1").unwrap();
    let flood = Flood::open(&lab.pair.client, &lab.pair.server, SERVER).unwrap();
    let udp = |node: Node| table(&lab.pair[node], "dport=1").unwrap().len();
    let sent = |lab: &Lab| lab.status(Node::Fw1).unwrap().number("/sync/peers/0/flows_sent");
    flood.talk(11_000..11_010).unwrap();
    flood.talk(10_000..10_200).unwrap();
    let before = sent(&lab);
    assert!(lab.status(Node::Fw1).unwrap().number("/sync/flows_young") >= 10);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        flood.talk(11_000..11_010).unwrap();
        assert!(udp(Node::Fw2) <= 10, "a short flow has reached the standby");
        // Listing the table makes the kernel see which entries have ended.
        udp(Node::Fw1);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!((udp(Node::Fw1), udp(Node::Fw2)), (10, 10));
    assert!(sent(&lab) - before < 100, "{} changes were sent", sent(&lab) - before);
    assert!(lab.status(Node::Fw1).unwrap().number("/sync/events_filtered_by/short_lived") >= 200);
    insert(&lab, "udp", 77, "");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ports(&lab, Node::Fw2).len(), 0, "it is too young");
    lab.stop(Node::Fw1).unwrap();
    assert_eq!(ports(&lab, Node::Fw2).len(), 1, "the new master knows it");
}

/// The `n`th of many queries.
fn query(n: u32) -> Flow {
    let original = Tuple {
        source: Ipv4Addr::from_bits(0x0a63_0000 + n).into(),
        destination: [10, 98, 1, 1].into(),
        protocol: 17,
        source_port: 5000,
        destination_port: 53,
    };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: original.inverse(),
        status: status::CONFIRMED,
        timeout: 300,
        mark: 0,
        tcp: None,
        id: 0,
        extra: None,
    }
}

/// CPU time of all threads of the master's daemon so far, by the scheduler's own count.
fn cpu_time(lab: &mut Lab) -> Duration {
    let pid = lab.daemon(Node::Fw1).unwrap().process().pid().as_raw_nonzero();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// A hundred thousand events that nobody wants, refused once by protocol, which the kernel is told of, and once by port,
/// which it is not: what the daemon spends on them, without what it spends on doing nothing.
#[test]
fn netns_alone_unwanted_events_cost_less_in_the_kernel() {
    let mut lab = started(r#"protocols = ["tcp"]"#);
    let mut spent = Vec::new();
    for (before, filter) in [("", ""), (r#"protocols = ["tcp"]"#, r#"ports = { ignore = [53] }"#)] {
        if !filter.is_empty() {
            write_filter(&lab, before, filter);
            reload(&lab, Node::Fw1);
        }
        let idle_begin = cpu_time(&mut lab);
        std::thread::sleep(Duration::from_secs(2));
        let idle = (cpu_time(&mut lab) - idle_begin) / 2;
        let mut traffic = lab.pair[Node::Fw1].enter(Writer::open).unwrap().unwrap();
        let (begin, cpu) = (Instant::now(), cpu_time(&mut lab));
        for first in (0..50_000).step_by(250) {
            let flows = || (first..first + 250).map(query);
            let creates: Vec<Write> = flows().map(Write::Create).collect();
            let deletes: Vec<Write> = flows().map(|flow| Write::Delete { key: flow.key, id: 0 }).collect();
            for writes in [creates, deletes] {
                traffic.apply(&writes, Conflict::Replace, |outcome| panic!("{outcome:?}"));
            }
            // No faster than both kinds of event can be read: nothing is to be lost.
            std::thread::sleep(Duration::from_millis(5));
        }
        let busy = (cpu_time(&mut lab) - cpu).saturating_sub(idle.mul_f64(begin.elapsed().as_secs_f64()));
        let status = lab.status(Node::Fw1).unwrap();
        assert_eq!(status.number("/sync/events_lost"), 0);
        spent.push((busy, status.number("/sync/events_filtered_by/port"), status.number("/sync/events_filtered")));
    }
    let [(in_kernel, _, seen), (in_daemon, by_port, _)] = spent[..] else { panic!("two measurements") };
    println!("100000 unwanted events: {in_kernel:?} refused by the kernel, {in_daemon:?} by the daemon");
    assert!(seen < 1000, "{seen} events came through the kernel's filter");
    assert!(by_port >= 100_000, "the daemon saw only {by_port} events");
    assert!(in_kernel * 2 < in_daemon, "{in_kernel:?} are not less than half of {in_daemon:?}");
}
