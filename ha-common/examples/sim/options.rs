//! What a seed decides before anything happens: how many nodes, how they are configured, and how rough the weather is.

use crate::random::Random;
use ha_common::sync::{Mode, Sending, VERSION, VERSION_MIN};
use std::time::Duration;

/// Portions of a dump follow each other so.
const DUMP_PAUSE: Duration = Duration::from_micros(200);

/// A run is of one of these kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Two nodes with heartbeats.
    Pair,
    /// Two nodes, no heartbeats: CARP's timers decide.
    Timers,
    /// Three nodes: CARP's timers decide.
    Three,
    /// As [`Kind::Timers`], few faults, and minutes of quiet: what timeouts do.
    Quiet,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Timers => "timers",
            Self::Three => "three",
            Self::Quiet => "quiet",
        }
    }
}

/// The configuration of one node.
#[derive(Clone, Copy, Debug)]
pub struct NodeOptions {
    pub advskew: u8,
    /// Of the sync protocol.
    pub version: u32,
    /// Of the boot clock, parts of a million.
    pub drift: i64,
    /// Time since the host was started.
    pub uptime: Duration,
}

/// Everything that is fixed for a run.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub nodes: Vec<NodeOptions>,
    pub preempt: bool,
    pub interval: Duration,
    pub multiplier: u32,
    pub lease: Duration,
    pub mode: Mode,
    pub links: u8,
    pub sending: Sending,
    pub flows_max: usize,
    pub window_frames: usize,
    pub frame_bytes_max: usize,
    pub peer_timeout: Duration,
    pub min_age: Duration,
    /// Events that a conntrack socket holds.
    pub event_room: usize,
    /// Datagrams that a sync socket holds.
    pub datagram_room: usize,
    /// Entries that a kernel holds.
    pub entries_max: usize,
    /// What one conntrack write takes.
    pub write_cost: Duration,
    /// Clients' sessions, and the mean time between two of their steps.
    pub sessions: u32,
    pub traffic_pause: Duration,
    pub faults: u32,
    /// At most so long between two faults.
    pub fault_pause: Duration,
    /// One path has neither cut nor loss, ever.
    pub clean_path: Option<usize>,
    /// A stranger sends on every path.
    pub hostile: bool,
    /// Programs in the driver path judge frames by their headers; else the engine has to by itself.
    pub programs: bool,
    /// Faults are followed by [`crate::traps`].
    pub traps: bool,
    /// Between the portions of a dump.
    pub dump_pause: Duration,
}

impl Options {
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        // Of their own, so that they change nothing of the others.
        let mut extra = Random::new(seed, 7);
        let traps = extra.percent(25);
        let dump_pauses: &[Duration] = if traps { &[DUMP_PAUSE, DUMP_PAUSE * 20] } else { &[DUMP_PAUSE] };
        let kind = match random.below(20) {
            0..=12 => Kind::Pair,
            13..=14 => Kind::Timers,
            15..=17 => Kind::Three,
            _ => Kind::Quiet,
        };
        let count = if kind == Kind::Three { 3 } else { 2 };
        let ms = Duration::from_millis;
        let skews = random.pick(&[[0, 0, 0], [0, 100, 200], [0, 100, 100], [20, 0, 40]]);
        let nodes = (0..count).map(|node| node_options(&mut random, skews[node])).collect();
        let faults = match kind {
            Kind::Pair => random.pick(&[0, 4, 10, 25, 40]),
            Kind::Timers | Kind::Three => random.pick(&[0, 4, 10, 20]),
            Kind::Quiet => random.pick(&[0, 0, 2]),
        };
        let fault_pause = match kind {
            Kind::Pair => random.pick(&[ms(5), ms(60), ms(300)]),
            Kind::Timers | Kind::Three => random.pick(&[ms(60), ms(900), ms(4000)]),
            Kind::Quiet => ms(2000),
        };
        let sessions = random.pick(&[20, 60, 150, 300]);
        let mode = random.pick(&[Mode::Ftfw, Mode::Ftfw, Mode::Ftfw, Mode::Ftfw, Mode::Alarm, Mode::Notrack]);
        // Where lost frames are not sent again, a socket that loses them in fair weather would never let tables be equal.
        let rooms: &[usize] = if mode == Mode::Ftfw { &[4, 200, 200] } else { &[200] };
        Self {
            kind,
            nodes,
            preempt: random.percent(75),
            interval: random.pick(&[ms(1), ms(1), ms(2), ms(5)]),
            multiplier: random.pick(&[3, 5, 5, 8]),
            lease: random.pick(&[ms(40), ms(40), ms(80)]),
            mode,
            links: random.pick(&[1, 1, 2]),
            sending: random.pick(&[Sending::Failover, Sending::Failover, Sending::Duplicate]),
            flows_max: if random.percent(90) { 1000 } else { sessions as usize * 3 / 4 },
            window_frames: random.pick(&[4, 128, 128]),
            frame_bytes_max: random.pick(&[1200, 1400, 8000]),
            peer_timeout: random.pick(&[ms(500), ms(500), ms(1000)]),
            min_age: if faults == 0 && random.percent(40) { ms(300) } else { Duration::ZERO },
            event_room: random.pick(&[8, 500, 500, 5000]),
            datagram_room: random.pick(rooms),
            entries_max: if random.percent(85) { 2000 } else { sessions as usize / 2 },
            write_cost: random.pick(&[Duration::ZERO, Duration::from_micros(5), Duration::from_micros(200)]),
            sessions,
            traffic_pause: traffic_pause(kind, &mut random),
            faults,
            fault_pause,
            clean_path: random.percent(60).then(|| random.index(3)),
            hostile: random.percent(50),
            programs: random.percent(50),
            traps,
            dump_pause: extra.pick(dump_pauses),
        }
    }
}

fn traffic_pause(kind: Kind, random: &mut Random) -> Duration {
    match kind {
        Kind::Pair => random.pick(&[Duration::from_micros(500), Duration::from_millis(3), Duration::from_millis(20)]),
        Kind::Timers | Kind::Three => random.pick(&[Duration::from_millis(4), Duration::from_millis(30)]),
        Kind::Quiet => Duration::from_millis(400),
    }
}

fn node_options(random: &mut Random, advskew: u8) -> NodeOptions {
    // Rarely a node of the version before: both speak what it can.
    let version = if random.percent(15) { VERSION_MIN } else { VERSION };
    let drift = random.pick(&[0, 20, -20, 200, -200, 20_000, -20_000]);
    let uptime = Duration::from_secs(random.pick(&[10, 1000, 5_000_000]));
    NodeOptions { advskew, version, drift, uptime }
}
