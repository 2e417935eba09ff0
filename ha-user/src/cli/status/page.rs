//! The page that `twinwall status` prints for people.

mod handshake;
mod links;
mod pair;
mod state;

use super::ink::{BOLD, GREEN, Ink, RED, YELLOW, duration, milliseconds, nonzero, table, times};
use super::track::{demotions, hooks};
use crate::status::{ControlStatus, InterfaceStatus, MemberStatus, Status};
use std::collections::BTreeMap;

/// Renders the page; `colour` for a terminal.
pub fn render(status: &Status, colour: bool) -> String {
    let ink = Ink { colour };
    let mut page = header(status, &ink);
    if status.control_answered {
        page += &pair::notices(&status.election, &ink);
        page += &members(&status.election, &ink);
        page += &pair::section(&status.election, &ink);
        page += &interfaces(&status.election.interfaces, &ink);
        page += &demotions(&status.election.demotions, &ink);
    }
    if status.sync_answered {
        page += &state::section(&status.sync, &ink);
        page += &handshake::lines(&status.sync, &ink);
        page += &links::section(&status.sync, &ink);
    }
    page += &hooks(&status.hooks, &ink);
    page += &refusals(status);
    for silence in &status.unanswered {
        page += &format!("\n{}\n", ink.paint(RED, silence));
    }
    page
}

fn header(status: &Status, ink: &Ink) -> String {
    let election = &status.election;
    let role = if status.control_answered { election.role.to_uppercase() } else { "?".to_owned() };
    let code = match role.as_str() {
        "MASTER" => GREEN,
        "BACKUP" => BOLD,
        "INIT" => YELLOW,
        _ => RED,
    };
    let mut text = format!("{} of {}: {}", status.node, status.cluster, ink.paint(code, &role));
    if status.control_answered {
        text += &format!(" for {}", duration(election.role_since_seconds));
    }
    let up = duration(status.uptime_seconds);
    text += &format!("   (twinwall {}, up {up}, pid {})\n", status.version, status.pid);
    if let Some(last) = status.election.last_transition.as_ref().filter(|_| status.control_answered) {
        let ago = duration(last.seconds_ago);
        text += &format!("  last change: {} to {}, {ago} ago, cause {}", last.from, last.to, last.cause);
        if let Some(takeover_ms) = last.takeover_ms {
            text += &format!(", takeover in {}", milliseconds(takeover_ms));
        }
        text += &format!("; {} in all\n", election.transitions);
        if let Some(last) = election.history.first() {
            text += &pair::explanation(last);
        }
    }
    if election.dual_master_contacts > 0 {
        let contacts = times(election.dual_master_contacts);
        text += &ink.paint(YELLOW, &format!("  another master was heard {contacts} while master\n"));
    }
    text
}

fn members(election: &ControlStatus, ink: &Ink) -> String {
    let mut rows = vec![["vhid", "interface", "virtual addresses", "here", "master heard"].map(str::to_owned)];
    for member in &election.members {
        rows.push([
            member.vhid.to_string(),
            member.interface.clone(),
            member.addresses.join(" "),
            if member.held { "yes" } else { "no" }.to_owned(),
            heard(member),
        ]);
    }
    let mut text = ink.title("Virtual addresses") + &table(&rows);
    for (operation, count) in election.vip_errors.iter().filter(|(_, count)| **count > 0) {
        text += &ink.paint(RED, &format!("  {operation} failed {} (see the log)\n", times(*count)));
    }
    text
}

fn heard(member: &MemberStatus) -> String {
    match (&member.master_heard, member.master_heard_seconds_ago) {
        (Some(address), Some(seconds)) => format!("{address}, {} ago", duration(seconds)),
        (Some(address), None) => address.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn interfaces(interfaces: &[InterfaceStatus], ink: &Ink) -> String {
    let mut rows = vec![["interface", "link", "received by", "adverts", "frames", "note"].map(str::to_owned)];
    for interface in interfaces {
        let count = |name: &str| interface.counters.get(name).map_or_else(|| "-".to_owned(), u64::to_string);
        let received = match interface.datapath.as_str() {
            "native" => "XDP native",
            "generic" => "XDP generic",
            other => other,
        };
        rows.push([
            interface.name.clone(),
            match (interface.up, interface.up_in_seconds) {
                (true, _) => "up".to_owned(),
                (false, Some(seconds)) => format!("DOWN, up in {}", duration(seconds)),
                (false, None) => "DOWN".to_owned(),
            },
            received.to_owned(),
            count("adverts"),
            count("frames"),
            interface.datapath_note.clone().unwrap_or_default(),
        ]);
    }
    ink.title("Interfaces") + &table(&rows)
}

/// What was refused anywhere, with its reason.
fn refusals(status: &Status) -> String {
    let mut lines = Vec::new();
    for member in &status.election.members {
        let place = format!("vhid {} on {}", member.vhid, member.interface);
        lines.extend(nonzero(&member.refused).map(|counts| format!("  {place}: {counts}\n")));
    }
    lines.extend(nonzero(&status.sync.refused).map(|counts| format!("  sync: {counts}\n")));
    for (operation, by_errno) in &status.sync.writes.by_errno {
        let failed: BTreeMap<String, u64> =
            by_errno.iter().filter(|(errno, _)| *errno != "ok").map(|(errno, count)| (errno.clone(), *count)).collect();
        lines.extend(nonzero(&failed).map(|counts| format!("  conntrack {operation}: {counts}\n")));
    }
    if lines.is_empty() { String::new() } else { format!("\nRefused\n{}", lines.concat()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::{HookStatus, PeerStatus, SyncStatus, TransitionStatus, WriteStatus};

    pub fn status() -> Status {
        let member = MemberStatus {
            vhid: 3,
            interface: "eth0".to_owned(),
            addresses: vec!["192.168.103.210/24".to_owned()],
            held: true,
            refused: BTreeMap::from([("bad_digest".to_owned(), 2), ("own_advert".to_owned(), 0)]),
            ..MemberStatus::default()
        };
        let wan = MemberStatus {
            vhid: 4,
            interface: "eth1".to_owned(),
            addresses: vec!["157.159.40.139/26".to_owned()],
            master_heard: Some("157.159.40.138".to_owned()),
            master_heard_seconds_ago: Some(0.4),
            ..MemberStatus::default()
        };
        let interface = |name: &str, datapath: &str, note: Option<&str>| InterfaceStatus {
            name: name.to_owned(),
            up: true,
            up_in_seconds: None,
            flapping: false,
            datapath: datapath.to_owned(),
            datapath_note: note.map(str::to_owned),
            counters: BTreeMap::from([("adverts".to_owned(), 12)]),
        };
        let peer = PeerStatus {
            node: "fw2".to_owned(),
            address: "10.77.9.2".to_owned(),
            alive: true,
            sent_sequence: 812,
            acked_sequence: 812,
            rtt_ms: 0.21,
            bulk_sent: true,
            proven_ms: Some(120.0),
            ..PeerStatus::default()
        };
        Status {
            node: "fw1".to_owned(),
            cluster: "edge".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 4711,
            uptime_seconds: 8130.0,
            control_answered: true,
            sync_answered: true,
            unanswered: Vec::new(),
            election: ControlStatus {
                role: "master".to_owned(),
                role_since_seconds: 7980.0,
                transitions: 2,
                last_transition: Some(TransitionStatus {
                    from: "backup".to_owned(),
                    to: "master".to_owned(),
                    cause: "master_down".to_owned(),
                    seconds_ago: 7980.0,
                    takeover_ms: Some(3012.3),
                }),
                members: vec![member, wan],
                interfaces: vec![interface("eth0", "native", None), interface("eth1", "socket", Some("no XDP here"))],
                ..ControlStatus::default()
            },
            sync: SyncStatus {
                in_sync: true,
                lag_ms: 0.8,
                flows: 402,
                flows_local: 400,
                flows_peer: 2,
                peers: vec![peer],
                writes: WriteStatus {
                    by_errno: BTreeMap::from([(
                        "create".to_owned(),
                        BTreeMap::from([("ok".to_owned(), 9), ("EEXIST".to_owned(), 1)]),
                    )]),
                },
                ..SyncStatus::default()
            },
            hooks: HookStatus::default(),
        }
    }

    /// A healthy master's page, as it is printed without a terminal.
    #[test]
    fn page_of_a_master() {
        insta::assert_snapshot!(render(&status(), false));
    }

    /// A silent control loop, a dead peer and a half-done sync are shown for what they are.
    #[test]
    fn trouble_is_visible() {
        let mut silent = status();
        silent.control_answered = false;
        silent.unanswered = vec!["the control loop did not answer".to_owned()];
        silent.sync.peers[0].alive = false;
        let page = render(&silent, false);
        assert!(page.starts_with("fw1 of edge: ?   (") && page.contains("no peer is there"), "{page}");
        assert!(page.contains("the control loop did not answer") && !page.contains("Virtual addresses"), "{page}");
        let mut partial = status();
        partial.sync.in_sync = false;
        partial.sync.peers[0].backlog_flows = 100;
        assert!(render(&partial, false).contains("not in sync: 75 % at the peer"));
        assert!(render(&partial, true).contains("\x1b[1;32mMASTER\x1b[0m"));
        let mut refusing = status();
        refusing.sync.flows_absent = refusing.sync.flows / 4;
        let page = render(&refusing, false);
        assert!(page.contains("not in sync: 75 % of the flows are in this kernel"), "{page}");
        assert!(page.contains("this kernel refused 100 flows"), "{page}");
    }
}
