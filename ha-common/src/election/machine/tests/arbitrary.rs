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
    Yield,
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
        1 => Just(Step::Yield),
        1 => prop::bool::weighted(0.1).prop_map(|stop| if stop { Step::Stop } else { Step::Yield }),
    ]
}

prop_compose! {
    fn any_config()(
        advbase in prop_oneof![0..3u8, any::<u8>()], advskew in any::<u8>(), dead_ratio in any::<u8>(),
        preempt in any::<bool>(), peer in any::<bool>(), members in 0..=2usize,
        burst in prop::collection::vec(any::<u64>().prop_map(Duration::from_nanos), 0..5),
        refresh in prop::option::of((0..10_000u64).prop_map(Duration::from_millis)),
    ) -> Config {
        let mut config = Config {
            advbase, dead_ratio, preempt, announce_burst: burst, announce_refresh: refresh,
            peer_node: peer.then_some(NodeId(0)), ..config(advskew)
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
        Step::Yield => rig.input(Input::Command(Command::HandOver { force: true })),
        Step::Stop => rig.input(Input::Command(Command::Stop)),
    }
}

/// What must hold of the actions of any one input.
fn check_actions(before: Role, after: Role, actions: &[Action]) {
    let mut role = before;
    let mut vips = None;
    for (index, action) in actions.iter().enumerate() {
        match action {
            Action::Transition(transition) => {
                assert_eq!(index, 0, "a transition comes first: {actions:?}");
                assert_eq!(transition.from, before);
                role = transition.to;
            }
            Action::Vips(state) => vips = Some(*state),
            Action::Lease(_) | Action::Flush | Action::HandOverEnded(_) => {}
            Action::Announce { .. } => {
                assert_eq!(role, Role::Master, "only a master announces");
                assert!(before == Role::Master || vips == Some(VipState::Present), "addresses before announcements");
            }
            Action::SendAdvert { advert, .. } if (advert.advbase, advert.advskew) == (255, 255) => {
                assert_eq!(vips, None, "the goodbye before the addresses go");
            }
            Action::SendAdvert { .. } => assert_eq!(role, Role::Master, "only a master advertises"),
        }
    }
    assert_eq!(role, after, "the role changes by transitions only");
    match (before == Role::Master, after == Role::Master) {
        (false, true) => assert_eq!(vips, Some(VipState::Present)),
        (true, false) => assert_eq!(vips, Some(VipState::Absent)),
        (true, true) | (false, false) => assert_ne!(vips, Some(VipState::Present)),
    }
}

proptest! {
    /// Random steps on a random configuration: actions obey their grammar, a fault never masters, and after the timer
    /// was served the next one is in the future.
    #[test]
    fn any_inputs(config in any_config(), steps in prop::collection::vec(step(), 0..80)) {
        // 255/255 is what a configuration may not advertise: it is the goodbye.
        prop_assume!((config.advbase, config.advskew) != (255, 255));
        let mut rig = Rig::new(config);
        let mut latest = Instant(0);
        for step in &steps {
            let before = rig.role();
            rig.actions.clear();
            apply(&mut rig, step);
            check_actions(before, rig.role(), &rig.actions);
            latest = latest.max(rig.now);

            let before = rig.role();
            rig.input(Input::Timer);
            check_actions(before, rig.role(), &rig.actions);
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
