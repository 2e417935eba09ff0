//! The secret of a running pair is changed: nobody is lost, and whoever has another secret is refused.

use anyhow::{Context, Result, ensure};
use ha_tests::daemon::{Settings, Status};
use ha_tests::lab::Lab;
use ha_tests::netns::{checked, wait_until};
use ha_tests::topology::{Node, SERVER};
use ha_tests::traffic::{Load, Traffic};
use serde_json::{Value, json};
use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

/// The peers tell each other within milliseconds; two busy cores take longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all sessions talk by then.
const SESSIONS: Duration = Duration::from_secs(10);

/// Where nobody listens: each datagram to it is a flow.
const CHURN_PORT: u16 = 7009;

struct Rotation {
    traffic: Traffic,
    lab: Lab,
    transitions: [u64; 2],
}

impl Rotation {
    fn new() -> Result<Self> {
        let lab = Lab::running(&Settings::default())?;
        let transitions = [lab.status(Node::Fw1)?.transitions(), lab.status(Node::Fw2)?.transitions()];
        let load = Load { tcp: 10, udp: 10, icmp: 2, ..Load::default() };
        let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load)?;
        Ok(Self { traffic, lab, transitions })
    }

    fn keygen(&self, verb: &str) -> Result<()> {
        let secret = self.lab.dir().join("secret");
        checked(Command::new(ha_tests::daemon::binary()?).args(["keygen", verb, "--output"]).arg(secret)).map(drop)
    }

    fn reload(&self, node: Node) -> Result<Output> {
        Ok(self.lab.files(node).command(&["reload"])?.output()?)
    }

    /// The secret file is read by one node, and is in force there.
    fn reload_well(&self, node: Node) -> Result<()> {
        let output = self.reload(node)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("in force: cluster.secret_file"), "{}: {said}", node.name());
        Ok(())
    }

    /// More flows begin, and the sessions of before go on. Both nodes are what they were, hear each other by heartbeats, and
    /// are in sync, and no peer was ever down.
    fn go_on(&self) -> Result<()> {
        self.lab.pair.client.enter(|| -> Result<()> {
            for _ in 0..100 {
                UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (SERVER, CHURN_PORT))?;
            }
            Ok(())
        })??;
        self.traffic.expect_survival(self.traffic.now(), SESSIONS)?;
        self.lab.wait_settled(Node::Fw1, PATIENCE)?;
        for node in Node::BOTH {
            let status = self.lab.status(node)?;
            ensure!(status.transitions() == self.transitions[node.index()], "{}: the role changed", node.name());
            ensure!(at(&status, "/election/peer/sight") == json!("alive"), "{}: {:?}", node.name(), status.0);
            let log = fs::read_to_string(self.lab.files(node).log)?;
            ensure!(log.matches("peer is up").count() == 1, "{}: a session began anew", node.name());
            ensure!(!log.contains("peer is down"), "{}: the peer was down", node.name());
        }
        Ok(())
    }

    /// Waits until both nodes use and accept these epochs.
    fn wait_keys(&self, in_use: u8, accepted: [&[u8]; 2]) -> Result<()> {
        let wanted = |node: Node| {
            let [own, peers] = [accepted[node.index()], accepted[node.peer().index()]];
            [json!(in_use), json!(own), json!(peers)]
        };
        for node in Node::BOTH {
            let mut last = Default::default();
            wait_until("the secrets are as wanted", PATIENCE, || {
                last = self.lab.status(node).map(|status| keys(&status)).unwrap_or_default();
                last == wanted(node)
            })
            .with_context(|| format!("{}: {last:?}, wanted {:?}", node.name(), wanted(node)))?;
        }
        Ok(())
    }
}

fn at(status: &Status, pointer: &str) -> Value {
    status.0.pointer(pointer).cloned().unwrap_or_default()
}

/// In use, accepted here, accepted by the peer.
fn keys(status: &Status) -> [Value; 3] {
    ["/sync/peers/0/key_epoch", "/sync/key_epochs", "/sync/peers/0/key_epochs_accepted"].map(|key| at(status, key))
}

/// Refusals of a reason on any interface or by the sync engine.
fn refused(status: &Status, reason: &str) -> u64 {
    status.refused(reason) + status.number(&format!("/sync/refused/{reason}"))
}

/// A new secret is added, told to one node, then to the other; the old one is retired at one node, then at the other. Between
/// all steps sessions begin and go on. A node that is to retire the old secret before its peer has the new one refuses.
#[test]
fn netns_the_secret_is_changed_without_a_gap() -> Result<()> {
    let pair = Rotation::new()?;
    let secret = pair.lab.dir().join("secret");
    pair.wait_keys(1, [&[1], &[1]])?;
    pair.go_on()?;
    pair.keygen("--rotate")?;
    pair.reload_well(Node::Fw1)?;
    pair.wait_keys(1, [&[1, 2], &[1]])?;
    pair.go_on()?;
    let both = fs::read(&secret)?;
    pair.keygen("--retire")?;
    let early = pair.reload(Node::Fw1)?;
    ensure!(early.status.code() == Some(1), "{early:?}");
    ensure!(String::from_utf8_lossy(&early.stdout).contains("fw2 does not hold the new secret yet"), "{early:?}");
    fs::write(&secret, both)?;
    pair.reload_well(Node::Fw2)?;
    pair.wait_keys(2, [&[1, 2], &[1, 2]])?;
    pair.go_on()?;
    pair.keygen("--retire")?;
    pair.reload_well(Node::Fw2)?;
    pair.go_on()?;
    pair.reload_well(Node::Fw1)?;
    pair.wait_keys(2, [&[2], &[2]])?;
    pair.go_on()?;
    for node in Node::BOTH {
        let log = fs::read_to_string(pair.lab.files(node).log)?;
        ensure!(log.matches("another secret is in use with the peer").count() == 1, "{}", node.name());
    }
    Ok(())
}

/// A node that starts with a secret of another epoch, or with another one of the same epoch, is refused by name and counted,
/// in the heartbeats and in the sync frames, and never becomes a peer; the master goes on.
#[test]
fn netns_another_secret_is_refused_and_counted() -> Result<()> {
    let mut pair = Rotation::new()?;
    let secret = pair.lab.dir().join("secret");
    let others = [(9, "frame_key_epoch", "heartbeat_key_epoch"), (1, "frame_auth", "heartbeat_tag")];
    for (epoch, frames, heartbeats) in others {
        pair.lab.stop(Node::Fw2)?;
        let before = pair.lab.status(Node::Fw1)?;
        fs::write(&secret, format!("twinwall-secret-v1 {epoch} {}\n", "5a".repeat(32)))?;
        pair.lab.start(Node::Fw2)?;
        for reason in [frames, heartbeats] {
            wait_until(&format!("{reason} is counted"), PATIENCE, || {
                pair.lab.status(Node::Fw1).is_ok_and(|status| refused(&status, reason) > refused(&before, reason))
            })?;
        }
        for node in Node::BOTH {
            wait_until(&format!("{} has no peer", node.name()), PATIENCE, || {
                pair.lab.status(node).is_ok_and(|status| at(&status, "/sync/peers/0/alive") == json!(false))
            })?;
        }
        ensure!(pair.lab.status(Node::Fw1)?.role() == "master");
    }
    Ok(())
}
