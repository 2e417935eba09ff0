//! Two sync loops in two namespaces with a cable between them: what one kernel tracks, the other gets. Needs root.

mod harness;
mod transport;
mod weather;

use anyhow::Result;
use ha_common::role::Role;
use ha_common::sync::flow::{Flow, Tcp};
use ha_tests::netns::wait_until;
use ha_user::conntrack::writer::Write;
use ha_user::request::SyncRequest;
use harness::*;
use std::time::Duration;

/// New, changed and deleted flows of the master appear in the backup's kernel with NAT, mark and state, IPv6 too;
/// nothing is echoed; both learn that they are in sync, and flows of the nodes themselves stay away.
#[test]
fn netns_changes_are_replicated() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..600));
    let mut v6 = flow(1);
    v6.key.original.source = "2001:db8:1::2".parse()?;
    v6.key.original.destination = "2001:db8:2::2".parse()?;
    v6 = Flow { reply: v6.key.original.inverse(), mark: V6_MARK, ..v6 };
    let mut local = flow(1);
    local.key.original.destination = "10.2.0.210".parse()?;
    local = Flow { reply: local.key.original.inverse(), ..local };
    a.traffic(&[Write::Create(local.clone()), Write::Create(v6.clone())]);
    // The kernel itself drops the local one's event, so what is waited for is the one behind it.
    wait_until("all flows are seen", PATIENCE, || a.status().is_ok_and(|status| status.flows >= 601))?;
    assert_eq!(a.status()?.flows, 601, "the local flow is replicated");
    a.traffic(&[Write::Delete { key: local.key, id: 0 }]);
    converge(&mut a, &mut b, 601)?;

    let closing = |n| Flow { timeout: 120, mark: 9, tcp: flow(n).tcp.map(|tcp| Tcp { state: 7, ..tcp }), ..flow(n) };
    a.traffic(&(0..300).map(|n| Write::Update(closing(n))).collect::<Vec<_>>());
    a.traffic(&deletes(300..600));
    converge(&mut a, &mut b, 301)?;

    wait_until("both are in sync", PATIENCE, || {
        let in_sync =
            |node: &Node| node.status().is_ok_and(|status| status.in_sync && status.peers[0].backlog_flows == 0);
        in_sync(&a) && in_sync(&b)
    })?;
    assert!(a.health().is_some_and(|health| health.in_sync && health.peer_alive));
    let (master, backup) = (a.status()?, b.status()?);
    assert_eq!((master.peers[0].flows_received, backup.peers[0].flows_sent), (0, 0), "echo");
    assert!(backup.peers[0].flows_received >= 601 + 300);
    assert!(backup.writes.by_errno["create"]["ok"] >= 601, "{:?}", backup.writes);
    assert_eq!((master.events_lost, master.events_malformed), (0, 0));
    assert!(backup.refused.is_empty() && backup.socket_errors.is_empty(), "{backup:?}");

    let (reply, answer) = tokio::sync::oneshot::channel();
    b.post(SyncRequest::Flows { limit: 1000, reply })?;
    let flows = answer.blocking_recv()?;
    assert_eq!(flows.len(), 301);
    assert!(flows.iter().all(|(_, of_peer)| *of_peer));
    a.stop()?;
    b.stop()
}

/// With a fifth of the datagrams lost in both directions, thousands of creations, changes and deletions still end
/// with equal tables.
#[test]
fn netns_loss_is_repaired() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    for node in [&a, &b] {
        let rules = "table inet loss { chain in { type filter hook input priority -400; \
                     iifname \"sync\" meta l4proto udp numgen random mod 100 < 20 drop; }; }";
        node.namespace.run_with_input("nft", &["-f", "-"], rules)?;
    }
    for step in 0..10 {
        a.traffic(&creates(step * 300..(step + 1) * 300));
        a.traffic(
            &(step * 300..step * 300 + 150).map(|n| Write::Update(Flow { mark: 1, ..flow(n) })).collect::<Vec<_>>(),
        );
        a.traffic(&deletes(step * 300..step * 300 + 100));
        std::thread::sleep(Duration::from_millis(20));
    }
    converge(&mut a, &mut b, 2000)?;
    assert!(a.status()?.peers[0].frames_sent > 0);
    Ok(())
}

/// Far more events than the socket's buffer holds, again and again: what was lost is found in the kernel's table.
#[test]
fn netns_lost_events_are_repaired() -> Result<()> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    connect(&a, &b)?;
    let mut config = files.load("fw1")?;
    (config.sync.netlink_buffer, config.sync.netlink_buffer_max) = (8 * 1024, 16 * 1024);
    a.start_with(config, Role::Master)?;
    b.start(&files, Role::Backup)?;
    for step in 0..5 {
        a.traffic(&creates(step * 1000..(step + 1) * 1000));
        a.traffic(&deletes(step * 1000..step * 1000 + 300));
    }
    converge(&mut a, &mut b, 3500)?;
    assert!(a.status()?.events_lost > 0);
    Ok(())
}

/// A node that was away gets what changed meanwhile, loses what is gone, and a fresh one gets all of ten thousand.
#[test]
fn netns_returning_node_is_completed() -> Result<()> {
    let (files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..10_000));
    converge(&mut a, &mut b, 10_000)?;

    // Away for a while, its kernel table stays as it was.
    b.stop()?;
    a.traffic(&deletes(0..100));
    a.traffic(&creates(10_000..10_050));
    a.traffic(&(200..300).map(|n| Write::Update(Flow { mark: 5, ..flow(n) })).collect::<Vec<_>>());
    b.start(&files, Role::Backup)?;
    converge(&mut a, &mut b, 9_950)?;

    // Back with an empty table.
    b.stop()?;
    b.namespace.run("conntrack", &["-F"])?;
    b.start(&files, Role::Backup)?;
    converge(&mut a, &mut b, 9_950)?;

    // The master's daemon starts anew: its kernel still has the flows.
    a.stop()?;
    a.start(&files, Role::Master)?;
    a.traffic(&deletes(100..200));
    converge(&mut a, &mut b, 9_850)?;
    wait_until("in sync again", PATIENCE, || b.status().is_ok_and(|status| status.in_sync))
}

/// A loop whose sync interface does not exist yet runs, answers, and catches up when the interface comes; an interface
/// that is removed and made again is found again.
#[test]
fn netns_interface_may_come_late() -> Result<()> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    a.traffic(&creates(0..50));
    assert!(!a.status()?.peers[0].alive);
    connect(&a, &b)?;
    converge(&mut a, &mut b, 50)?;

    a.namespace.ip("link del sync")?;
    a.traffic(&creates(50..80));
    connect(&a, &b)?;
    converge(&mut a, &mut b, 80)
}

/// The role moves: what the new master's kernel tracks from then on is what counts, and the old one follows.
#[test]
fn netns_role_change() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..100));
    converge(&mut a, &mut b, 100)?;
    a.post(SyncRequest::Role { role: Role::Backup, term: 0 })?;
    b.post(SyncRequest::Role { role: Role::Master, term: 0 })?;
    // What the kernel tells before the role is taken belongs to the former one: an answer comes after it.
    b.status()?;
    b.traffic(&creates(100..150));
    b.traffic(&deletes(0..20));
    b.traffic(&(20..40).map(|n| Write::Update(Flow { mark: 77, ..flow(n) })).collect::<Vec<_>>());
    converge(&mut a, &mut b, 130)
}
