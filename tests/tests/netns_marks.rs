//! Marks, labels and zones that rules set on real traffic: on the standby they are the same, and after a failover the new
//! master's rules match by them. Needs root.

use anyhow::{Context, Result, ensure};
use ha_tests::conntrack::replica::expect_replica;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::topology::{CLIENT, Node, SERVER};
use ha_tests::traffic::dialogue::{carry, datagrams};
use std::net::{SocketAddr, UdpSocket};

/// On the master alone. A datagram of four bytes (12 with the header) sets the third mark back to zero.
const MARKS: &str = r"
table ip marks {
  chain forward {
    type filter hook forward priority mangle;
    udp dport 7201 ct state new ct mark set 0xdeadbeef ct label set 0
    udp dport 7202 ct state new ct mark set 1 ct label set 127 ct label set 64
    udp dport 7203 ct state new ct mark set 5
    udp dport 7203 udp length 12 ct mark set 0
  }
}
";
/// On the standby alone: it sets nothing, and counts what it finds.
const FINDS: &str = r"
table ip finds {
  counter first { }
  counter second { }
  counter third { }
  chain forward {
    type filter hook forward priority mangle;
    udp dport 7201 ct mark 0xdeadbeef ct label 0 counter name first
    udp dport 7202 ct mark 1 ct label 127 ct label 64 counter name second
    udp dport 7203 ct mark 0 counter name third
  }
}
";
/// On both: a zone for both directions, for the original one alone, and for the reply alone.
const ZONES: &str = r#"
table ip zones {
  chain prerouting {
    type filter hook prerouting priority raw;
    iifname "eth0" udp dport 7301 ct zone set 5
    iifname "eth1" udp sport 7301 ct zone set 5
    iifname "eth0" udp dport 7302 ct original zone set 6
    udp dport 7303 ct reply zone set 7
    udp sport 7303 ct reply zone set 7
  }
}
"#;

const SECURITY_MARKS: &str = r#"
table ip security {
  secmark web { "system_u:object_r:http_packet_t:s0" }
  chain forward {
    type filter hook forward priority mangle;
    meta secmark set "web"
    ct secmark set meta secmark
  }
}
"#;

/// A UDP session: the client's socket, the server's, and whom that sees.
struct Session {
    client: UdpSocket,
    server: UdpSocket,
    seen: SocketAddr,
}

impl Session {
    /// The client asks and is answered.
    fn open(lab: &Lab, port: u16) -> Result<Self> {
        let client = datagrams(&lab.pair.client, (CLIENT, 0).into())?;
        let server = datagrams(&lab.pair.server, (SERVER, port).into())?;
        let (seen, _) = carry(&client, server.local_addr()?, b"first", &server, |heard| heard == b"first")?;
        let session = Self { client, server, seen };
        session.answer(b"answer")?;
        Ok(session)
    }

    fn answer(&self, text: &[u8]) -> Result<()> {
        carry(&self.server, self.seen, text, &self.client, |heard| heard == text).map(drop)
    }

    /// The client says something; it must be seen as before.
    fn ask(&self, text: &[u8]) -> Result<()> {
        let to = self.server.local_addr()?;
        let (seen, _) = carry(&self.client, to, text, &self.server, |heard| heard == text)?;
        ensure!(seen == self.seen, "the server saw {} and now {seen}", self.seen);
        Ok(())
    }
}

fn counted(lab: &Lab, counter: &str) -> Result<u64> {
    let text = lab.pair[Node::Fw2].run("nft", &["list", "counter", "ip", "finds", counter])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().context(text.clone())?.parse().context(text.clone())
}

/// Marks (all bits, and one that was set back to zero) and labels (the first, one in the middle, the last) are set by the
/// master's rules alone. After the failover the new master's rules find each of them.
#[test]
fn netns_marks_and_labels_are_matched_after_a_failover() -> Result<()> {
    let mut lab = Lab::running(&Settings::default())?;
    lab.pair[Node::Fw1].run_with_input("nft", &["-f", "-"], MARKS)?;
    lab.pair[Node::Fw2].run_with_input("nft", &["-f", "-"], FINDS)?;
    let sessions = [Session::open(&lab, 7201)?, Session::open(&lab, 7202)?, Session::open(&lab, 7203)?];
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 3, 0)?;
    standby.expect(&["listed:", "7201"], "independent/mark", &0xdead_beef_u32.to_string())?;
    standby.expect(&["listed:", "7201"], "independent/labels/label", "0")?;
    standby.expect(&["listed:", "7202"], "independent/labels/label", "64 127")?;
    standby.expect(&["listed:", "7203"], "independent/mark", "5")?;
    sessions[2].ask(b"zero")?;
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 3, 0)?;
    standby.expect(&["listed:", "7203"], "independent/mark", "0")?;

    lab.fail_over()?;
    for (session, counter) in sessions.iter().zip(["first", "second", "third"]) {
        session.answer(b"from outside").with_context(|| counter.to_owned())?;
        session.ask(b"from inside")?;
        ensure!(counted(&lab, counter)? > 0, "the new master does not find the {counter} mark and labels");
    }
    Ok(())
}

/// Zones by rule, of both directions and of one alone: each entry stands in its zone on the standby, and its session goes on
/// after the failover, from outside first, translated as before.
#[test]
fn netns_zones_go_on_after_a_failover() -> Result<()> {
    let mut lab = Lab::running(&Settings::default())?;
    for node in Node::BOTH {
        lab.pair[node].run_with_input("nft", &["-f", "-"], ZONES)?;
    }
    let sessions = [Session::open(&lab, 7301)?, Session::open(&lab, 7302)?, Session::open(&lab, 7303)?];
    let standby = expect_replica(&lab, &[&CLIENT.to_string()], 3, 0)?;
    standby.expect(&["told:", "7301"], "zone", "0005")?;
    standby.expect(&["told:", "7302"], "original/zone", "0006")?;
    standby.expect(&["told:", "7303"], "reply/zone", "0007")?;
    lab.fail_over()?;
    for session in &sessions {
        session.answer(b"from outside").with_context(|| format!("{session:?}", session = session.seen))?;
        session.ask(b"from inside")?;
    }
    Ok(())
}

/// The security mark of a connection does not travel. Rules can set one only where a security module translates its name:
/// this kernel must refuse them, or it is said that there is something to look at.
#[test]
fn netns_security_marks_are_refused_here() -> Result<()> {
    let lab = Lab::running(&Settings::default())?;
    let refused = lab.pair[Node::Fw1].run_with_input("nft", &["-f", "-"], SECURITY_MARKS);
    let Err(refused) = refused else {
        anyhow::bail!("this kernel knows security marks: see that they stay on the master, as docs/state.md says")
    };
    println!("SECURITY MARKS ARE NOT TESTED BY TRAFFIC: no security module of this kernel has them: {refused:#}");
    let text = format!("{refused:#}");
    ensure!(text.contains("Could not process rule"), "refused by nft and not by the kernel: {text}");
    Ok(())
}
