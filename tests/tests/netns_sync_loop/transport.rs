//! The links between the loops: several of them, multicast, IPv6, an MTU that changes.

use crate::harness::*;
use anyhow::{Context, Result};
use ha_common::role::Role;
use ha_tests::netns::{cable, wait_until};
use ha_user::status::PeerLinkStatus;
use std::time::{Duration, Instant};

/// Flows made in each step of traffic.
const STEP: u32 = 200;
/// A silent link is left after two and a half hello intervals (200 ms each), and the peer is told with the next hello.
const FAILOVER_MAX: Duration = Duration::from_millis(1500);

const SECOND_LINK: &str = r#"[[sync.link]]
interface = "spare"
addresses = { fw1 = "10.78.9.1", fw2 = "10.78.9.2" }
[sync.filter]"#;

/// The pair's configuration with a second link and this line in `[sync]`.
fn two_links(line: &str) -> Result<Files> {
    Files::with(|text| text.replace("[sync.filter]", &format!("{line}\n{SECOND_LINK}")))
}

fn connect_spare(a: &Node, b: &Node) -> Result<()> {
    cable((&a.namespace, "spare"), (&b.namespace, "spare"))?;
    a.namespace.ip("addr add 10.78.9.1/24 dev spare")?;
    b.namespace.ip("addr add 10.78.9.2/24 dev spare")
}

/// A master and a backup with two links, both of which work.
fn pair_with_two_links(line: &str) -> Result<(Node, Node)> {
    let files = two_links(line)?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    connect(&a, &b)?;
    connect_spare(&a, &b)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    wait_until("both links work", PATIENCE, || {
        [&a, &b].iter().all(|node| links(node).is_ok_and(|links| links.iter().all(|link| link.works)))
    })?;
    Ok((a, b))
}

fn links(node: &Node) -> Result<Vec<PeerLinkStatus>> {
    Ok(node.status()?.peers.into_iter().next().context("no peer")?.links)
}

/// The interfaces that state takes now.
fn active(node: &Node) -> Vec<String> {
    let links = links(node).unwrap_or_default();
    links.into_iter().filter(|link| link.active).map(|link| link.interface).collect()
}

/// Drops the datagrams that arrive on an interface, this share of them.
fn lose(node: &Node, interface: &str, percent: u8) -> Result<()> {
    let kept = 100 - percent;
    let rules = format!(
        "table inet loss {{ chain in {{ type filter hook input priority -400; \
         iifname \"{interface}\" meta l4proto udp numgen random mod 100 >= {kept} drop; }}; }}"
    );
    node.namespace.run_with_input("nft", &["-f", "-"], &rules).map(drop)
}

/// Under traffic the first link falls silent in both directions, as behind a broken switch: no carrier goes. Both nodes take
/// the second link in time, the session lives on, and the tables become equal. The same at once when a carrier goes.
#[test]
fn netns_a_dead_link_is_left() -> Result<()> {
    let (mut a, mut b) = pair_with_two_links("")?;
    assert_eq!((active(&a), active(&b)), (vec!["sync".to_owned()], vec!["sync".to_owned()]));
    a.traffic(&creates(0..STEP));
    for node in [&a, &b] {
        lose(node, "sync", 100)?;
    }
    let cut = Instant::now();
    a.traffic(&creates(STEP..2 * STEP));
    wait_until("both take the spare link", PATIENCE, || active(&a) == ["spare"] && active(&b) == ["spare"])?;
    assert!(cut.elapsed() < FAILOVER_MAX * 2, "{:?}", cut.elapsed());
    a.traffic(&creates(2 * STEP..3 * STEP));
    converge(&mut a, &mut b, 3 * STEP as usize)?;
    let status = a.status()?;
    assert!(status.peers[0].alive && status.peers[0].link_failovers == 1);

    for node in [&a, &b] {
        node.namespace.run("nft", &["delete", "table", "inet", "loss"])?;
    }
    wait_until("the first link works again", PATIENCE, || {
        links(&a).is_ok_and(|links| links.iter().all(|link| link.works))
    })?;
    a.namespace.ip("link set spare down")?;
    wait_until("back on the first link", PATIENCE, || active(&a) == ["sync"] && active(&b) == ["sync"])?;
    a.traffic(&creates(3 * STEP..4 * STEP));
    converge(&mut a, &mut b, 4 * STEP as usize)?;
    assert_eq!((a.status()?.refused, b.status()?.refused), Default::default());
    Ok(())
}

/// Every frame goes over both links, and one of them loses half: nothing has to be repaired that the other one brought, the
/// tables are equal, and the copies are counted as what they are.
#[test]
fn netns_duplicates_outlive_a_lossy_link() -> Result<()> {
    let (mut a, mut b) = pair_with_two_links("links = \"duplicate\"")?;
    for node in [&a, &b] {
        lose(node, "sync", 50)?;
    }
    for step in 0..10 {
        a.traffic(&creates(step * STEP..(step + 1) * STEP));
        a.traffic(&deletes(step * STEP..step * STEP + STEP / 2));
        std::thread::sleep(Duration::from_millis(20));
    }
    converge(&mut a, &mut b, 10 * STEP as usize / 2)?;
    let backup = b.status()?;
    assert!(backup.peers[0].links.iter().all(|link| link.frames + link.copies > 0), "{:?}", backup.peers[0].links);
    assert!(backup.peers[0].links.iter().any(|link| link.copies > 0), "{:?}", backup.peers[0].links);
    assert!(backup.refused.is_empty(), "{:?}", backup.refused);
    Ok(())
}

/// A pair whose datagrams go to a group becomes equal, and again after the interface of one was made anew.
fn multicast_pair(edit: impl FnOnce(&str) -> String, address: fn(&Node, u8) -> Result<()>) -> Result<()> {
    let files = Files::with(|text| edit(&text.replace("[sync.filter]", "transport = \"multicast\"\n[sync.filter]")))?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    let connect = |a: &Node, b: &Node| -> Result<()> {
        cable((&a.namespace, "sync"), (&b.namespace, "sync"))?;
        address(a, 1)?;
        address(b, 2)
    };
    connect(&a, &b)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    a.traffic(&creates(0..STEP));
    converge(&mut a, &mut b, STEP as usize)?;
    a.namespace.ip("link del sync")?;
    a.traffic(&creates(STEP..2 * STEP));
    connect(&a, &b)?;
    converge(&mut a, &mut b, 2 * STEP as usize)?;
    assert_eq!((a.status()?.refused, b.status()?.refused), Default::default());
    Ok(())
}

/// IPv4 multicast, to the default group.
#[test]
fn netns_multicast_v4() -> Result<()> {
    multicast_pair(str::to_owned, |node, host| node.namespace.ip(&format!("addr add 10.77.9.{host}/24 dev sync")))
}

/// IPv6 multicast: what is sent to the link-local group bears the configured address, though a link-local one is there.
#[test]
fn netns_multicast_v6() -> Result<()> {
    multicast_pair(v6, address_v6)
}

fn v6(text: &str) -> String {
    text.replace("10.77.9.1", "fd00:77::1").replace("10.77.9.2", "fd00:77::2")
}

fn address_v6(node: &Node, host: u8) -> Result<()> {
    node.namespace.ip(&format!("addr add fd00:77::{host}/64 dev sync nodad"))
}

/// IPv6 unicast, and an MTU that is lowered and raised while flows come: frames follow it, and nothing is lost for good.
#[test]
fn netns_the_mtu_is_followed() -> Result<()> {
    let files = Files::with(v6)?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    cable((&a.namespace, "sync"), (&b.namespace, "sync"))?;
    address_v6(&a, 1)?;
    address_v6(&b, 2)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    let mut flows = 0;
    for (mtu, frame) in [(1500, 1452), (1300, 1252), (1500, 1452)] {
        for node in [&a, &b] {
            node.namespace.ip(&format!("link set sync mtu {mtu}"))?;
        }
        a.traffic(&creates(flows..flows + 5 * STEP));
        flows += 5 * STEP;
        converge(&mut a, &mut b, flows as usize)?;
        wait_until("frames are as large as the link", PATIENCE, || {
            a.status().is_ok_and(|status| status.peers[0].frame_bytes == frame)
        })?;
    }
    Ok(())
}

/// The network between the nodes swallows what is larger than 1300 bytes and says nothing: the bulk of the flows arrives all
/// the same, in smaller frames.
#[test]
fn netns_a_black_hole_is_survived() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    let rules = "table inet hole { chain in { type filter hook input priority -400; iifname \"sync\" meta length > 1300 drop; }; }";
    // The hole is in front of whatever joins datagrams.
    for node in [&a, &b] {
        node.namespace.run("ethtool", &["-K", "sync", "gro", "off", "tso", "off", "gso", "off"])?;
        node.namespace.run("ethtool", &["-K", "sync", "tx-udp-segmentation", "off"])?;
        node.namespace.run_with_input("nft", &["-f", "-"], rules)?;
    }
    a.traffic(&creates(0..4000));
    converge(&mut a, &mut b, 4000)?;
    assert!(a.status()?.peers[0].frame_bytes < 1300);
    Ok(())
}
