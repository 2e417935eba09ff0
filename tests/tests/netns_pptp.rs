//! PPTP: a control connection over TCP, and a call over GRE whose keys both sides have announced in it. Needs root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::Picture;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{CLIENT, Node, SERVER, WAN_VIP};
use ha_tests::traffic::dialogue::{Connection, carry, listen, raw};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const HELPER_RULES: &str = r#"
table ip helpers {
  ct helper pptp { type "pptp" protocol tcp; }
  chain prerouting {
    type filter hook prerouting priority filter;
    tcp dport 1723 ct helper set "pptp"
  }
}
"#;
const PATIENCE: Duration = Duration::from_secs(10);
const GRE: u8 = 47;
/// What client and server call the call.
const CLIENT_CALL: u16 = 0x1111;
const SERVER_CALL: u16 = 0x2222;

/// A control message (RFC 2637 section 2): its length, "control message", a cookie, its type; and what it carries.
fn message(kind: u8, content: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = vec![0, length as u8, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind, 0, 0];
    bytes.extend(content);
    bytes.resize(length, 0);
    bytes
}

/// Says a message; what the other side hears.
fn say(mut from: &TcpStream, mut to: &TcpStream, message: &[u8]) -> Result<Vec<u8>> {
    from.write_all(message)?;
    let mut heard = vec![0; message.len()];
    to.read_exact(&mut heard)?;
    Ok(heard)
}

/// A packet of a call (RFC 2637 section 4.1): version 1 with key and sequence number, carrying PPP.
fn of_call(call: u16, text: &[u8]) -> Vec<u8> {
    let [call_high, call_low] = call.to_be_bytes();
    [&[0x30, 0x01, 0x88, 0x0b, 0, text.len() as u8, call_high, call_low, 0, 0, 0, 1], text].concat()
}

/// The standby has control connection and call, equal but for two things that the kernel denies it. It lets a GRE key be
/// translated only for a connection that has a master, and ctnetlink gives a new entry its master after its translation
/// (`nf_nat_l4proto_unique_tuple`, `ctnetlink_create_conntrack`). And the helper would drop what the control connection says.
fn expect_all_but_key_and_helper(lab: &Lab) -> Result<()> {
    const DENIED: [&str; 5] = [
        ": helper: pptp, absent",
        ": help/name: pptp, absent",
        ": status: 0x201e, 0x1e",
        " reply/layer4/dstkey: ",
        " reply/proto/dport: ",
    ];
    let about = [CLIENT.to_string()];
    let mut last = Vec::new();
    wait_until("only the translated key and the helper differ", PATIENCE, || {
        let pictures = Node::BOTH.map(|node| Picture::read(&lab.pair[node], &about));
        let [Ok(master), Ok(standby)] = pictures else { return false };
        last = master.differences(&standby);
        let related = standby.has(&["told:", &SERVER_CALL.to_string()], "master/proto/dport", "1723");
        let is_denied = |line: &String| DENIED.iter().any(|denied| line.contains(denied));
        last.len() == DENIED.len() && last.iter().all(is_denied) && related
    })
    .with_context(|| format!("{last:#?}"))
}

/// Control connection and call through source NAT, which replaces the client's number of the call. After the failover the
/// control connection goes on; of the call only what the client sends arrives, as the new master knows nothing of its keys.
#[test]
fn netns_pptp_control_goes_on_after_a_failover() -> Result<()> {
    let mut lab = Lab::running(&Settings { filter: "", ..Settings::default() })?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], HELPER_RULES)?;
    }
    let listener = listen(&lab.pair.server, (SERVER, 1723).into())?;
    let control = Connection::open((&lab.pair.client, (CLIENT, 0).into()), (SERVER, 1723).into(), &listener)?;
    let (client, server) = (&control.client, &control.server);
    // Start-Control-Connection-Request and -Reply (done), Outgoing-Call-Request and -Reply (connected).
    say(client, server, &message(1, &[1, 0], 156))?;
    say(server, client, &message(2, &[1, 0, 1, 0], 156))?;
    let heard = say(client, server, &message(7, &CLIENT_CALL.to_be_bytes(), 168))?;
    let seen = u16::from_be_bytes(heard.get(12..14).context("too short")?.try_into()?);
    ensure!(seen != CLIENT_CALL, "the helper has not replaced the call's number");
    let reply = [&SERVER_CALL.to_be_bytes()[..], &seen.to_be_bytes(), &[1, 0]].concat();
    let heard = say(server, client, &message(8, &reply, 32))?;
    ensure!(heard.get(14..16) == Some(&CLIENT_CALL.to_be_bytes()[..]), "the answer is not translated back: {heard:x?}");

    let (near, far) = (raw(&lab.pair.client, CLIENT.into(), GRE)?, raw(&lab.pair.server, SERVER.into(), GRE)?);
    let (out, back) = (SocketAddr::from((SERVER, 0)), SocketAddr::from((WAN_VIP, 0)));
    carry(&near, out, &of_call(SERVER_CALL, b"hello"), &far, |heard| heard.ends_with(b"hello"))?;
    let arrived = of_call(CLIENT_CALL, b"welcome");
    carry(&far, back, &of_call(seen, b"welcome"), &near, |heard| heard.ends_with(&arrived))?;
    expect_all_but_key_and_helper(&lab)?;

    lab.fail_over()?;
    // Echo-Request and -Reply.
    say(server, client, &message(5, b"echo", 16)).context("the control connection")?;
    say(client, server, &message(6, b"echo\x01", 20))?;
    let (source, _) = carry(&near, out, &of_call(SERVER_CALL, b"again"), &far, |heard| heard.ends_with(b"again"))?;
    ensure!(source.ip() == WAN_VIP, "not translated: {source}");
    Ok(())
}
