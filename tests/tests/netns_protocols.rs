//! Flows of every protocol that the kernel tracks, by real packets, across a failover: equal on the standby in every field,
//! and going on afterwards, from outside first, where a firewall lets nothing in that it does not know. Needs root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::expect_replica;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::topology::{CLIENT, Node, SERVER, SERVER6, WAN_VIP, WAN_VIP6};
use ha_tests::traffic::dialogue::{carry, datagrams_lite, hear, raw};
use ha_tests::traffic::icmp::{ECHO_REPLY, ECHO_REQUEST, Echo};
use ha_tests::traffic::sctp::{COOKIE_ACK, COOKIE_ECHO, DATA, INIT, INIT_ACK, Packet, data, initiation};
use std::net::{IpAddr, SocketAddr, UdpSocket};

const CLIENT6: &str = "fd00:103::10";
/// IP protocol numbers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const GRE: u8 = 47;
const SCTP: u8 = 132;
/// For experiments (RFC 3692): no tracker of the kernel's knows it.
const UNKNOWN: u8 = 253;

/// Counts what conntrack calls invalid, before the firewall drops it.
const WATCH: &str = r#"
table ip watch {
  counter invalid { }
  chain forward {
    type filter hook forward priority -5;
    meta l4proto 132 ct state invalid counter name "invalid"
  }
}
"#;

fn lab(ipv6: bool) -> Result<Lab> {
    // Every protocol is replicated.
    let lab = Lab::running(&Settings { filter: "", ipv6, ..Settings::default() })?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], WATCH)?;
    }
    Ok(lab)
}

/// Raw sockets of a protocol at client and server.
fn both_raw(lab: &Lab, protocol: u8) -> Result<(UdpSocket, UdpSocket)> {
    Ok((raw(&lab.pair.client, CLIENT.into(), protocol)?, raw(&lab.pair.server, SERVER.into(), protocol)?))
}

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 0)
}

/// One SCTP packet, sent until it is heard; the ports that the other end sees.
fn pass(from: &UdpSocket, to: SocketAddr, packet: Packet, there: &UdpSocket) -> Result<(u16, u16)> {
    let same = |heard: &[u8]| {
        Packet::from_packet(heard)
            .is_some_and(|heard| (heard.tag, heard.chunk, heard.value) == (packet.tag, packet.chunk, packet.value))
    };
    let (_, heard) = carry(from, to, &packet.bytes(), there, same).with_context(|| format!("{packet:?}"))?;
    Ok(Packet::from_packet(&heard).context("no SCTP")?.ports)
}

/// The ports of the client's packets.
const OUT: (u16, u16) = (5000, 5001);

const fn packet(ports: (u16, u16), tag: u32, chunk: u8, value: &[u8]) -> Packet<'_> {
    Packet { ports, tag, chunk, value }
}

/// How many packets of SCTP a node has called invalid.
fn invalid(lab: &Lab, node: Node) -> Result<u64> {
    let text = lab.pair[node].run("nft", &["list", "counter", "ip", "watch", "invalid"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().context(text.clone())?.parse().context(text.clone())
}

/// An association is set up through source NAT. After the failover the new master lets data with the right verification
/// tags through in both directions, and calls data with a wrong tag invalid, which without the tags it could not.
#[test]
fn netns_sctp_keeps_its_tags_after_a_failover() -> Result<()> {
    const TAGS: (u32, u32) = (0x0a0b_0c0d, 0xf1e2_d3c4);
    let mut lab = lab(false)?;
    let (client, server) = both_raw(&lab, SCTP)?;
    let (mine, yours) = (initiation(TAGS.0), initiation(TAGS.1));
    let (seen, _) = pass(&client, at(SERVER), packet(OUT, 0, INIT, &mine), &server)?;
    let ports = (5001, seen);
    pass(&server, at(WAN_VIP), packet(ports, TAGS.0, INIT_ACK, &yours), &client)?;
    pass(&client, at(SERVER), packet(OUT, TAGS.1, COOKIE_ECHO, b"cookie"), &server)?;
    pass(&server, at(WAN_VIP), packet(ports, TAGS.0, COOKIE_ACK, b""), &client)?;
    pass(&client, at(SERVER), packet(OUT, TAGS.1, DATA, &data(1, b"before")), &server)?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 1, 0)?;
    // SCTP_CONNTRACK_ESTABLISHED (which conntrack prints as TCP's state of that number).
    standby.expect(&["told:"], "protocol/sctp/state", "04")?;
    standby.expect(&["told:"], "protocol/sctp/tag-original", &format!("{:08x}", TAGS.1))?;
    standby.expect(&["told:"], "protocol/sctp/tag-reply", &format!("{:08x}", TAGS.0))?;

    lab.fail_over()?;
    pass(&server, at(WAN_VIP), packet(ports, TAGS.0, DATA, &data(1, b"from outside")), &client)?;
    let (still, _) = pass(&client, at(SERVER), packet(OUT, TAGS.1, DATA, &data(2, b"from inside")), &server)?;
    ensure!(still == seen, "the server saw port {seen} and now {still}");
    ensure!(invalid(&lab, Node::Fw2)? == 0, "a packet with the right tag was invalid");
    let value = data(3, b"forged");
    let forged = packet(OUT, TAGS.1 + 1, DATA, &value).bytes();
    client.send_to(&forged, at(SERVER))?;
    let passed = hear(&server, |heard| Packet::from_packet(heard).is_some_and(|heard| heard.value == value));
    ensure!(passed.is_none(), "a packet with a wrong tag passed");
    ensure!(invalid(&lab, Node::Fw2)? == 1, "a packet with a wrong tag was not called invalid");
    Ok(())
}

/// UDP-Lite keeps its ports through source NAT. (The tracker of Linux 6.18 takes the checksum of every UDP-Lite packet for
/// wrong, and so all of them for invalid: it is told not to look at checksums.) A kernel that cannot open such sockets is said to be one.
#[test]
fn netns_udplite_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab(false)?;
    let client = match datagrams_lite(&lab.pair.client, (CLIENT, 5000).into()) {
        Ok(client) => client,
        Err(error) => {
            println!("UDP-LITE IS NOT TESTED BY TRAFFIC: this kernel has no such sockets: {error:#}");
            let refused = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
            let refused: Vec<_> = refused.filter_map(std::io::Error::raw_os_error).collect();
            ensure!(refused == [libc::EPROTONOSUPPORT], "refused otherwise than for want of it: {error:#}");
            return Ok(());
        }
    };
    for node in Node::BOTH {
        lab.pair[node].sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    }
    let server = datagrams_lite(&lab.pair.server, (SERVER, 5001).into())?;
    let is = |text: &'static [u8]| move |heard: &[u8]| heard == text;
    let (seen, _) = carry(&client, server.local_addr()?, b"ask", &server, is(b"ask"))?;
    carry(&server, seen, b"answer", &client, is(b"answer"))?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 1, 0)?;
    standby.expect(&["listed:", "udplite"], "reply/layer4/dport", &seen.port().to_string())?;
    lab.fail_over()?;
    carry(&server, seen, b"more", &client, is(b"more")).context("from outside")?;
    let (still, _) = carry(&client, server.local_addr()?, b"again", &server, is(b"again"))?;
    ensure!(still == seen, "the server saw {seen} and now {still}");
    Ok(())
}

/// GRE tunnels and a protocol that the kernel knows nothing of are tracked by addresses: through source NAT, and after the
/// failover from outside first.
#[test]
fn netns_protocols_without_ports_go_on_after_a_failover() -> Result<()> {
    let mut lab = lab(false)?;
    // The basic header of GRE (RFC 2784), carrying IPv4, and at least four bytes, without which it is not translated
    // (`gre_manip_pkt`); any text for the unknown protocol.
    let message = |protocol, text: &str| match protocol {
        GRE => [&[0, 0, 8, 0], text.as_bytes()].concat(),
        _ => text.as_bytes().to_vec(),
    };
    let mut sockets = Vec::new();
    for protocol in [GRE, UNKNOWN] {
        let (client, server) = both_raw(&lab, protocol)?;
        let (ask, answer) = (message(protocol, "asked"), message(protocol, "answer"));
        let (seen, _) = carry(&client, at(SERVER), &ask, &server, |heard| heard.ends_with(&ask))?;
        ensure!(seen.ip() == WAN_VIP, "not translated: {seen}");
        carry(&server, at(WAN_VIP), &answer, &client, |heard| heard.ends_with(&answer))?;
        sockets.push((protocol, client, server));
    }
    expect_replica(&lab, &[&CLIENT.to_string()], 2, 0)?;
    lab.fail_over()?;
    for (protocol, client, server) in sockets {
        let (more, again) = (message(protocol, "more"), message(protocol, "again"));
        carry(&server, at(WAN_VIP), &more, &client, |heard| heard.ends_with(&more))
            .with_context(|| format!("protocol {protocol} from outside"))?;
        let (seen, _) = carry(&client, at(SERVER), &again, &server, |heard| heard.ends_with(&again))?;
        ensure!(seen.ip() == WAN_VIP, "protocol {protocol} is not translated: {seen}");
    }
    Ok(())
}

/// Pings through source NAT, whose identifiers the firewall replaces, IPv4 and IPv6: a request that was sent before the
/// failover is answered after it, and the next one is seen with the same identifier.
#[test]
fn netns_pings_keep_their_identifiers_after_a_failover() -> Result<()> {
    let mut lab = lab(true)?;
    lab.pair.server.sysctl("net.ipv6.icmp.echo_ignore_all", "1")?;
    let (server6, vip6): (IpAddr, IpAddr) = (SERVER6.parse()?, WAN_VIP6.parse()?);
    let (client4, server4) = both_raw(&lab, ICMP)?;
    let client6 = raw(&lab.pair.client, CLIENT6.parse()?, ICMPV6)?;
    let server6_socket = raw(&lab.pair.server, server6, ICMPV6)?;
    let ask4 = |sequence| Echo { kind: ECHO_REQUEST, identifier: 77, sequence, payload: b"four" };
    let (_, heard4) = carry(&client4, at(SERVER), &ask4(1).bytes(), &server4, |heard| {
        Echo::from_packet(heard).is_some_and(|echo| echo.kind == ECHO_REQUEST && echo.payload == b"four")
    })?;
    let seen4 = Echo::from_packet(&heard4).context("no echo")?.identifier;
    // Type, code, checksum (the kernel's), identifier, sequence number, payload.
    let echo6 = |kind: u8, identifier: u16, sequence: u8| {
        [&[kind, 0, 0, 0], &identifier.to_be_bytes()[..], &[0, sequence], b"six"].concat()
    };
    let is6 = |kind: u8, sequence: u8| {
        move |heard: &[u8]| heard.first() == Some(&kind) && heard.get(7) == Some(&sequence) && heard.ends_with(b"six")
    };
    let (_, heard6) = carry(&client6, at(server6), &echo6(128, 78, 1), &server6_socket, is6(128, 1))?;
    let seen6 = u16::from_be_bytes(heard6.get(4..6).context("no echo")?.try_into()?);
    expect_replica(&lab, &[&CLIENT.to_string(), CLIENT6], 2, 0)?;

    lab.fail_over()?;
    let answer4 = Echo { kind: ECHO_REPLY, identifier: seen4, sequence: 1, payload: b"four" };
    let is_answer = |heard: &[u8]| Echo::from_packet(heard) == Some(Echo { identifier: 77, ..answer4 });
    carry(&server4, at(WAN_VIP), &answer4.bytes(), &client4, is_answer).context("the answer over IPv4")?;
    carry(&server6_socket, at(vip6), &echo6(129, seen6, 1), &client6, |heard| {
        is6(129, 1)(heard) && heard.get(4..6) == Some(&78u16.to_be_bytes())
    })
    .context("the answer over IPv6")?;
    carry(&client4, at(SERVER), &ask4(2).bytes(), &server4, |heard| {
        Echo::from_packet(heard) == Some(Echo { identifier: seen4, ..ask4(2) })
    })
    .context("the next request over IPv4")?;
    carry(&client6, at(server6), &echo6(128, 78, 2), &server6_socket, |heard| {
        is6(128, 2)(heard) && heard.get(4..6) == Some(&seen6.to_be_bytes())
    })
    .context("the next request over IPv6")
    .map(drop)
}
