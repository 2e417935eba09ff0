//! What other helpers than FTP's announce, across a failover: TFTP's transfers, SIP's media, IRC's direct connections. Needs
//! root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::expect_replica;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::topology::{CLIENT, Node, SERVER, WAN_VIP};
use ha_tests::traffic::dialogue::{Connection, Dialogue, carry, datagrams, listen};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

const HELPER_RULES: &str = r#"
table ip helpers {
  ct helper tftp { type "tftp" protocol udp; }
  ct helper sip { type "sip" protocol udp; }
  ct helper irc { type "irc" protocol tcp; }
  chain prerouting {
    type filter hook prerouting priority filter;
    udp dport 69 ct helper set "tftp"
    udp dport 5060 ct helper set "sip"
    tcp dport 6667 ct helper set "irc"
  }
}
"#;

fn lab() -> Result<Lab> {
    let lab = Lab::running(&Settings::default())?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], HELPER_RULES)?;
    }
    Ok(lab)
}

fn client(lab: &Lab, port: u16) -> Result<UdpSocket> {
    datagrams(&lab.pair.client, (CLIENT, port).into())
}

fn server(lab: &Lab, port: u16) -> Result<UdpSocket> {
    datagrams(&lab.pair.server, (SERVER, port).into())
}

/// A message goes from one to the other; whom it comes from, as seen there.
fn pass(from: &UdpSocket, to: SocketAddr, message: &[u8], at: &UdpSocket) -> Result<SocketAddr> {
    Ok(carry(from, to, message, at, |heard| heard == message)?.0)
}

/// A TFTP server answers from a new port, to which nothing but the helper's expectation leads. One transfer is under way
/// and one asked for when the master's host dies: the first goes on in both directions, the second begins.
#[test]
fn netns_tftp_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab()?;
    let (listening, address) = (server(&lab, 69)?, SocketAddr::from((SERVER, 69)));
    let request = |name: &str| [&[0, 1], name.as_bytes(), b"\0octet\0"].concat();
    let (data, acknowledgement) = (|block: u8| [0, 3, 0, block, b'd'], |block: u8| [0, 4, 0, block]);

    let (first, transfer) = (client(&lab, 4001)?, server(&lab, 4101)?);
    let asked = pass(&first, address, &request("first"), &listening)?;
    ensure!(asked.ip() == WAN_VIP, "not translated: {asked}");
    let seen = pass(&transfer, asked, &data(1), &first)?;
    ensure!(seen == transfer.local_addr()?, "the client sees data from {seen}");
    let answered = pass(&first, seen, &acknowledgement(1), &transfer)?;
    let second = client(&lab, 4002)?;
    let asked_again = pass(&second, address, &request("second"), &listening)?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string(), &WAN_VIP.to_string()], 3, 1)?;
    standby.expect(&["told:", "4002"], "help/name", "tftp")?;
    standby.expect(&["told:", "4101"], "master/proto/sport", "4001")?;

    lab.fail_over()?;
    pass(&transfer, asked, &data(2), &first).context("the transfer that was under way")?;
    let now = pass(&first, seen, &acknowledgement(2), &transfer)?;
    ensure!(now == answered, "the server saw {answered} and now {now}");
    let later = server(&lab, 4102)?;
    pass(&later, asked_again, &data(1), &second).context("the transfer that was asked for")?;
    pass(&second, later.local_addr()?, &acknowledgement(1), &later).context("its acknowledgement")?;
    let third = client(&lab, 4003)?;
    let asked = pass(&third, address, &request("third"), &listening)?;
    pass(&server(&lab, 4103)?, asked, &data(1), &third).context("a transfer asked for after the failover").map(drop)
}

/// A call through source NAT: the helper translates what the caller says of itself and expects media and their control
/// messages from the called one. After the failover the call goes on, and both expected flows come through from there.
#[test]
fn netns_sip_media_arrive_after_a_failover() -> Result<()> {
    let mut lab = lab()?;
    let (caller, called) = (client(&lab, 5060)?, server(&lab, 5060)?);
    let invitation = invitation();
    let begins = |heard: &[u8]| heard.starts_with(b"INVITE");
    let (seen, heard) = carry(&caller, called.local_addr()?, invitation.as_bytes(), &called, begins)?;
    let heard = String::from_utf8(heard)?;
    ensure!(heard.contains(&format!("c=IN IP4 {WAN_VIP}")), "the helper has not translated the session: {heard}");
    let media = heard.split("m=audio ").nth(1).and_then(|rest| rest.split(' ').next()).context(heard.clone())?;
    let media: u16 = media.parse()?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string(), &WAN_VIP.to_string()], 1, 2)?;
    standby.expect(&["told:", "5060"], "help/name", "sip")?;

    lab.fail_over()?;
    pass(&called, seen, b"SIP/2.0 100 Trying\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n", &caller)
        .context("the answer")?;
    for offset in [0, 1] {
        let (far, near) = (server(&lab, 6000 + offset)?, client(&lab, 40_000 + offset)?);
        let seen = pass(&far, (WAN_VIP, media + offset).into(), b"media", &near).context("media, or their control")?;
        pass(&near, seen, b"more media", &far)?;
    }
    Ok(())
}

fn invitation() -> String {
    let session =
        format!("v=0\r\no=- 1 1 IN IP4 {CLIENT}\r\ns=-\r\nc=IN IP4 {CLIENT}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n");
    format!(
        "INVITE sip:bob@{SERVER} SIP/2.0\r\nVia: SIP/2.0/UDP {CLIENT}:5060;branch=z9hG4bK1\r\n\
         From: <sip:alice@{CLIENT}>;tag=1\r\nTo: <sip:bob@{SERVER}>\r\nCall-ID: 1@{CLIENT}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:alice@{CLIENT}:5060>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{session}",
        session.len()
    )
}

/// A client of IRC offers direct connections through source NAT: one is open and one offered when the master's host dies;
/// the session then offers a third.
#[test]
fn netns_irc_direct_connections_open_after_a_failover() -> Result<()> {
    let mut lab = lab()?;
    let listener = listen(&lab.pair.server, (SERVER, 6667).into())?;
    let session = Connection::open((&lab.pair.client, (CLIENT, 0).into()), (SERVER, 6667).into(), &listener)?;
    let mut session = Dialogue::from(session);
    session.answer(":server NOTICE * :hello")?;
    let one = || listen(&lab.pair.client, (CLIENT, 0).into());
    let listeners = [one()?, one()?, one()?];
    let open = |lab: &Lab, to, listener| Connection::open((&lab.pair.server, (SERVER, 0).into()), to, listener);

    let to = offer(&mut session, &listeners[0])?;
    let first = open(&lab, to, &listeners[0])?;
    first.exchange()?;
    let second = offer(&mut session, &listeners[1])?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string(), &WAN_VIP.to_string()], 2, 1)?;
    standby.expect(&["told:", "6667"], "help/name", "irc")?;
    standby.expect(&["told:"], "master/proto/dport", "6667")?;

    lab.fail_over()?;
    first.exchange().context("the open direct connection")?;
    open(&lab, second, &listeners[1]).context("the one offered before the failover")?.exchange()?;
    let third = offer(&mut session, &listeners[2]).context("an offer after the failover")?;
    open(&lab, third, &listeners[2]).context("the one offered after the failover")?.exchange()
}

/// Offers a port of the client; the address that the server is told.
fn offer(session: &mut Dialogue, listener: &TcpListener) -> Result<SocketAddr> {
    let (address, port) = (u32::from(CLIENT), listener.local_addr()?.port());
    let heard = session.say(&format!("PRIVMSG bob :\x01DCC SEND file {address} {port} 100\x01"))?;
    let mut words = heard.split_whitespace().skip_while(|word| *word != "file").skip(1);
    let (address, port) = words.next().zip(words.next()).context(heard.clone())?;
    let address = Ipv4Addr::from(address.parse::<u32>()?);
    ensure!(address == WAN_VIP, "the helper has not put the firewall's address into {heard}");
    Ok((address, port.parse()?).into())
}
