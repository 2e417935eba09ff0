//! Every kind of address translation, and sessions proxied by SYN cookies, across a failover of firewalls that pick up no
//! connection from its middle (`tcp_loose=0`) and drop what is invalid. Needs root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::expect_replica;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{CLIENT, LAN_VIP, LAN_VIP6, Naming, Node, SERVER, SERVER6, WAN_VIP, WAN_VIP6};
use ha_tests::traffic::dialogue::{Connection, listen};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const CLIENT6: &str = "fd00:103::10";
/// TCP tries again after pauses that double.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the world reaches behind the firewall: with its own address, and with the firewall's in the place of it.
fn published() -> String {
    format!(
        r#"
table inet published {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    iifname "eth1" tcp dport 8080 dnat ip to {CLIENT}:80
    iifname "eth1" tcp dport 8081 dnat ip to {CLIENT}:81
    iifname "eth1" tcp dport 8080 dnat ip6 to [{CLIENT6}]:80
    iifname "eth1" tcp dport 8081 dnat ip6 to [{CLIENT6}]:81
    iifname "eth0" tcp dport 8090 redirect to :8091
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" tcp dport 81 snat ip to {LAN_VIP}
    oifname "eth0" tcp dport 81 snat ip6 to {LAN_VIP6}
  }}
}}
"#
    )
}
const LET_IN: &str =
    "add rule inet firewall forward ct status dnat accept\nadd rule inet firewall input tcp dport 8091 accept";

fn lab(ipv6: bool) -> Result<Lab> {
    let lab = Lab::running(&Settings { ipv6, ..Settings::default() })?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], &published())?;
        lab.pair[node].run_with_input("nft", &["-f", "-"], LET_IN)?;
    }
    Ok(lab)
}

/// Addresses of one family: client, server, and the firewall's to the world.
struct Family {
    client: IpAddr,
    server: IpAddr,
    wan: IpAddr,
}

/// Connections with source NAT, with destination NAT, and with both; what has been said over each is heard.
fn open_all(lab: &Lab, family: &Family) -> Result<[Connection; 3]> {
    let Family { client, server, wan } = *family;
    let at = SocketAddr::new;
    let outside = listen(&lab.pair.server, at(server, 7001))?;
    let (inside, inside_too) = (listen(&lab.pair.client, at(client, 80))?, listen(&lab.pair.client, at(client, 81))?);
    let connections = [
        Connection::open((&lab.pair.client, at(client, 0)), at(server, 7001), &outside).context("source NAT")?,
        Connection::open((&lab.pair.server, at(server, 0)), at(wan, 8080), &inside).context("destination NAT")?,
        Connection::open((&lab.pair.server, at(server, 0)), at(wan, 8081), &inside_too).context("both")?,
    ];
    connections.iter().try_for_each(Connection::exchange)?;
    let seen = [connections[0].server.peer_addr()?.ip(), connections[1].server.peer_addr()?.ip()];
    ensure!(seen == [wan, server], "the first two are seen as {seen:?}");
    Ok(connections)
}

/// Source NAT with a random port, destination NAT to another port, and both in one connection: equal on the standby, and each
/// goes on after the failover, from either side.
#[test]
fn netns_translated_sessions_go_on_after_a_failover() -> Result<()> {
    let mut lab = lab(false)?;
    let family = Family { client: CLIENT.into(), server: SERVER.into(), wan: WAN_VIP.into() };
    let connections = open_all(&lab, &family)?;
    ensure!(connections[2].server.peer_addr()?.ip() == LAN_VIP, "the third is not translated at both ends");
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 3, 0)?;
    standby.expect(&["listed:", "8081"], "reply/layer3/dst", &LAN_VIP.to_string())?;
    lab.fail_over()?;
    connections.iter().try_for_each(Connection::exchange)
}

/// The same over IPv6.
#[test]
fn netns_translated_ipv6_sessions_go_on_after_a_failover() -> Result<()> {
    let mut lab = lab(true)?;
    let family = Family { client: CLIENT6.parse()?, server: SERVER6.parse()?, wan: WAN_VIP6.parse()? };
    let connections = open_all(&lab, &family)?;
    let standby = expect_replica(&lab, &[CLIENT6], 3, 0)?;
    standby.expect(&["told:", "8081"], "reply/ip/destination", LAN_VIP6)?;
    lab.fail_over()?;
    connections.iter().try_for_each(Connection::exchange)
}

/// A connection that is redirected ends on the firewall itself, at its own address: it is none of the other one's, and a
/// session opened at the same time is there.
#[test]
fn netns_redirected_connections_stay_where_they_end() -> Result<()> {
    let lab = lab(false)?;
    let local = listen(&lab.pair[Node::Fw1], (Node::Fw1.lan(), 8091).into())?;
    let to = SocketAddr::from((SERVER, 8090));
    let redirected = Connection::open((&lab.pair.client, (CLIENT, 4000).into()), to, &local)?;
    redirected.exchange()?;
    ensure!(redirected.server.local_addr()?.ip() == Node::Fw1.lan());
    let outside = listen(&lab.pair.server, (SERVER, 7001).into())?;
    let forwarded = Connection::open((&lab.pair.client, (CLIENT, 4001).into()), (SERVER, 7001).into(), &outside)?;
    forwarded.exchange()?;
    let flows = |node: Node| lab.pair[node].run("conntrack", &["-L", "-s", &CLIENT.to_string()]).unwrap_or_default();
    wait_until("the forwarded one is on the standby", PATIENCE, || flows(Node::Fw2).contains("sport=4001"))?;
    ensure!(flows(Node::Fw1).contains("sport=4000"), "the master does not list it: {}", flows(Node::Fw1));
    ensure!(!flows(Node::Fw2).contains("sport=4000"), "the redirected one is on the standby: {}", flows(Node::Fw2));
    Ok(())
}

/// Masquerading takes the address of the interface: here the virtual one, as the nodes' own are of another network. When a
/// master loses that address, its kernel throws away all that was masqueraded with it; the sessions must go on all the same:
/// after a failover in order, on to fw2, and after the crash of that, back on fw1.
/// Alone: the end of another test's namespaces can hold the kernel's lock of addresses (RTNL) for longer than a lease, and
/// then a hand-over does not last.
#[test]
fn netns_alone_masqueraded_sessions_go_on_after_a_failover() -> Result<()> {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess)?;
    for node in Node::BOTH {
        let own = node.wan();
        let host = own.octets()[3];
        lab.pair[node].ip(&format!("addr del {own}/26 dev eth1\naddr add 10.88.0.{host}/24 dev eth1"))?;
        let rules = "flush chain inet firewall postrouting\n\
                     add rule inet firewall postrouting oifname eth1 ip saddr 192.168.103.0/24 masquerade fully-random";
        lab.pair[node].run_with_input("nft", &["-f", "-"], rules)?;
    }
    lab.start_both()?;
    let outside = listen(&lab.pair.server, (SERVER, 7001).into())?;
    let one = || Connection::open((&lab.pair.client, (CLIENT, 0).into()), (SERVER, 7001).into(), &outside);
    let connections = [one()?, one()?, one()?];
    connections.iter().try_for_each(Connection::exchange)?;
    ensure!(connections[0].server.peer_addr()?.ip() == WAN_VIP, "masqueraded with another address");
    expect_replica(&lab, &[&CLIENT.to_string()], 3, 0)?;

    lab.hand_over(Node::Fw1)?;
    lab.wait_settled(Node::Fw2, PATIENCE)?;
    connections[0].exchange().context("after the failover in order")?;
    // Two have not talked since the address was lost.
    let listed = lab.pair[Node::Fw2].run("conntrack", &["-L", "-s", &CLIENT.to_string()])?;
    ensure!(listed.lines().filter(|line| line.contains("dport=7001")).count() == 3, "not all are on fw2: {listed}");
    connections[1].exchange().context("one that was silent")?;
    wait_until("they are back on fw1", PATIENCE, || {
        let listed = lab.pair[Node::Fw1].run("conntrack", &["-L", "-s", &CLIENT.to_string()]).unwrap_or_default();
        listed.lines().filter(|line| line.contains("dport=7001")).count() == 3
    })?;
    lab.crash_host(Node::Fw2)?;
    wait_until("fw1 takes over", PATIENCE, || lab.holds(Node::Fw1))?;
    connections.iter().try_for_each(Connection::exchange).context("after the crash")
}

/// The firewall answers a client's SYN itself, with a cookie, and then opens the connection to the server: sequence numbers
/// and time stamps differ on both sides. The new master translates them on.
#[test]
fn netns_synproxied_sessions_go_on_after_a_failover() -> Result<()> {
    const RULES: &str = r#"
table ip proxy {
  chain raw {
    type filter hook prerouting priority raw;
    iifname "eth0" tcp dport 7001 tcp flags & (fin|syn|rst|ack) == syn notrack
  }
  chain forward {
    type filter hook forward priority -5;
    tcp dport 7001 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
  }
}
"#;
    let mut lab = Lab::running(&Settings::default())?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], RULES)?;
    }
    let outside = listen(&lab.pair.server, (SERVER, 7001).into())?;
    let one = || Connection::open((&lab.pair.client, (CLIENT, 0).into()), (SERVER, 7001).into(), &outside);
    let connections = [one()?, one()?];
    connections.iter().try_for_each(Connection::exchange)?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 2, 0)?;
    ensure!(standby.told.values().all(|fields| fields.contains_key("synproxy/1")), "not proxied: {standby:#?}");
    lab.fail_over()?;
    connections.iter().try_for_each(Connection::exchange)
}
