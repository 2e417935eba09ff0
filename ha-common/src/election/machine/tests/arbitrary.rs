//! Any configuration and any inputs: no panic, no busy loop, and rules that hold in every state.

use super::*;
use proptest::prelude::*;

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Jump(u64),
    Hear { member: u8, source: u8, advbase: u8, advskew: u8, genuine: bool },
    Link { interface: u8, up: bool, v4: bool },
    Sync { alive: bool, in_sync: bool },
    Peer { sight: u8, role: u8, flags: u8, gate: u8, term: u64, rank: (u8, u8), beat_age: u64 },
    Lease { fenced: bool, above: u64 },
    Demotion(u16),
    Command(Command),
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_000_000_000u64).prop_map(Step::Wait),
        1 => any::<u64>().prop_map(Step::Jump),
        8 => (0..3u8, 0..4u8, prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], any::<u8>(), prop::bool::weighted(0.9))
            .prop_map(|(member, source, advbase, advskew, genuine)| Step::Hear { member, source, advbase, advskew, genuine }),
        4 => (0..3u8, prop::bool::weighted(0.8), prop::bool::weighted(0.9))
            .prop_map(|(interface, up, v4)| Step::Link { interface, up, v4 }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(alive, in_sync)| Step::Sync { alive, in_sync }),
        16 => (0..8u8, 0..5u8, any::<u8>(), 0..3u8, prop_oneof![4 => 0..2048u64, 1 => any::<u64>()], any::<(u8, u8)>(), 0..200u64)
            .prop_map(|(sight, role, flags, gate, term, rank, beat_age)| Step::Peer { sight, role, flags, gate, term, rank, beat_age }),
        2 => (any::<bool>(), 0..3u64).prop_map(|(fenced, above)| Step::Lease { fenced, above }),
        1 => any::<u16>().prop_map(Step::Demotion),
        3 => prop_oneof![
            any::<bool>().prop_map(|force| Command::HandOver { force }),
            Just(Command::Want),
            any::<bool>().prop_map(Command::Maintenance),
        ].prop_map(Step::Command),
        1 => prop::bool::weighted(0.1).prop_map(|stop| if stop { Step::Stop } else { Step::Wait(1) }),
    ]
}

prop_compose! {
    fn any_config()(
        advbase in prop_oneof![0..3u8, any::<u8>()], advskew in any::<u8>(), dead_ratio in any::<u8>(),
        preempt in any::<bool>(), peer in any::<bool>(), members in 0..=2usize,
        burst in prop::collection::vec(any::<u64>().prop_map(Duration::from_nanos), 0..5),
        refresh in prop::option::of((0..10_000u64).prop_map(Duration::from_millis)),
        resume in prop::option::weighted(0.2, 0..2048u64), term_seen in 0..1024u64, maintenance in prop::bool::weighted(0.1),
        delay in 0..5_000u64, losses in 0..4u32, refuse in any::<bool>(),
    ) -> Config {
        let mut config = Config {
            advbase, dead_ratio, preempt, announce_burst: burst, announce_refresh: refresh,
            peer_node: peer.then_some(NodeId(0)), resume, term_seen, maintenance,
            preempt_delay: Duration::from_millis(delay), damping: Damping { losses, ..Damping::default() },
            foreign_masters: if refuse { ForeignMasters::Refuse } else { ForeignMasters::Follow },
            ..config(advskew)
        };
        config.members.truncate(members);
        config
    }
}

fn apply(rig: &mut Rig, step: &Step) {
    match *step {
        Step::Wait(nanos) => {
            rig.now = rig.now + Duration::from_nanos(nanos);
            rig.input(Input::Timer);
        }
        // Also backwards: the core must not trust the clock.
        Step::Jump(to) => {
            rig.now = Instant(to % (1 << 62));
            rig.input(Input::Timer);
        }
        Step::Hear { member, source, advbase, advskew, genuine } => {
            if rig.election.config.members.is_empty() {
                return;
            }
            let base = rig.election.config.members.len() as u8 - 1;
            let mut advert = rig.advert(MemberId(member.min(base)), [192, 168, 103, 207 + source], advbase, advskew);
            advert.member = MemberId(member);
            advert.advert.digest[0] ^= u8::from(!genuine);
            rig.input(Input::Advert(&advert));
        }
        Step::Link { interface, up, v4 } => {
            let source_v4 = v4.then(|| OWN[usize::from(interface.min(1))].into());
            rig.link(interface, LinkState { up, source_v4, source_v6: None });
        }
        Step::Sync { alive, in_sync } => rig.sync(alive, in_sync),
        Step::Peer { sight, role, flags, gate, term, rank, beat_age } => {
            let gate = [Gate::Closed, Gate::Open, Gate::Lapsed][usize::from(gate)];
            let report = rig.report(role, flags, gate, term);
            let standing = Standing { demotion: rank.0 % 3, advskew: rank.1, ..report.standing };
            let report = PeerReport { standing, beat_age: ms(beat_age), ..report };
            rig.input(Input::Peer(match sight {
                0 => Sight::Unknown,
                1 => Sight::Silent { last: report },
                _ => Sight::Alive(report),
            }));
        }
        Step::Lease { fenced: false, .. } => rig.input(Input::Lease(LeaseEvent::Lapsed)),
        Step::Lease { fenced: true, above } => {
            let closed_term = rig.stats().term.saturating_add(above);
            rig.input(Input::Lease(LeaseEvent::Fenced { closed_term }));
        }
        Step::Demotion(total) => rig.input(Input::Demotion(total)),
        Step::Command(command) => rig.input(Input::Command(command)),
        Step::Stop => rig.input(Input::Command(Command::Stop)),
    }
}

/// What must hold of the actions of any one input.
fn check_actions(before: Role, after: Role, actions: &[Action]) {
    let (mut from, mut role) = (before, before);
    // Of the last transition: what was done about the lease and the addresses.
    let (mut lease, mut vips) = (None, None);
    for (index, action) in actions.iter().enumerate() {
        match action {
            Action::Transition(transition) => {
                check_end(from, role, lease, vips);
                assert_eq!(transition.from, role, "{actions:?}");
                (from, role, lease, vips) = (role, transition.to, None, None);
            }
            Action::Lease(order) => {
                let first = index == 0 || matches!(actions[index - 1], Action::Transition(_));
                assert!(first, "the lease before all else: {actions:?}");
                assert_eq!(matches!(order, LeaseOrder::Open(_)), role == Role::Master, "{actions:?}");
                lease = Some(*order);
            }
            Action::Vips(state) => vips = Some(*state),
            Action::HandOverEnded(_) => {}
            Action::Announce { .. } => {
                assert_eq!(role, Role::Master, "only a master announces");
                assert!(before == Role::Master || vips == Some(VipState::Present), "addresses before announcements");
            }
            Action::SendAdvert { advert, .. } if (advert.advbase, advert.advskew) == (255, 255) => {
                assert_eq!(vips, None, "the goodbye before the addresses go");
                assert_eq!(lease, Some(LeaseOrder::Closed), "and with a closed gate");
            }
            Action::SendAdvert { .. } => assert_eq!(role, Role::Master, "only a master advertises"),
        }
    }
    assert_eq!(role, after, "the role changes by transitions only");
    check_end(from, after, lease, vips);
}

/// Whoever becomes master opens the gate and takes the addresses; whoever ceases to be closes it. The addresses may stay
/// for a while after a hand-over.
fn check_end(before: Role, after: Role, lease: Option<LeaseOrder>, vips: Option<VipState>) {
    match (before == Role::Master, after == Role::Master) {
        (false, true) => {
            assert_eq!(vips, Some(VipState::Present));
            assert!(matches!(lease, Some(LeaseOrder::Open(_))), "{lease:?}");
        }
        (true, false) => {
            assert_ne!(vips, Some(VipState::Present));
            assert_eq!(lease, Some(LeaseOrder::Closed));
        }
        (true, true) | (false, false) => assert_ne!(vips, Some(VipState::Present)),
    }
}

/// What must hold after any input: a lease is a master's (or that of one about to go on), in the highest of its own
/// terms; who cannot take the group says that it is not ready.
fn check_state(rig: &Rig, terms: &mut Vec<u64>) {
    let stats = rig.stats();
    let resuming = stats.role == Role::Init && stats.standing.role == ROLE_MASTER;
    assert_eq!(stats.lease.is_some(), stats.role == Role::Master || resuming);
    if let Some(lease) = stats.lease {
        assert_eq!(lease.term, stats.term);
        assert!(!lease.length.is_zero() && lease.length <= ms(1500));
        if terms.last() != Some(&lease.term) {
            assert!(
                terms.iter().all(|term| *term < lease.term || *term == u64::MAX >> 8 << 8 | 254),
                "{terms:x?} {lease:x?}"
            );
            terms.push(lease.term);
        }
    }
    let unable = matches!(stats.role, Role::Init | Role::Fault) || stats.maintenance;
    assert!(!unable || !stats.standing.has(FLAG_READY));
    assert!(stats.role == Role::Master || !stats.standing.has(FLAG_OFFER));
    assert!(stats.role == Role::Backup || !stats.standing.has(FLAG_WANT));
    assert_eq!(stats.standing.gate, Gate::Closed, "the gate is the edge's");
}

proptest! {
    /// Random steps on a random configuration: actions obey their grammar, a fault never masters, and after the timer
    /// was served the next one is in the future.
    #[test]
    fn any_inputs(config in any_config(), steps in prop::collection::vec(step(), 0..80)) {
        // 255/255 is what a configuration may not advertise: it is the goodbye.
        prop_assume!((config.advbase, config.advskew) != (255, 255));
        let mut rig = Rig::new(config);
        let (mut latest, mut terms) = (Instant(0), Vec::new());
        for step in &steps {
            let before = rig.role();
            rig.actions.clear();
            apply(&mut rig, step);
            check_actions(before, rig.role(), &rig.actions);
            check_state(&rig, &mut terms);
            latest = latest.max(rig.now);

            let before = rig.role();
            rig.input(Input::Timer);
            check_actions(before, rig.role(), &rig.actions);
            check_state(&rig, &mut terms);
            if let Some(at) = rig.election.poll_at() {
                prop_assert!(at > latest, "{at:?} after serving the timer at {latest:?}");
            }
            let faulty = rig.stats().faults.iter().any(Option::is_some);
            prop_assert!(!faulty || !matches!(rig.role(), Role::Master | Role::Backup));
        }
    }

    /// A run is decided by its seed and inputs: twice the same gives the same actions.
    #[test]
    fn deterministic(config in any_config(), steps in prop::collection::vec(step(), 0..40)) {
        let run = || {
            let mut rig = Rig::new(config.clone());
            let mut all = Vec::new();
            for step in &steps {
                rig.actions.clear();
                apply(&mut rig, step);
                all.append(&mut rig.actions);
            }
            all
        };
        prop_assert_eq!(run(), run());
    }
}
