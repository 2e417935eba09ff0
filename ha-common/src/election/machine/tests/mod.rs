//! Tests of the state machine: one file a theme, on the rig below.

mod arbitrary;
mod backup;
mod claim;
mod contact;
mod giving;
mod links;
mod preempt;
mod refusals;
mod table;
mod tenure;
mod vacancy;
mod wire;
mod wish;

use super::*;
use crate::election::auth::Authenticator;
use crate::election::{
    Damping, Fault, ForeignMasters, HandOverPhase, LeaseEvent, LeaseOrder, Member as MemberConfig, PairTimes,
    ReceivedAdvert, Transport, VipState,
};
use crate::role::NodeId;
use crate::sight::{PeerReport, Sight};
use crate::wire::carp::Advert;
use crate::wire::heartbeat::{
    FLAG_ASKED, FLAG_MAINTENANCE, FLAG_OFFER, FLAG_READY, FLAG_WANT, Gate, ROLE_BACKUP, ROLE_FAULT, ROLE_MASTER,
    Standing,
};
use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr};

const LAN: MemberId = MemberId(0);
const WAN: MemberId = MemberId(1);
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
/// A mastership of the peer.
const PEER_TERM: u64 = 5 << 8 | 255;
const SECOND: Duration = Duration::from_secs(1);

/// The pair of the fixtures: .209/.138 is this node, .208/.137 the peer, which wins a tie on both members.
const OWN: [[u8; 4]; 2] = [[192, 168, 103, 209], [157, 159, 40, 138]];
const PEER: [[u8; 4]; 2] = [[192, 168, 103, 208], [157, 159, 40, 137]];
/// A third node, which loses a tie on both.
const THIRD: [[u8; 4]; 2] = [[192, 168, 103, 210], [157, 159, 40, 141]];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config(advskew: u8) -> Config {
    let member = |vhid, interface, vip: [u8; 4]| MemberConfig {
        vhid,
        interface: InterfaceId(interface),
        addresses: vec![IpAddr::from(vip)],
        password: b"toto".to_vec().into(),
        transport: Transport::Multicast {
            v4: Ipv4Addr::new(224, 0, 0, 18),
            v6: "ff02::12".parse().expect("an address"),
        },
    };
    Config {
        node: NodeId(1),
        peer_node: Some(NodeId(0)),
        advbase: 1,
        advskew,
        dead_ratio: 3,
        preempt: true,
        announce_burst: vec![Duration::ZERO, ms(100), ms(500), ms(2000)],
        announce_refresh: Some(SECOND * 60),
        members: vec![member(3, 0, [192, 168, 103, 250]), member(4, 1, [157, 159, 40, 139])],
        resume: None,
        maintenance: false,
        term_seen: 0,
        preempt_delay: Duration::ZERO,
        times: PairTimes::default(),
        damping: Damping::default(),
        foreign_masters: ForeignMasters::default(),
    }
}

fn link(index: usize) -> LinkState {
    LinkState { up: true, source_v4: Some(OWN[index].into()), source_v6: None }
}

/// An election with a clock, a peer's counter, and the actions of the last input.
struct Rig {
    election: Election,
    now: Instant,
    actions: Vec<Action>,
    counter: u64,
}

impl Rig {
    /// In INIT, at a time that is not zero.
    fn new(config: Config) -> Self {
        Self { election: Election::new(config, 42), now: Instant(1_000_000_000_000), actions: vec![], counter: 1 << 60 }
    }

    /// In BACKUP, both links up.
    fn backup(config: Config) -> Self {
        let mut rig = Self::new(config);
        rig.link(0, link(0));
        rig.link(1, link(1));
        assert_eq!(rig.role(), Role::Backup);
        rig
    }

    /// In MASTER by silence.
    fn master(config: Config) -> Self {
        let mut rig = Self::backup(config);
        rig.run(SECOND * 5);
        assert_eq!(rig.role(), Role::Master);
        rig.actions.clear();
        rig
    }

    fn role(&self) -> Role {
        self.election.stats().role
    }

    fn stats(&self) -> &Stats {
        self.election.stats()
    }

    fn cause(&self) -> Cause {
        self.stats().last_transition.expect("a transition").cause
    }

    /// One input; its actions replace the last ones.
    fn input(&mut self, input: Input<'_>) {
        self.actions.clear();
        self.election.handle(self.now, input, &mut self.actions);
    }

    fn link(&mut self, interface: u8, state: LinkState) {
        self.input(Input::Link { interface: InterfaceId(interface), state });
    }

    fn sync(&mut self, peer_alive: bool, in_sync: bool) {
        self.input(Input::Sync(SyncHealth { peer_alive, in_sync, ..SyncHealth::default() }));
    }

    /// What the peer says, heard now: a `role` byte, `flags`, a gate, a term; not demoted, 1/0, its controller alive.
    fn report(&self, role: u8, flags: u8, gate: Gate, term: u64) -> PeerReport {
        PeerReport {
            session: 7,
            term,
            standing: Standing { role, flags, gate, advbase: 1, ..Standing::default() },
            beat_age: Duration::ZERO,
            lease_left: Duration::ZERO,
            heard: self.now,
            asked: self.now,
        }
    }

    fn see(&mut self, report: PeerReport) {
        self.input(Input::Peer(Sight::Alive(PeerReport { heard: self.now, asked: self.now, ..report })));
    }

    /// Lets time pass while the peer says `report` every millisecond, until a role changes or a hand-over ends.
    fn see_for(&mut self, duration: Duration, report: PeerReport) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + ms(1);
            self.see(report);
            if self.election.poll_at().is_some_and(|at| at <= self.now) {
                self.election.handle(self.now, Input::Timer, &mut self.actions);
            }
            let ends = |action: &Action| matches!(action, Action::Transition(_) | Action::HandOverEnded(_));
            if self.actions.iter().any(ends) {
                return;
            }
        }
    }

    /// A serving peer in term 5, heard for long enough that this node has nothing to be careful about.
    fn behind(config: Config) -> Self {
        let mut rig = Self::backup(config);
        let master = rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM);
        rig.see_for(ms(200), master);
        assert_eq!((rig.role(), rig.summary().as_str()), (Role::Backup, ""));
        rig
    }

    /// MASTER in front of a peer that is ready, both in sync. The peer ranks worse unless `config` is worse than 1/0.
    fn ahead(config: Config) -> Self {
        let mut rig = Self::backup(Config { term_seen: PEER_TERM, ..config });
        rig.sync(true, true);
        rig.input(Input::Peer(Sight::Silent { last: rig.report(ROLE_BACKUP, 0, Gate::Closed, PEER_TERM) }));
        rig.run(ms(200));
        assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
        let ready = rig.ready();
        rig.see(ready);
        rig
    }

    /// A peer that could take the group.
    fn ready(&self) -> PeerReport {
        self.report(ROLE_BACKUP, FLAG_READY, Gate::Closed, PEER_TERM)
    }

    /// The sync engine has nothing pending from before now.
    fn flushed(&mut self) {
        let health = SyncHealth { peer_alive: true, in_sync: true, flushed: self.now, ..SyncHealth::default() };
        self.input(Input::Sync(health));
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    fn standing(&self) -> Standing {
        self.stats().standing
    }

    /// A genuine advert of `source` with a new counter.
    fn advert(&mut self, member: MemberId, source: impl Into<IpAddr>, advbase: u8, advskew: u8) -> ReceivedAdvert {
        self.counter += 1;
        let config = &self.election.config.members[usize::from(member.0)];
        let auth = Authenticator::new(config.vhid, &config.addresses, &config.password);
        let advert = Advert {
            vhid: config.vhid,
            advskew,
            advbase,
            demotion: 0,
            counter: self.counter,
            digest: auth.digest(self.counter),
        };
        ReceivedAdvert { member, source: source.into(), destination: GROUP, advert, received: self.now }
    }

    fn hear_from(&mut self, member: MemberId, source: [u8; 4], advbase: u8, advskew: u8) {
        let advert = self.advert(member, source, advbase, advskew);
        self.input(Input::Advert(&advert));
    }

    /// From the peer, on one member.
    fn hear(&mut self, member: MemberId, advbase: u8, advskew: u8) {
        self.hear_from(member, PEER[usize::from(member.0)], advbase, advskew);
    }

    /// Lets time pass and all timers fire, each exactly at its time; the actions of all of them are kept.
    fn run(&mut self, duration: Duration) {
        self.actions.clear();
        let end = self.now + duration;
        while let Some(at) = self.election.poll_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.election.handle(self.now, Input::Timer, &mut self.actions);
        }
        self.now = end;
    }

    /// Lets time pass while the peer advertises on `members` every second.
    fn run_hearing(&mut self, duration: Duration, members: &[MemberId], advbase: u8, advskew: u8) {
        let end = self.now + duration;
        let mut all = Vec::new();
        while self.now < end {
            for member in members {
                self.hear(*member, advbase, advskew);
                all.append(&mut self.actions);
            }
            self.run(SECOND.min(end.since(self.now)));
            all.append(&mut self.actions);
        }
        self.actions = all;
    }

    /// The actions in short, e.g. `backup>master(goodbye) vips+ announce0 adv0=1/0`.
    fn summary(&self) -> String {
        self.actions.iter().map(short).collect::<Vec<_>>().join(" ")
    }

    fn count(&self, prefix: &str) -> usize {
        self.actions.iter().map(short).filter(|action| action.starts_with(prefix)).count()
    }
}

fn short(action: &Action) -> String {
    match action {
        Action::SendAdvert { member, advert, .. } => {
            format!("adv{}={}/{}", member.0, advert.advbase, advert.advskew)
        }
        Action::Vips(VipState::Present) => "vips+".into(),
        Action::Vips(VipState::Absent) => "vips-".into(),
        Action::Announce { member } => format!("announce{}", member.0),
        Action::Lease(LeaseOrder::Open(lease)) => format!("lease={}", lease.term >> 8),
        Action::Lease(LeaseOrder::Closed) => "closed".into(),
        Action::HandOverEnded(end) => format!("{end:?}"),
        Action::Transition(t) => format!("{}>{}({})", t.from, t.to, t.cause.name()),
    }
}
