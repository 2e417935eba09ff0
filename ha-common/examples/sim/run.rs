//! One seed: nodes start, things go wrong, then nothing does any more, and all must be well.

use crate::checks::{Facts, Violation};
use crate::faults::Fault;
use crate::options::Kind;
use crate::timeline::Note;
use crate::world::{BEGIN, Counts, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Lines of the timeline that a failure shows, unless it is asked for more.
pub const LINES: usize = 60;
const LOOK: Duration = Duration::from_millis(50);
/// Where nothing is repaired, an operator asks for a resync this often until the tables are equal.
const RESYNC: Duration = Duration::from_secs(6);

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub kind: Kind,
    /// Of the whole timeline: equal in every run of the seed.
    pub digest: u64,
    pub simulated: Duration,
    pub settled_after: Duration,
    pub faults: [u64; Fault::ALL.len()],
    pub facts: Facts,
    pub tallies: Tallies,
    pub failure: Option<Failure>,
}

/// Sums over what a run exercised, by name.
#[derive(Clone, Debug, Default)]
pub struct Tallies(pub Vec<(&'static str, u64)>);

#[derive(Clone, Debug)]
pub struct Failure {
    pub violation: Violation,
    pub options: String,
    pub timeline: String,
}

/// Runs a seed; a failure shows the last `lines` of its timeline. A panic of the code under test is a failure like others.
pub fn run(seed: u64, lines: usize) -> Outcome {
    let mut world = World::new(seed, lines);
    let settled = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    if settled.is_err() {
        world.fail("panic", crate::report::take_panic());
    }
    let settled_after = settled.unwrap_or_default();
    let failure = world.violation.take().map(|violation| Failure {
        violation,
        options: format!("{:#?}", world.options),
        timeline: world.timeline.tail(),
    });
    Outcome {
        seed,
        kind: world.options.kind,
        digest: world.timeline.digest(),
        simulated: world.now.since(BEGIN),
        settled_after,
        faults: world.faults,
        facts: world.checks.facts(),
        tallies: tallies(&world),
        failure,
    }
}

/// Returns how long peace took.
fn live(world: &mut World) -> Duration {
    for node in 0..world.hosts.len() {
        world.boot_or_start(node);
        let pause = world.random.between(Duration::ZERO, Duration::from_millis(150));
        world.run(pause);
    }
    world.run(warm_up(world.options.kind));
    for _ in 0..world.options.faults {
        if world.violation.is_some() {
            return Duration::ZERO;
        }
        world.fault();
        let most = world.options.fault_pause * if world.random.percent(10) { 8 } else { 1 };
        let pause = world.random.between(Duration::ZERO, most);
        world.run(pause);
    }
    let first = peace(world);
    let tail = match world.options.kind {
        Kind::Pair => world.random.pick(&[0, 0, 0, 3]),
        Kind::Timers | Kind::Three => world.random.pick(&[0, 6]),
        Kind::Quiet => 250,
    };
    if tail > 0 && world.violation.is_none() {
        // Quiet times with traffic: the tables are compared all the while.
        world.traffic_at = Some(world.now);
        world.run(Duration::from_secs(tail));
        peace(world);
    }
    first
}

fn warm_up(kind: Kind) -> Duration {
    match kind {
        Kind::Pair => Duration::from_millis(700),
        Kind::Timers | Kind::Three | Kind::Quiet => Duration::from_millis(4500),
    }
}

/// Ends every fault, and waits until all is well.
fn peace(world: &mut World) -> Duration {
    if world.violation.is_some() {
        return Duration::ZERO;
    }
    world.repair();
    world.note(None, Note::Peace);
    let begin = world.now;
    world.run(Duration::from_millis(300));
    world.traffic_at = None;
    world.run(Duration::from_millis(700));
    let mut resync_at = world.now;
    while world.violation.is_none() {
        let Some(wrong) = world.unsettled() else {
            world.note(None, Note::Settled);
            break;
        };
        if world.now.since(begin) > world.patience() {
            let check = if world.unsettled_roles().is_some() { "one master" } else { "equal tables" };
            world.fail(check, format!("{:?} after the last fault: {wrong}", world.now.since(begin)));
        }
        if world.now >= resync_at {
            resync_at = world.now + RESYNC;
            world.resync_if_unrepaired();
        }
        // Nobody sends any more, so the hosts ask for the addresses as they would.
        world.ask_for_addresses();
        // A stop that was under way has ended only now.
        (0..world.hosts.len()).for_each(|node| world.boot_or_start(node));
        world.run(LOOK);
    }
    world.now.since(begin)
}

fn tallies(world: &World) -> Tallies {
    let Counts { steps, hostile, hostile_refused_early, transfers, repairs, events_lost, .. } = world.counts;
    let Counts { transitions, hand_overs, restarts, key_changes, table_full, .. } = world.counts;
    let clients = &world.clients;
    let kernels = || world.hosts.iter().map(|host| &host.conntrack);
    Tallies(vec![
        ("events", steps),
        ("packets sent", world.network.sent),
        ("packets lost", world.network.lost),
        ("transitions", transitions),
        ("hand-overs ended", hand_overs),
        ("processes ended", restarts),
        ("traps", world.traps.sprung),
        ("changes of secret", key_changes),
        ("strangers' packets", hostile + hostile_refused_early),
        ("strangers' packets refused by header", hostile_refused_early),
        ("transfers received", transfers),
        ("repairs received", repairs),
        ("conntrack events lost", kernels().map(|kernel| kernel.lost_events).sum()),
        ("losses told to an engine", events_lost),
        ("conntrack writes refused", kernels().map(|kernel| kernel.refused_writes).sum()),
        ("engine tables full", table_full),
        ("sessions opened", clients.opened),
        ("sessions changed", clients.changed),
        ("sessions ended", clients.ended),
        ("sessions broken", clients.broken),
    ])
}
