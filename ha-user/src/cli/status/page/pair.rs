//! The part of the page on what two nodes know of each other.

use super::super::ink::{GREEN, Ink, RED, YELLOW, duration, milliseconds, table, times};
use crate::status::{BreakdownStatus, ControlStatus, LeaseStatus, PathStatus, PeerSightStatus};

/// What a reader must know before all else: maintenance, waits, hand-overs.
pub fn notices(election: &ControlStatus, ink: &Ink) -> String {
    let mut text = String::new();
    if election.maintenance {
        let notice = "  under MAINTENANCE: this node takes nothing (end it with `twinwall maintenance off`)";
        text += &format!("{}\n", ink.paint(YELLOW, notice));
    }
    if election.resumed {
        text += "  this process went on with the mastership of the one before\n";
    }
    let hand_over = &election.hand_over;
    if !hand_over.state.is_empty() && hand_over.state != "none" {
        let since = duration(hand_over.since_seconds.unwrap_or_default());
        text += &format!("  hand-over: {} for {since}\n", hand_over.state);
    }
    for wait in &election.waits {
        let what = wait.what.replace('_', "-");
        let line = format!("  {what} waits for {}: {}", duration(wait.seconds), wait.reason);
        text += &format!("{}\n", ink.paint(YELLOW, &line));
    }
    text
}

/// How the last transition came about.
pub fn explanation(last: &BreakdownStatus) -> String {
    let stages = last.stages.iter().map(|stage| format!("{} {}", stage.stage, milliseconds(stage.ms)));
    let stages = stages.collect::<Vec<_>>().join(", ");
    format!("  in {}: {stages}\n", milliseconds(last.total_ms))
}

/// Peer, paths and lease; empty without heartbeats.
pub fn section(election: &ControlStatus, ink: &Ink) -> String {
    let mut text = String::new();
    if let Some(peer) = &election.peer {
        text += &ink.title("Peer by heartbeats");
        text += &describe_peer(peer, ink);
        text += &paths(&election.paths, ink);
    }
    if election.lease.term > 0 {
        text += &ink.title("Lease");
        text += &lease(&election.lease, ink);
    }
    text
}

fn describe_peer(peer: &PeerSightStatus, ink: &Ink) -> String {
    let heard = peer.heard_seconds_ago.map_or_else(String::new, |ago| format!(", heard {} ago", duration(ago)));
    let dead = milliseconds(peer.dead_after_ms);
    match peer.sight.as_str() {
        "alive" => {
            let flags = if peer.flags.is_empty() { String::new() } else { format!(", {}", peer.flags.join(" ")) };
            let age = milliseconds(peer.beat_age_ms);
            format!(
                "  {} {}: {}, gate {}, term {}, demotion {}{flags}\n  its controller was alive {age} before{heard}; {dead} of silence is death\n",
                peer.node,
                ink.paint(GREEN, "alive"),
                peer.role,
                peer.gate,
                peer.term,
                peer.demotion,
            )
        }
        "silent" => {
            format!("  {} {}{heard}: it was {}\n", peer.node, ink.paint(RED, "SILENT on every path"), peer.role)
        }
        _ => format!(
            "  {} {}: no heartbeat was ever answered (ucarp, no XDP there, or not started), the timers of CARP hold\n",
            peer.node,
            ink.paint(YELLOW, "unknown"),
        ),
    }
}

fn paths(paths: &[PathStatus], ink: &Ink) -> String {
    let mut rows =
        vec![["path", "answers", "last", "median", "p99", "jitter", "sent", "lost", "heard"].map(str::to_owned)];
    let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), microseconds);
    for path in paths {
        rows.push([
            path.interface.clone(),
            if path.up { "come" } else { "NONE" }.to_owned(),
            time(path.rtt_last_ms),
            time(path.rtt_p50_ms),
            time(path.rtt_p99_ms),
            time(path.jitter_ms),
            path.probes_sent.to_string(),
            path.lost.to_string(),
            path.heard_seconds_ago.map_or_else(|| "-".to_owned(), |ago| format!("{} ago", duration(ago))),
        ]);
    }
    let silent = paths.iter().filter(|path| !path.up).count();
    let mut text = table(&rows);
    if silent > 0 && silent < paths.len() {
        let line = format!("  {silent} of {} paths without answers: cable, switch, or XDP there?\n", paths.len());
        text += &ink.paint(YELLOW, &line);
    }
    text
}

fn lease(lease: &LeaseStatus, ink: &Ink) -> String {
    let state = if lease.live {
        ink.paint(
            GREEN,
            &format!("live, {} left of {}", milliseconds(lease.remaining_ms), milliseconds(lease.length_ms)),
        )
    } else {
        "none: this node does not answer for the addresses".to_owned()
    };
    let mut text = format!("  term {}, {state}\n", lease.term);
    if lease.lapsed + lease.superseded > 0 {
        let (lapsed, superseded) = (times(lease.lapsed), times(lease.superseded));
        text += &ink.paint(YELLOW, &format!("  ran out {lapsed}, closed by a newer master {superseded}\n"));
    }
    let open: Vec<&str> =
        lease.enforced.iter().filter(|(_, enforced)| !**enforced).map(|(name, _)| name.as_str()).collect();
    if !open.is_empty() {
        let line = format!("  not enforced on {}: no XDP there\n", open.join(", "));
        text += &ink.paint(YELLOW, &line);
    }
    text
}

/// Round trips have a few dozen.
fn microseconds(ms: f64) -> String {
    if ms < 1.0 { format!("{:.0} us", ms * 1000.0) } else { milliseconds(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{HandOverStatus, StageStatus, WaitStatus};
    use std::collections::BTreeMap;

    fn plain() -> Ink {
        Ink { colour: false }
    }

    fn pair() -> ControlStatus {
        let path = |name: &str, up: bool| PathStatus {
            interface: name.to_owned(),
            up,
            rtt_last_ms: up.then_some(0.027),
            rtt_p50_ms: up.then_some(0.03),
            rtt_p99_ms: up.then_some(1.25),
            jitter_ms: up.then_some(0.004),
            heard_seconds_ago: up.then_some(0.0),
            probes_sent: 9000,
            lost: if up { 2 } else { 9000 },
            ..PathStatus::default()
        };
        ControlStatus {
            peer: Some(PeerSightStatus {
                node: "fw2".to_owned(),
                sight: "alive".to_owned(),
                role: "backup".to_owned(),
                term: 767,
                gate: "closed".to_owned(),
                flags: vec!["ready".to_owned()],
                beat_age_ms: 0.4,
                heard_seconds_ago: Some(0.0),
                dead_after_ms: 5.0,
                ..PeerSightStatus::default()
            }),
            paths: vec![path("eth2", true), path("eth0", false)],
            lease: LeaseStatus {
                term: 767,
                live: true,
                remaining_ms: 29.3,
                length_ms: 30.0,
                enforced: BTreeMap::from([("eth0".to_owned(), true), ("eth1".to_owned(), false)]),
                lapsed: 1,
                superseded: 0,
            },
            ..ControlStatus::default()
        }
    }

    /// A master that sees its peer: every value in its place, and what is not as it should be in words.
    #[test]
    fn peer_paths_and_lease() {
        insta::assert_snapshot!(section(&pair(), &plain()));
    }

    /// The three ways to see a peer are told apart, and without heartbeats and lease there is no section.
    #[test]
    fn sights_are_told_apart() {
        let with = |sight: &str| {
            let mut election = pair();
            if let Some(peer) = &mut election.peer {
                peer.sight = sight.to_owned();
            }
            section(&election, &plain())
        };
        assert!(
            with("silent").contains("fw2 SILENT on every path, heard 0.0 s ago: it was backup"),
            "{}",
            with("silent")
        );
        assert!(with("unknown").contains("no heartbeat was ever answered"), "{}", with("unknown"));
        assert_eq!(section(&ControlStatus::default(), &plain()), "");
    }

    /// Maintenance, a hand-over and a wait stand first, and a transition is explained in one line.
    #[test]
    fn notices_and_explanation() {
        let election = ControlStatus {
            maintenance: true,
            hand_over: HandOverStatus {
                state: "offering".to_owned(),
                since_seconds: Some(0.2),
                ..HandOverStatus::default()
            },
            waits: vec![WaitStatus {
                what: "hand_over".to_owned(),
                reason: "peer_not_ready".to_owned(),
                seconds: 61.0,
            }],
            ..ControlStatus::default()
        };
        let text = notices(&election, &plain());
        assert!(text.contains("under MAINTENANCE"), "{text}");
        assert!(text.contains("hand-over: offering for 0.2 s"), "{text}");
        assert!(text.contains("hand-over waits for 1 min 1 s: peer_not_ready"), "{text}");
        let stage = |stage: &str, ms: f64| StageStatus { stage: stage.to_owned(), ms };
        let last = BreakdownStatus {
            stages: vec![stage("detected", 5.04), stage("lease", 0.1)],
            total_ms: 5.14,
            ..BreakdownStatus::default()
        };
        assert_eq!(explanation(&last), "  in 5.1 ms: detected 5.0 ms, lease 0.1 ms\n");
    }
}
