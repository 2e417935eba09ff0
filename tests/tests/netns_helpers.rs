//! FTP across a failover, with real daemons and the kernel's helper: data connections are related to their control
//! connection on the standby too, and announced ones can still be opened there. Needs root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::expect_replica;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::Netns;
use ha_tests::topology::{Node, SERVER, WAN_VIP};
use ha_tests::traffic::dialogue::{Connection, Dialogue, listen};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Shorter as text than the address that the firewall puts in its place: sequence numbers are adjusted.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 5);

/// Both firewalls help FTP, and let out what it announces.
const HELPER_RULES: &str = r#"
table ip helpers {
  ct helper ftp { type "ftp" protocol tcp; }
  chain prerouting {
    type filter hook prerouting priority filter;
    tcp dport 21 ct helper set "ftp"
  }
}
"#;

/// On the master alone: what it sets must come to the standby by replication. (That one has a rule which uses labels, or
/// it could not store any.)
const MARKS: &str = r#"
table ip marks {
  chain forward {
    type filter hook forward priority mangle;
    tcp dport 21 ct state new ct mark set 77 ct label set 5
  }
}
"#;
const LABEL_USER: &str =
    "table ip labels { chain forward { type filter hook forward priority mangle; ct label 5 counter; }; }";

/// What the clients may open by themselves is port 21 alone, so that a passive data connection passes only as a related one.
const NOTHING_ELSE: &str = r#"
table ip strict {
  chain forward {
    type filter hook forward priority -5;
    iifname "eth0" tcp dport != 21 ct state new drop
  }
}
"#;

/// An FTP server in the LAN, which the world reaches at the firewall's address.
const SERVER_INSIDE: &str = r#"
table ip inside {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    iifname "eth1" tcp dport 21 dnat to 192.168.103.5
  }
  chain strict {
    type filter hook forward priority -5;
    iifname "eth1" tcp dport != 21 ct state new drop
  }
}
"#;
const LET_IN: &str = "add rule inet firewall forward iifname eth1 tcp dport 21 ct state new accept";

fn lab(rules: &[&str]) -> Result<Lab> {
    let lab = Lab::running(&Settings::default())?;
    lab.pair.client.ip(&format!("addr add {CLIENT}/24 dev eth0"))?;
    for node in Node::BOTH {
        for rules in [HELPER_RULES].iter().chain(rules) {
            lab.pair[node].run_with_input("nft", &["-f", "-"], rules)?;
        }
    }
    lab.pair[Node::Fw1].run_with_input("nft", &["-f", "-"], MARKS)?;
    lab.pair[Node::Fw2].run_with_input("nft", &["-f", "-"], LABEL_USER)?;
    Ok(lab)
}

/// A control connection, after what both say first.
fn control(client: (&Netns, Ipv4Addr), to: Ipv4Addr, server: (&Netns, Ipv4Addr)) -> Result<Dialogue> {
    let listener = listen(server.0, (server.1, 21).into())?;
    let mut control = Dialogue::from(Connection::open((client.0, (client.1, 0).into()), (to, 21).into(), &listener)?);
    // The helper reads commands only behind an end of line that it has seen (`find_nl_seq` in nf_conntrack_ftp.c).
    unchanged(&mut control, "220 ready")?;
    control.say("USER anonymous")?;
    Ok(control)
}

/// The server says a line which nothing on the way may change.
fn unchanged(control: &mut Dialogue, line: &str) -> Result<()> {
    let heard = control.answer(line)?;
    ensure!(heard == line, "{line} was heard as {heard}");
    Ok(())
}

/// `a,b,c,d,high,low`, as FTP writes an address.
fn written(address: Ipv4Addr, port: u16) -> String {
    let [a, b, c, d] = address.octets();
    format!("{a},{b},{c},{d},{},{}", port >> 8, port & 255)
}

fn read(text: &str) -> Result<SocketAddr> {
    let text = text.trim_matches(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u16> = text.split(',').map(str::parse).collect::<Result<_, _>>().context(text.to_owned())?;
    let [a, b, c, d, high, low] = numbers[..] else { anyhow::bail!("{text}") };
    let address = Ipv4Addr::from([a, b, c, d].map(|octet| octet as u8));
    Ok((address, high << 8 | low).into())
}

/// Announces a port of the client (active FTP); the address that the server is told.
fn announce(control: &mut Dialogue, listener: &TcpListener) -> Result<SocketAddr> {
    let heard = control.say(&format!("PORT {}", written(CLIENT, listener.local_addr()?.port())))?;
    let told = read(heard.trim_start_matches("PORT "))?;
    ensure!(told.ip() == WAN_VIP, "the helper has not put the firewall's address into {heard}");
    Ok(told)
}

/// Announces a port of the server (passive FTP); the address that the client is told.
fn pass(control: &mut Dialogue, listener: &TcpListener) -> Result<SocketAddr> {
    let SocketAddr::V4(local) = listener.local_addr()? else { anyhow::bail!("not IPv4") };
    control.say("PASV")?;
    let heard = control.answer(&format!("227 Entering Passive Mode ({})", written(*local.ip(), local.port())))?;
    read(heard.trim_start_matches("227 "))
}

fn three_listeners(namespace: &Netns, address: Ipv4Addr) -> Result<[TcpListener; 3]> {
    let one = || listen(namespace, (address, 0).into());
    Ok([one()?, one()?, one()?])
}

/// Active FTP through source NAT, with an address in the data that the helper makes longer. The standby has control and data
/// connection and the second, announced one, equal in every field, and the adjustment of sequence numbers. Then the
/// master's host dies: the first data connection goes on, the server opens the announced second one, and the control
/// connection, whose numbers the new master must adjust, announces and opens a third.
#[test]
fn netns_ftp_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab(&[])?;
    let mut control = control((&lab.pair.client, CLIENT), SERVER, (&lab.pair.server, SERVER))?;
    let listeners = three_listeners(&lab.pair.client, CLIENT)?;
    let open = |lab: &Lab, to, listener| Connection::open((&lab.pair.server, (SERVER, 20).into()), to, listener);

    let to = announce(&mut control, &listeners[0])?;
    let first = open(&lab, to, &listeners[0])?;
    first.exchange()?;
    unchanged(&mut control, "226 done")?;
    let second = announce(&mut control, &listeners[1])?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 2, 1)?;
    standby.expect(&["listed:", "21"], "independent/mark", "77")?;
    standby.expect(&["listed:", "21"], "independent/labels/label", "5")?;
    standby.expect(&["told:", "21"], "help/name", "ftp")?;
    standby.expect(&["told:", "20"], "master/proto/dport", "21")?;
    ensure!(
        standby.told.values().any(|fields| fields.contains_key("adjust-original/3")),
        "no adjustment: {standby:#?}"
    );

    lab.fail_over()?;
    first.exchange().context("the open data connection")?;
    unchanged(&mut control, "200 go on").context("the control connection")?;
    let second = open(&lab, second, &listeners[1]).context("the connection announced before the failover")?;
    second.exchange()?;
    let third = announce(&mut control, &listeners[2]).context("an announcement after the failover")?;
    open(&lab, third, &listeners[2]).context("the connection announced after the failover")?.exchange()
}

/// Passive FTP through source NAT, and a rule that lets data connections out only as related ones: one is open and one
/// announced when the master's host dies; the control connection then announces a third.
#[test]
fn netns_passive_ftp_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab(&[NOTHING_ELSE])?;
    let mut control = control((&lab.pair.client, CLIENT), SERVER, (&lab.pair.server, SERVER))?;
    let listeners = three_listeners(&lab.pair.server, SERVER)?;
    let open = |lab: &Lab, to, listener| Connection::open((&lab.pair.client, (CLIENT, 0).into()), to, listener);

    let to = pass(&mut control, &listeners[0])?;
    let first = open(&lab, to, &listeners[0])?;
    first.exchange()?;
    unchanged(&mut control, "226 done")?;
    let second = pass(&mut control, &listeners[1])?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 2, 1)?;
    standby.expect(&["told:"], "master/proto/dport", "21")?;

    lab.fail_over()?;
    first.exchange().context("the open data connection")?;
    unchanged(&mut control, "200 go on").context("the control connection")?;
    open(&lab, second, &listeners[1]).context("the connection announced before the failover")?.exchange()?;
    let third = pass(&mut control, &listeners[2]).context("an announcement after the failover")?;
    open(&lab, third, &listeners[2]).context("the connection announced after the failover")?.exchange()
}

/// Passive FTP to a server behind destination NAT, whose announcements the helper makes longer: the same as above, the
/// numbers of the other direction are adjusted, and the expected connections are translated back.
#[test]
fn netns_passive_ftp_behind_destination_nat_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab(&[SERVER_INSIDE, LET_IN])?;
    let mut control = control((&lab.pair.server, SERVER), WAN_VIP, (&lab.pair.client, CLIENT))?;
    let listeners = three_listeners(&lab.pair.client, CLIENT)?;
    let open = |lab: &Lab, to: SocketAddr, listener| {
        ensure!(to.ip() == WAN_VIP, "the helper has not put the firewall's address in the place of the server's: {to}");
        Connection::open((&lab.pair.server, (SERVER, 0).into()), to, listener)
    };

    let to = pass(&mut control, &listeners[0])?;
    let first = open(&lab, to, &listeners[0])?;
    first.exchange()?;
    unchanged(&mut control, "226 done")?;
    let second = pass(&mut control, &listeners[1])?;
    // The expectation names the server's address nowhere.
    let standby = expect_replica(&lab, &[&CLIENT.to_string(), &WAN_VIP.to_string()], 2, 1)?;
    ensure!(standby.told.values().any(|fields| fields.contains_key("adjust-reply/3")), "no adjustment: {standby:#?}");

    lab.fail_over()?;
    first.exchange().context("the open data connection")?;
    unchanged(&mut control, "200 go on").context("the control connection")?;
    open(&lab, second, &listeners[1]).context("the connection announced before the failover")?.exchange()?;
    let third = pass(&mut control, &listeners[2]).context("an announcement after the failover")?;
    open(&lab, third, &listeners[2]).context("the connection announced after the failover")?.exchange()
}
