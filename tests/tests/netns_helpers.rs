//! Sessions of helpers across a failover, with real daemons and the kernel's FTP helper: data connections are related to
//! their control connection on the standby too, and announced ones can still be opened there. Needs root.

use anyhow::{Context, Result, ensure};
use ha_common::sync::flow::{Extra, Flow};
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{Node, SERVER, WAN_VIP};
use ha_user::conntrack::dump::{DumpSource, Progress};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const TAKEOVER: Duration = Duration::from_secs(8);
/// TCP tries again after pauses that double.
const ANSWER: Duration = Duration::from_secs(15);
/// Shorter as text than the address that the firewall puts in its place: sequence numbers are adjusted.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 5);

/// Both firewalls help FTP, label and mark its control connections, and let out what they announce.
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

/// A control connection through the pair.
struct Control {
    client: TcpStream,
    server: BufReader<TcpStream>,
}

impl Control {
    fn open(lab: &Lab) -> Result<Self> {
        let listener = lab.pair.server.enter(|| TcpListener::bind((SERVER, 21)))??;
        let client = lab.pair.client.enter(|| connect_from(CLIENT, 0, (SERVER, 21).into()))??;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_nodelay(true)?;
        }
        let mut control = Self { client, server: BufReader::new(server) };
        // The helper reads commands only behind an end of line that it has seen (`find_nl_seq` in nf_conntrack_ftp.c).
        control.answer("220 ready")?;
        control.say("USER anonymous")?;
        Ok(control)
    }

    /// The client says a line; what the server hears.
    fn say(&mut self, line: &str) -> Result<String> {
        self.client.write_all(format!("{line}\r\n").as_bytes())?;
        let mut heard = String::new();
        self.server.read_line(&mut heard).with_context(|| format!("the server does not hear {line}"))?;
        Ok(heard.trim_end().to_owned())
    }

    /// The server answers; the client must hear just that.
    fn answer(&mut self, line: &str) -> Result<()> {
        self.server.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        let mut heard = vec![0; line.len() + 2];
        self.client.read_exact(&mut heard).with_context(|| format!("the client does not hear {line}"))?;
        ensure!(heard == format!("{line}\r\n").as_bytes(), "{line} was heard as {}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Announces a port of the client; the address that the server is told.
    fn announce(&mut self, listener: &TcpListener) -> Result<SocketAddr> {
        let port = listener.local_addr()?.port();
        let [a, b, c, d] = CLIENT.octets();
        let heard = self.say(&format!("PORT {a},{b},{c},{d},{},{}", port >> 8, port & 255))?;
        let numbers: Vec<u16> = heard
            .trim_start_matches("PORT ")
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context(heard.clone())?;
        let [a, b, c, d, high, low] = numbers[..] else { anyhow::bail!("{heard}") };
        let address = Ipv4Addr::from([a, b, c, d].map(|octet| octet as u8));
        ensure!(address == WAN_VIP, "the helper has not put the firewall's address into {heard}");
        Ok((address, high << 8 | low).into())
    }
}

fn connect_from(address: Ipv4Addr, port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    socket.connect_timeout(&to.into(), ANSWER)?;
    Ok(socket.into())
}

/// The server opens an announced data connection, and both sides exchange something over it.
fn open_data(lab: &Lab, listener: &TcpListener, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let far = lab.pair.server.enter(|| connect_from(SERVER, 20, to))?.context("the data connection")?;
    let (near, _) = listener.accept()?;
    for stream in [&far, &near] {
        stream.set_read_timeout(Some(ANSWER))?;
    }
    exchange(&far, &near)?;
    Ok((far, near))
}

fn exchange(a: &TcpStream, b: &TcpStream) -> Result<()> {
    for (mut from, mut to) in [(a, b), (b, a)] {
        from.write_all(b"data")?;
        let mut heard = [0; 4];
        to.read_exact(&mut heard)?;
        ensure!(&heard == b"data");
    }
    Ok(())
}

/// The elements of conntrack's XML list that belong to the FTP session, without what differs between nodes: id, time left,
/// counters. In a fixed order.
fn shown(lab: &Lab, node: Node) -> Vec<String> {
    let text = lab.pair[node].run("conntrack", &["-L", "-o", "xml,id,labels"]).unwrap();
    let mut flows: Vec<String> = text
        .split("<flow>")
        .skip(1)
        .filter_map(|flow| flow.split("</flow>").next())
        .filter(|flow| flow.contains(&format!("<src>{CLIENT}</src>")) || flow.contains(&format!("<dst>{CLIENT}</dst>")))
        .map(|flow| ["id", "timeout", "use"].iter().fold(flow.to_owned(), |flow, tag| without(&flow, tag)))
        .collect();
    flows.sort();
    flows
}

/// What conntrack shows badly or not at all: labels, helper, master, sequence adjustment, of control and data connection.
fn attributes(lab: &Lab, node: Node) -> Result<Vec<Extra>> {
    lab.pair[node].enter(|| -> Result<Vec<Extra>> {
        let mut dump = DumpSource::open()?;
        let mut found: Vec<Flow> = Vec::new();
        dump.start()?;
        for _ in 0..1000 {
            match dump.read(|flow| found.push(flow.clone())) {
                Progress::Ended { complete } => {
                    ensure!(complete, "the dump is not complete");
                    found.retain(|flow| [flow.key.original.source, flow.reply.source].contains(&CLIENT.into()));
                    found.sort_by_key(|flow| flow.key.original.destination_port);
                    return Ok(found.into_iter().filter_map(|flow| flow.extra.map(|extra| *extra)).collect());
                }
                Progress::Running | Progress::Idle => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        anyhow::bail!("the dump does not end")
    })?
}

/// Expectations without their time left.
fn expected(lab: &Lab, node: Node) -> Vec<String> {
    let text = lab.pair[node].run("conntrack", &["-L", "expect"]).unwrap();
    // The first word is the time left.
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| line.contains("mask-src"))
        .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

fn without(text: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    match (text.find(&open), text.find(&close)) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + close.len()..]),
        _ => text.to_owned(),
    }
}

fn lab() -> Result<Lab> {
    let lab = Lab::running(&Settings::default())?;
    lab.pair.client.ip(&format!("addr add {CLIENT}/24 dev eth0"))?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], HELPER_RULES)?;
    }
    lab.pair[Node::Fw1].run_with_input("nft", &["-f", "-"], MARKS)?;
    lab.pair[Node::Fw2].run_with_input("nft", &["-f", "-"], LABEL_USER)?;
    Ok(lab)
}

fn expect_equal(lab: &Lab, flows: usize, expectations: usize) -> Result<()> {
    let read = || Node::BOTH.map(|node| (shown(lab, node), expected(lab, node), attributes(lab, node).unwrap()));
    let mut last = read();
    wait_until("the standby has the session as the master has it", Duration::from_secs(6), || {
        last = read();
        last[0] == last[1] && last[0].0.len() == flows && last[0].1.len() == expectations
    })
    .with_context(|| format!("{last:#?}"))
}

/// Active FTP through source NAT, with an address in the data that the helper makes longer. The standby has control and data
/// connection and the second, announced one, equal in every field that conntrack shows, and the adjustment of sequence
/// numbers. Then the master's host dies: the first data connection goes on, the server opens the announced second one, and
/// the control connection, whose numbers the new master must adjust, announces and opens a third.
#[test]
fn netns_ftp_goes_on_after_a_failover() -> Result<()> {
    let mut lab = lab()?;
    let mut control = Control::open(&lab)?;
    let listeners = [(); 3].map(|()| lab.pair.client.enter(|| TcpListener::bind((CLIENT, 0))));
    let listeners: Vec<TcpListener> = listeners.into_iter().map(|listener| Ok(listener??)).collect::<Result<_>>()?;

    let first = control.announce(&listeners[0])?;
    let (far, near) = open_data(&lab, &listeners[0], first)?;
    control.answer("226 done")?;
    let second = control.announce(&listeners[1])?;
    expect_equal(&lab, 2, 1)?;
    let flows = shown(&lab, Node::Fw2);
    let of_control = flows.iter().find(|flow| flow.contains("<dport>21</dport>")).context("control")?;
    ensure!(of_control.contains("<mark>77</mark>"), "{of_control}");
    let extras = attributes(&lab, Node::Fw2)?;
    ensure!(extras.iter().any(|extra| extra.helper.as_deref() == Some("ftp")), "no helper: {extras:?}");
    ensure!(extras.iter().any(|extra| extra.labels == Some([1 << 5, 0, 0, 0])), "no label: {extras:?}");
    ensure!(extras.iter().any(|extra| extra.master.is_some()), "no master: {extras:?}");
    let adjusted = |extra: &Extra| extra.sequence.iter().flatten().any(|sequence| sequence.after != 0);
    ensure!(extras.iter().any(adjusted), "no adjustment: {extras:?}");

    lab.crash_host(Node::Fw1)?;
    wait_until("fw2 takes over", TAKEOVER, || lab.holds(Node::Fw2))?;
    exchange(&far, &near).context("the open data connection")?;
    control.answer("200 go on").context("the control connection")?;
    let (far, near) = open_data(&lab, &listeners[1], second).context("the connection announced before the failover")?;
    exchange(&far, &near)?;
    let third = control.announce(&listeners[2]).context("an announcement after the failover")?;
    open_data(&lab, &listeners[2], third).context("the connection announced after the failover").map(drop)
}
