//! An election that hears adverts, genuine and not, and is told anything of its peer.

use crate::bytes::{Bytes, Record};
use ha_common::election::auth::Authenticator;
use ha_common::election::{
    Action, Command, Config, Damping, Election, ForeignMasters, Input, InterfaceId, LeaseEvent, LinkState, Member,
    MemberId, PairTimes, ReceivedAdvert, Transport,
};
use ha_common::role::{NodeId, Role, SyncHealth};
use ha_common::sight::{PeerReport, Sight};
use ha_common::time::Instant;
use ha_common::wire::carp::Advert;
use ha_common::wire::heartbeat::Standing;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const PASSWORD: &[u8] = b"toto";
const STEPS_MAX: usize = 128;
/// Uptime in nanoseconds, 73 years: seconds are counted in 32 bits.
const LATEST: u64 = 1 << 61;

/// Only a master advertises and announces, every change of role is told, and the timer comes to rest.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let config = config(&mut input);
    // 255/255 is what a configuration may not advertise: it is the goodbye.
    if (config.advbase, config.advskew) == (255, 255) {
        return;
    }
    let mut rig =
        Rig { election: Election::new(config, 5), now: Instant(1_000_000_000), actions: Vec::new(), role: Role::Init };
    for record in input.records(STEPS_MAX) {
        rig.apply(record);
        rig.handle(Input::Timer);
        assert!(rig.election.poll_at().is_none_or(|at| at > rig.now), "due again at once");
    }
}

struct Rig {
    election: Election,
    now: Instant,
    actions: Vec<Action>,
    role: Role,
}

fn config(input: &mut Bytes<'_>) -> Config {
    let [advbase, advskew, dead_ratio, choice, resume] = input.array();
    let member = |vhid: u8, interface: u8| Member {
        vhid,
        interface: InterfaceId(interface),
        addresses: vec![address(vhid)],
        password: PASSWORD.to_vec().into(),
        transport: Transport::Multicast {
            v4: Ipv4Addr::new(224, 0, 0, 18),
            v6: "ff02::12".parse().expect("a constant"),
        },
    };
    Config {
        node: NodeId(choice & 1),
        peer_node: (choice & 2 == 0).then_some(NodeId(!choice & 1)),
        advbase,
        advskew,
        dead_ratio,
        preempt: choice & 4 == 0,
        announce_burst: vec![Duration::ZERO, Duration::from_millis(u64::from(resume))],
        announce_refresh: (choice & 8 == 0).then_some(Duration::from_secs(60)),
        members: vec![member(3, 0), member(4, 1)],
        resume: (choice & 0x30 == 0x30).then(|| u64::from(resume)),
        maintenance: choice & 0xc0 == 0xc0,
        term_seen: u64::from(resume),
        preempt_delay: Duration::from_millis(u64::from(resume)),
        times: PairTimes::default(),
        damping: Damping::default(),
        foreign_masters: if choice & 0x18 == 0 { ForeignMasters::Refuse } else { ForeignMasters::Follow },
    }
}

fn address(vhid: u8) -> IpAddr {
    IpAddr::from([192, 168, 103, vhid])
}

impl Rig {
    fn apply(&mut self, record: Record<'_>) {
        let mut body = record.body;
        match record.kind % 8 {
            0 => self.now = Instant(self.now.0.saturating_add(body.number().saturating_mul(1_000_000)).min(LATEST)),
            1 => self.advert(body),
            2 => {
                let [interface, bits, source] = body.array();
                let source_v4 = (bits & 2 == 0).then_some([192, 168, 103, source].into());
                let state = LinkState { up: bits & 1 == 0, source_v4, source_v6: None };
                self.handle(Input::Link { interface: InterfaceId(interface % 3), state });
            }
            3 => {
                let mut health = SyncHealth::default();
                (health.peer_alive, health.in_sync) = (body.flag(), body.flag());
                self.handle(Input::Sync(health));
            }
            4 => {
                let sight = self.sight(body);
                self.handle(Input::Peer(sight));
            }
            5 => match body.u8() % 2 {
                0 => self.handle(Input::Lease(LeaseEvent::Lapsed)),
                _ => self.handle(Input::Lease(LeaseEvent::Fenced { closed_term: body.number() })),
            },
            6 => self.handle(Input::Demotion(body.u16())),
            _ => self.handle(Input::Command(match body.u8() % 8 {
                0 | 1 => Command::HandOver { force: body.flag() },
                2 | 3 => Command::Want,
                4..=6 => Command::Maintenance(body.flag()),
                _ => Command::Stop,
            })),
        }
    }

    /// With a right digest, or with one of these bytes.
    fn advert(&mut self, mut body: Bytes<'_>) {
        let [choice, source, advbase, advskew, demotion] = body.array();
        let member = choice & 3;
        let vhid = 3 + (member & 1);
        let counter = body.number();
        let digest = match choice & 4 {
            0 => Authenticator::new(vhid, &[address(vhid)], PASSWORD).digest(counter),
            _ => body.array(),
        };
        let advert = Advert { vhid, advskew, advbase, demotion, counter, digest };
        let (source, destination) = ([192, 168, 103, source].into(), [224, 0, 0, 18].into());
        let heard = ReceivedAdvert { member: MemberId(member), source, destination, advert, received: self.now };
        let accepted = self.election.stats().adverts_accepted;
        self.handle(Input::Advert(&heard));
        assert!(choice & 4 == 0 || self.election.stats().adverts_accepted == accepted, "a forged advert was accepted");
    }

    fn sight(&self, mut body: Bytes<'_>) -> Sight {
        let choice = body.u8();
        let heard = Instant(self.now.0.saturating_sub(body.number().saturating_mul(100_000)));
        let report = PeerReport {
            session: 9,
            term: body.number(),
            standing: Standing::unpack(body.u64()),
            beat_age: Duration::from_millis(body.u8().into()),
            lease_left: Duration::from_millis(body.u8().into()),
            heard,
            asked: heard,
        };
        match choice % 8 {
            0 => Sight::Unknown,
            1 => Sight::Silent { last: report },
            _ => Sight::Alive(report),
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.actions.clear();
        self.election.handle(self.now, input, &mut self.actions);
        for action in &self.actions {
            match action {
                Action::Transition(transition) => {
                    assert_eq!(transition.from, self.role, "{:?}", self.actions);
                    self.role = transition.to;
                }
                Action::Announce { .. } => assert_eq!(self.role, Role::Master, "only a master announces"),
                Action::SendAdvert { advert, .. } => {
                    let is_goodbye = (advert.advbase, advert.advskew) == (255, 255);
                    assert!(self.role == Role::Master || is_goodbye, "only a master advertises");
                }
                Action::Vips(_) | Action::Lease(_) | Action::HandOverEnded(_) => {}
            }
        }
        let stats = self.election.stats();
        assert_eq!(stats.role, self.role);
        assert!(stats.lease.is_none() || matches!(stats.role, Role::Master | Role::Init));
    }
}
