//! The page as Prometheus sees it.

use super::*;
use crate::loops::tests::loops;
use crate::metrics::server::MetricsListener;
use crate::status::{
    ControlStatus, DemotionStatus, HandOverStatus, HistogramStatus, HookStatus, InterfaceCounts, InterfaceStatus,
    LeaseStatus, MemberStatus, PathStatus, PeerLinkStatus, PeerSightStatus, PeerStatus, StageTimes, StreamCounts,
    SyncStatus, TransitionStatus, VhidCounts, WaitStatus, WriteStatus,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

/// A status in which every metric has a sample.
fn full_status() -> Status {
    let election = ControlStatus {
        role: "master".to_owned(),
        role_since_seconds: 12.5,
        transitions: 3,
        last_transition: Some(TransitionStatus {
            from: "backup".to_owned(),
            to: "master".to_owned(),
            cause: "master_down".to_owned(),
            seconds_ago: 12.5,
            takeover_ms: Some(3100.0),
        }),
        members: vec![MemberStatus {
            vhid: 3,
            interface: "eth0".to_owned(),
            addresses: vec!["192.168.103.210/24".to_owned()],
            held: true,
            refused: counts(&[("bad_digest", 2)]),
            adverts_received: 40,
            ..MemberStatus::default()
        }],
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            up: true,
            up_in_seconds: None,
            flapping: false,
            datapath: "native".to_owned(),
            datapath_note: None,
            counters: counts(&[("packets", 1000), ("adverts", 40), ("ttl_not_255", 1)]),
        }],
        vip_errors: counts(&[("route", 1)]),
        demotions: vec![DemotionStatus { cause: "script:bgp".to_owned(), weight: 50, ..DemotionStatus::default() }],
        tracked: vec!["script:bgp".to_owned(), "conntrack".to_owned()],
        ..pair_status()
    };
    let writes = BTreeMap::from([("create".to_owned(), counts(&[("ok", 7), ("EEXIST", 1)]))]);
    let sync = SyncStatus {
        in_sync: true,
        lag_ms: 0.8,
        flows_local: 200,
        events_filtered_by: counts(&[("port", 3)]),
        refused: counts(&[("frame_auth", 5)]),
        decisions: counts(&[("fetched", 3)]),
        peers: vec![PeerStatus {
            node: "fw2".to_owned(),
            alive: true,
            rtt_ms: 0.25,
            proven_ms: Some(80.0),
            links: vec![PeerLinkStatus { interface: "eth2".to_owned(), works: true, ..PeerLinkStatus::default() }],
            ..PeerStatus::default()
        }],
        writes: WriteStatus { by_errno: writes },
        ..SyncStatus::default()
    };
    Status {
        node: "fw1".to_owned(),
        cluster: "edge".to_owned(),
        version: "0.1.0".to_owned(),
        control_answered: true,
        sync_answered: true,
        election,
        sync,
        hooks: HookStatus {
            runs: BTreeMap::from([("up".to_owned(), counts(&[("ok", 2), ("timed_out", 1)]))]),
            ..HookStatus::default()
        },
        ..Status::default()
    }
}

/// What heartbeats, lease and hand-overs show.
fn pair_status() -> ControlStatus {
    let times = || HistogramStatus { buckets: vec![(0.0001, 1), (0.001, 3)], sum_seconds: 0.0025, count: 4 };
    ControlStatus {
        maintenance: true,
        peer: Some(PeerSightStatus {
            node: "fw2".to_owned(),
            sight: "alive".to_owned(),
            gate: "closed".to_owned(),
            beat_age_ms: 0.5,
            heard_seconds_ago: Some(0.0005),
            dead_after_ms: 5.0,
            ..PeerSightStatus::default()
        }),
        paths: vec![PathStatus {
            interface: "eth2".to_owned(),
            up: true,
            jitter_ms: Some(0.01),
            probes_sent: 1000,
            replies: 999,
            lost: 1,
            rtt: times(),
            ..PathStatus::default()
        }],
        lease: LeaseStatus {
            term: 511,
            live: true,
            length_ms: 30.0,
            enforced: BTreeMap::from([("eth0".to_owned(), true), ("eth1".to_owned(), false)]),
            ..LeaseStatus::default()
        },
        hand_over: HandOverStatus {
            state: "offering".to_owned(),
            refused: counts(&[("peer_unfit", 2)]),
            ..HandOverStatus::default()
        },
        waits: vec![WaitStatus { what: "takeover".to_owned(), reason: "not_in_sync".to_owned(), seconds: 1.5 }],
        stage_times: vec![StageTimes { cause: "peer_dead".to_owned(), stage: "detected".to_owned(), times: times() }],
        ..ControlStatus::default()
    }
}

fn datapath() -> DatapathStatus {
    DatapathStatus {
        interfaces: vec![InterfaceCounts {
            interface: "eth0".to_owned(),
            path: "xdp",
            packets: 1000,
            adverts: 40,
            frames: 7,
            refused: vec![("ttl_not_255", 1), ("vrrp", 0)],
        }],
        vhids: vec![VhidCounts {
            interface: "eth0".to_owned(),
            vhid: 3,
            path: "xdp",
            adverts: 40,
            refused: vec![("carp_checksum", 2)],
        }],
        streams: vec![StreamCounts {
            peer: "fw2".to_owned(),
            kind: "data",
            path: "xdp",
            frames: 7,
            bytes: 700,
            ..StreamCounts::default()
        }],
    }
}

/// Prometheus' own checker accepts the full page and has nothing to remark.
#[test]
fn promtool_accepts_the_page() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: install Debian's package prometheus");
    promtool.stdin.take().unwrap().write_all(page(&full_status(), &datapath(), 1.5, Some(4096)).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let remarks = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && remarks.is_empty(), "{remarks}");
}

/// Each value stands where it belongs, role and mode as 0/1 of every alternative.
#[test]
fn values_of_the_page() {
    let page = page(&full_status(), &datapath(), 1.5, Some(4096));
    for line in [
        "twinwall_role{role=\"master\"} 1",
        "twinwall_role{role=\"backup\"} 0",
        "twinwall_transitions_total 3",
        "twinwall_last_takeover_duration_seconds 3.1",
        "twinwall_adverts_refused_total{interface=\"eth0\",vhid=\"3\",reason=\"bad_digest\"} 2",
        "twinwall_datapath_refused_total{interface=\"eth0\",path=\"xdp\",reason=\"ttl_not_255\"} 1",
        "twinwall_datapath_vhid_refused_total{interface=\"eth0\",vhid=\"3\",path=\"xdp\",reason=\"carp_checksum\"} 2",
        "twinwall_datapath_stream_bytes_total{peer=\"fw2\",kind=\"data\",path=\"xdp\"} 700",
        "twinwall_datapath_mode{interface=\"eth0\",mode=\"native\"} 1",
        "twinwall_datapath_mode{interface=\"eth0\",mode=\"socket\"} 0",
        "twinwall_demotion{cause=\"script:bgp\"} 50",
        "twinwall_demotion{cause=\"conntrack\"} 0",
        "twinwall_demotion_total_weight 50",
        "twinwall_hook_runs_total{hook=\"up\",result=\"timed_out\"} 1",
        "twinwall_sync_lag_seconds 0.0008",
        "twinwall_conntrack_writes_total{operation=\"create\",errno=\"EEXIST\"} 1",
        "twinwall_peer_alive{peer=\"fw2\"} 1",
        "process_start_time_seconds 1.5",
        "twinwall_peer_sight{peer=\"fw2\",sight=\"alive\"} 1",
        "twinwall_peer_sight{peer=\"fw2\",sight=\"silent\"} 0",
        "twinwall_heartbeat_rtt_seconds_bucket{path=\"eth2\",le=\"0.001\"} 3",
        "twinwall_heartbeat_lost_total{path=\"eth2\"} 1",
        "twinwall_transition_seconds_count{cause=\"peer_dead\",stage=\"detected\"} 4",
        "twinwall_lease_enforced{interface=\"eth1\"} 0",
        "twinwall_hand_overs_total{outcome=\"peer_unfit\"} 2",
        "twinwall_maintenance 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

/// A silent loop leaves its metrics away instead of reporting zeros.
#[test]
fn silence_is_not_zero() {
    let page = page(&Status { sync_answered: false, ..full_status() }, &datapath(), 1.5, None);
    assert!(page.contains("twinwall_loop_answered{loop=\"sync\"} 0"));
    assert!(!page.contains("twinwall_sync_in_sync"));
    assert!(page.contains("twinwall_role{"));
}

/// Names in the page and names in docs/metrics.md are the same, and the alert rules use no other.
#[test]
fn documentation_is_complete() {
    let page = page(&full_status(), &datapath(), 1.5, Some(4096));
    let names = |text: &str, prefix: &str| -> BTreeSet<String> {
        text.split(prefix)
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
            .map(str::to_owned)
            .collect()
    };
    let exported = names(&page, "# TYPE ");
    let documented = names(include_str!("../../../docs/metrics.md"), "| `");
    assert_eq!(exported, documented);
    let used = names(include_str!("../../../packaging/prometheus-rules.yml"), "twinwall_");
    for name in used.iter().map(|name| format!("twinwall_{name}")) {
        assert!(exported.contains(&name), "{name} is used by an alert and not exported");
    }
}

/// The page is served at /metrics, other paths and methods are refused, and a silent client is cut off.
#[test]
fn served_over_http() {
    let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    let (loops, control, sync) = loops();
    // Ended loops answer at once.
    drop((control, sync));
    let ask = move |request: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let client = move || {
        let reply = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("twinwall_node_info"), "{reply}");
        assert!(reply.contains("text/plain; version=0.0.4"), "{reply}");
        assert!(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 405"));
        ask("GET /metrics HT");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            served = listener.serve(loops) => panic!("{served:?}"),
            done = tokio::task::spawn_blocking(client) => done.unwrap(),
        }
    });
}
