//! Somebody on the sync link sends what he can forge, record, cut and repeat, at a high rate, to both nodes of a running pair.

use anyhow::{Result, ensure};
use ha_common::wire::ethernet;
use ha_common::wire::frame::{DEFAULT_PORT, HEADER_LEN, Header, Kind, TAG_LEN};
use ha_common::wire::{ipv4, udp};
use ha_tests::daemon::{Daemon, Settings, Status};
use ha_tests::lab::Lab;
use ha_tests::matrix::expect_equal_and_proven;
use ha_tests::netns::Netns;
use ha_tests::packet;
use ha_tests::topology::{Node, Pair, Port, SERVER};
use ha_tests::torture::plan::Random;
use ha_tests::traffic::{Load, Traffic};
use socket2::Socket;
use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the attack goes on, after a time in which the attacker listens only.
const ATTACK: Duration = Duration::from_secs(5);
const LISTENS_FIRST: Duration = Duration::from_secs(1);
/// What two busy cores need to come to rest afterwards.
const PATIENCE: Duration = Duration::from_secs(30);
/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all sessions talk by then.
const SESSIONS: Duration = Duration::from_secs(10);
/// Attacks on each node in a round, and the pause after it.
const ROUND: usize = 40;
const PAUSE: Duration = Duration::from_millis(1);
/// Genuine frames of each kind that the attacker remembers of each node.
const RECORDED_MAX: usize = 4096;
/// Of them, those that he calls recent.
const RECENT: usize = 200;
/// Where nobody listens: each datagram to it is a flow.
const CHURN_PORT: u16 = 7009;

/// The attacker's view of one direction: what the node says, and a way to speak to its peer in its name.
struct Tap {
    speaker: Node,
    ear: Socket,
    mouth: Socket,
    /// By [`place`] of their kind.
    recorded: [VecDeque<Vec<u8>>; 3],
    random: Random,
}

impl Tap {
    fn new(switch: &Netns, speaker: Node) -> Result<Self> {
        let open = |node: Node, ethertype| switch.enter(|| packet::open(&Port::Sync.at_switch(node), ethertype))?;
        // A port of a bridge shows what it takes only to who asks for everything.
        let (ear, mouth) = (open(speaker, libc::ETH_P_ALL as u16)?, open(speaker.peer(), ethernet::TYPE_IPV4)?);
        Ok(Self { speaker, ear, mouth, recorded: Default::default(), random: Random(speaker.index() as u64 + 1) })
    }

    /// Takes down what was said since the last time; headers of Ethernet, IPv4 and UDP are left away.
    fn listen(&mut self) {
        let head = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
        let mut buffer = [0; 2048];
        for _ in 0..512 {
            let Ok(length) = (&self.ear).read(&mut buffer) else { return };
            let by_speaker = |payload: &&[u8]| {
                Header::parse(payload).is_ok_and(|header| usize::from(header.sender) == self.speaker.index())
            };
            let Some(payload) = buffer.get(head..length).filter(by_speaker) else { continue };
            let Ok(header) = Header::parse(payload) else { continue };
            let Some(recorded) = self.recorded.get_mut(place(header.kind)) else { continue };
            if recorded.len() == RECORDED_MAX {
                recorded.pop_front();
            }
            recorded.push_back(payload.to_vec());
        }
    }

    /// A recorded frame of this kind, one of the last `newest`.
    fn recorded(&mut self, kind: Kind, newest: usize) -> Option<Vec<u8>> {
        let recorded = self.recorded.get(place(kind))?;
        let newest = newest.min(recorded.len()).max(1);
        let back = 1 + self.random.below(newest as u64) as usize;
        recorded.get(recorded.len().checked_sub(back)?).cloned()
    }

    fn noise(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|_| self.random.below(256) as u8).collect()
    }

    /// A frame that the node has not sent, or has sent before.
    fn attack(&mut self) -> Option<Vec<u8>> {
        let kind = [Kind::Data, Kind::Ack, Kind::Hello][self.random.below(3) as usize];
        let mut frame = self.recorded(kind, RECENT)?;
        let header = Header::parse(&frame).ok()?;
        match self.random.below(8) {
            // Of the current session, yet to come, with another body and tag.
            0 | 1 => {
                let sequence = header.sequence + 1 + self.random.below(500);
                let body = self.noise(frame.len() - HEADER_LEN);
                frame = [&Header { sequence, ..header }.emit()[..], &body].concat();
            }
            // The right header, and a wrong tag.
            2 => *frame.last_mut()? ^= 1,
            // Word for word, lately and long ago.
            3 => {}
            4 => frame = self.recorded(kind, RECORDED_MAX)?,
            5 => frame.truncate(
                HEADER_LEN + TAG_LEN + self.random.below((frame.len() - HEADER_LEN - TAG_LEN).max(1) as u64) as usize,
            ),
            6 => frame[7] = 99,
            // A session that does not exist.
            _ => {
                frame = [&Header { session: self.random.below(u64::MAX), ..header }.emit()[..], &frame[HEADER_LEN..]]
                    .concat()
            }
        }
        Some(frame)
    }

    /// Says it to the peer in the node's name, without a UDP checksum.
    fn say(&self, payload: &[u8]) {
        let (from, to) = (self.speaker, self.speaker.peer());
        let length = (udp::HEADER_LEN + payload.len()) as u16;
        let ip = ipv4::Repr {
            source: from.sync(),
            destination: to.sync(),
            identification: 0,
            tos: 0,
            ttl: 64,
            protocol: udp::PROTOCOL,
            payload_len: length,
        };
        let port = DEFAULT_PORT.to_be_bytes();
        let udp = [port, port, length.to_be_bytes(), [0; 2]].concat();
        let macs = (to.mac(Port::Sync), from.mac(Port::Sync));
        let frame = [&ethernet::emit(macs.0, macs.1, ethernet::TYPE_IPV4)[..], &ip.emit(), &udp, payload].concat();
        // A full queue is an attack that did not happen.
        let _ = self.mouth.send(&frame);
    }
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Data => 0,
        Kind::Ack => 1,
        Kind::Hello => 2,
    }
}

/// Attacks both nodes until told to stop; returns how many frames that were.
fn attack(switch: &Netns, stop: &AtomicBool) -> Result<u64> {
    let mut taps = [Tap::new(switch, Node::Fw1)?, Tap::new(switch, Node::Fw2)?];
    let mut said = 0;
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for tap in &mut taps {
            tap.listen();
            if begin.elapsed() < LISTENS_FIRST {
                continue;
            }
            for _ in 0..ROUND {
                if let Some(frame) = tap.attack() {
                    tap.say(&frame);
                    said += 1;
                }
            }
        }
        sleep(PAUSE);
    }
    Ok(said)
}

/// New flows through the pair, some hundred a second, until told to stop.
fn churn(stop: &AtomicBool) -> Result<u64> {
    let mut flows = 0;
    while !stop.load(Ordering::Relaxed) {
        // Unconnected: nobody is told that nobody listens.
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (SERVER, CHURN_PORT))?;
        flows += 1;
        sleep(Duration::from_millis(2));
    }
    Ok(flows)
}

/// Refusals of a reason, by the programs and by the sync engine.
fn refused(status: &Status, reason: &str) -> u64 {
    status.refused(reason) + status.number(&format!("/sync/refused/{reason}"))
}

/// What an attack must not change: roles, sessions, and what went wrong.
fn fingerprint(lab: &Lab, node: Node) -> Result<(u64, usize, usize, u64, u64)> {
    let status = lab.status(node)?;
    let log = fs::read_to_string(lab.files(node).log)?;
    let times = |words: &str| log.matches(words).count();
    let counts = ["/sync/flows_cut", "/sync/events_lost"].map(|counter| status.number(counter));
    Ok((status.transitions(), times("peer is up"), times("peer is down"), counts[0], counts[1]))
}

/// Does something while both nodes are attacked and flows change.
fn under_attack(pair: &Pair, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    let (said, flows) = std::thread::scope(|scope| -> Result<_> {
        let churning = scope.spawn(|| pair.client.enter(|| churn(&stop)));
        let attacking = scope.spawn(|| attack(&pair.switch, &stop));
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let flows = churning.join().expect("the churn panicked")??;
        let said = attacking.join().expect("the attack panicked")?;
        worked.map(|()| (said, flows))
    })?;
    println!("{said} attacks amid {flows} new flows");
    ensure!(said > 10_000 && flows > 100, "{said} attacks, {flows} flows: that was none");
    Ok(())
}

/// Not in every detail: a line of the log for each refused frame would be an attack of its own.
fn settings(xdp: &'static str) -> Settings {
    Settings { xdp, log: "info", ..Settings::default() }
}

/// What the engine had to authenticate, of all that proved to be forged, since `before`.
fn opened_in_vain(before: &Status, after: &Status) -> [u64; 2] {
    let engines = |status: &Status| status.number("/sync/refused/frame_auth");
    [engines(after) - engines(before), refused(after, "frame_auth") - refused(before, "frame_auth")]
}

fn survive(xdp: &'static str, reasons: &[&str]) -> Result<()> {
    let lab = Lab::running(&settings(xdp))?;
    let load = Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load)?;
    traffic.expect_survival(0, SESSIONS)?;
    expect_equal_and_proven(&lab, PATIENCE)?;
    let before = [fingerprint(&lab, Node::Fw1)?, fingerprint(&lab, Node::Fw2)?];
    let counted = [lab.status(Node::Fw1)?, lab.status(Node::Fw2)?];
    under_attack(&lab.pair, || {
        sleep(LISTENS_FIRST + ATTACK);
        Ok(())
    })?;
    expect_equal_and_proven(&lab, PATIENCE)?;
    traffic.expect_survival(traffic.now(), SESSIONS)?;
    lab.wait_settled(Node::Fw1, PATIENCE)?;
    for node in Node::BOTH {
        ensure!(fingerprint(&lab, node)? == before[node.index()], "{}: {:?}", node.name(), fingerprint(&lab, node)?);
        let after = lab.status(node)?;
        for reason in reasons {
            let count = refused(&after, reason) - refused(&counted[node.index()], reason);
            println!("{}: {reason} {count}", node.name());
            ensure!(count > 50, "{}: {reason} was counted {count} times", node.name());
        }
        let [opened, forged] = opened_in_vain(&counted[node.index()], &after);
        println!("{}: {opened} of {forged} forgeries reached the engine", node.name());
        ensure!(xdp == "off" || opened * 4 < forged, "{}: {opened} of {forged} forgeries", node.name());
    }
    Ok(())
}

/// Where XDP judges the frames: all is refused by its reason, hellos of sessions that do not exist by their number; nothing else
/// happens to sessions, roles, tables and connections.
#[test]
fn netns_attacks_change_nothing() -> Result<()> {
    let reasons = ["frame_auth", "frame_replay", "frame_length", "frame_key_epoch", "frame_session", "frame_rate"];
    survive("auto", &reasons)
}

/// Where there is no XDP the sync engine does the same, for more of the processor's time.
#[test]
fn netns_attacks_change_nothing_without_xdp() -> Result<()> {
    survive("off", &["frame_auth", "frame_replay", "frame_length", "frame_key_epoch", "frame_session"])
}

/// The standby's daemon is killed and started again three times while the attack goes on, with recordings of all its former
/// sessions in it, and the programs of the killed one still in the kernel: each time the pair is in sync again before the attack
/// ends, and afterwards the tables are proven.
#[test]
fn netns_a_node_returns_amid_attacks() -> Result<()> {
    let mut lab = Lab::running(&settings("auto"))?;
    lab.kill(Node::Fw2);
    let start = || Daemon::start(&lab.pair[Node::Fw2], Node::Fw2, lab.dir());
    let mut standby = start()?;
    under_attack(&lab.pair, || {
        for _ in 0..3 {
            sleep(LISTENS_FIRST * 2);
            standby.process().kill();
            standby = start()?;
            lab.wait_settled(Node::Fw1, PATIENCE)?;
        }
        Ok(())
    })?;
    expect_equal_and_proven(&lab, PATIENCE)
}
