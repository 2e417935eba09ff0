//! Moments that chance alone seldom meets: several things go wrong one upon the other, as an attacker or bad luck would have it.
//! Some seeds set such traps among their faults; what they choose comes from a random stream of their own.

use crate::options::Kind;
use crate::random::Random;
use crate::sync_loop::Request;
use crate::timeline::Note;
use crate::world::{PATHS, SYNC, World};
use ha_common::election::{Command, Input};
use std::time::Duration;

/// Of the faults of a seed with traps, so many are followed by one, percent.
const PERCENT: u64 = 40;
/// A trap waits so long for what it is set for.
const WAIT: Duration = Duration::from_millis(40);
const STEP: Duration = Duration::from_micros(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trap {
    /// The peer stops as it is offered the group, and wakes up when the offer may be gone.
    StoppedAtOffer,
    /// Every path is cut until both serve; then one carries words one way.
    HealedOneWay,
    /// The sync link is cut at the moment of a hand-over, until the peers take each other for dead.
    CutAtHandOver,
    /// The group is given away while a whole table is under way and frames are late or lost.
    HandOverInTransfer,
    /// A backup's table is emptied, and it hears of nothing.
    EmptiedUnheard,
    /// The backup's process starts anew amid traffic.
    RestartedInTraffic,
}

impl Trap {
    const ALL: [Self; 6] = [
        Self::StoppedAtOffer,
        Self::HealedOneWay,
        Self::CutAtHandOver,
        Self::HandOverInTransfer,
        Self::EmptiedUnheard,
        Self::RestartedInTraffic,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::StoppedAtOffer => "stopped as it is offered the group",
            Self::HealedOneWay => "all cut, and healed one way",
            Self::CutAtHandOver => "sync link cut at a hand-over",
            Self::HandOverInTransfer => "hand-over amid a transfer",
            Self::EmptiedUnheard => "table emptied unheard",
            Self::RestartedInTraffic => "restarted amid traffic",
        }
    }
}

/// What is decided of traps.
pub struct Traps {
    random: Random,
    is_set: bool,
    pub sprung: u64,
}

impl Traps {
    pub fn new(seed: u64, is_set: bool) -> Self {
        Self { random: Random::new(seed, 8), is_set, sprung: 0 }
    }

    fn up_to(&mut self, least: u64, most: u64) -> Duration {
        self.random.between(Duration::from_millis(least), Duration::from_millis(most))
    }
}

impl World {
    /// After a fault: rarely more than it.
    pub fn trap(&mut self) {
        if !self.traps.is_set || !self.traps.random.percent(PERCENT) {
            return;
        }
        let trap = self.traps.random.pick(&Trap::ALL);
        let Some(master) = (0..self.hosts.len()).find(|node| self.is_told_master(*node)) else { return };
        let other = (master + 1 + self.traps.random.index(self.hosts.len() - 1)) % self.hosts.len();
        self.note(master, Note::Trap(trap));
        self.traps.sprung += 1;
        self.disturb();
        match trap {
            Trap::StoppedAtOffer => self.stop_at_offer(master, other),
            Trap::HealedOneWay => self.heal_one_way(),
            Trap::CutAtHandOver => self.cut_at_hand_over(master, other),
            Trap::HandOverInTransfer => self.hand_over_in_transfer(master, other),
            Trap::EmptiedUnheard => self.empty_unheard(master, other),
            Trap::RestartedInTraffic => {
                self.kill(other);
                self.boot_or_start(other);
                (0..20).for_each(|_| self.busy(4));
            }
        }
        self.disturb();
        self.observe();
    }

    fn stop_at_offer(&mut self, master: usize, other: usize) {
        let length = self.traps.up_to(60, 400);
        self.hosts[other].freeze_at_offer = Some(length);
        self.control(master, Input::Command(Command::HandOver { force: false }));
        self.run(WAIT);
        if self.hosts[other].freeze_at_offer.take().is_none() {
            self.run(length);
        }
    }

    /// Each node hears nothing for long enough to take over; then the words of one reach the other, and no answer comes back.
    fn heal_one_way(&mut self) {
        if self.options.kind != Kind::Pair || self.options.clean_path.is_some() {
            return;
        }
        let (cut, healed, path) =
            (self.traps.up_to(20, 700), self.traps.up_to(60, 200), self.traps.random.index(PATHS));
        let speaker = self.traps.random.index(2);
        for path in &mut self.paths {
            (path.cut[0][1], path.cut[1][0]) = (true, true);
        }
        self.run(cut);
        self.paths[path].repair();
        self.paths[path].cut[1 - speaker][speaker] = true;
        self.run(healed);
        for path in &mut self.paths {
            (path.cut[0][1], path.cut[1][0]) = (false, false);
        }
    }

    fn cut_at_hand_over(&mut self, master: usize, other: usize) {
        self.control(master, Input::Command(Command::HandOver { force: true }));
        self.wait_for_heir(master);
        let silence = self.options.peer_timeout + self.traps.up_to(0, 200);
        let wait = self.traps.up_to(0, 3);
        self.run(wait);
        for path in [SYNC, 0] {
            (self.paths[path].cut[master][other], self.paths[path].cut[other][master]) = (true, true);
            if self.options.links == 1 || self.options.clean_path == Some(0) {
                break;
            }
        }
        self.run(silence);
        for path in [SYNC, 0] {
            (self.paths[path].cut[master][other], self.paths[path].cut[other][master]) = (false, false);
        }
    }

    /// Until that node is told that it is master no more.
    fn wait_for_heir(&mut self, master: usize) {
        let end = self.now + WAIT;
        while self.now < end && self.is_told_master(master) && self.violation.is_none() {
            self.busy(1);
            self.run(STEP);
        }
    }

    fn hand_over_in_transfer(&mut self, master: usize, other: usize) {
        let before = self.paths[SYNC];
        self.paths[SYNC].delay_max = self.traps.random.pick(&[Duration::from_millis(2), Duration::from_millis(10)]);
        self.paths[SYNC].loss_percent = self.traps.random.pick(&[0, 10, 40]);
        self.ask_sync(other, Request::Resync);
        let wait = self.traps.up_to(0, 8);
        self.run(wait);
        self.busy(8);
        self.control(master, Input::Command(Command::HandOver { force: true }));
        self.wait_for_heir(master);
        self.paths[SYNC] = before;
    }

    fn empty_unheard(&mut self, master: usize, other: usize) {
        // A dump before tells the engine the kernel's numbers.
        self.kill(other);
        self.boot_or_start(other);
        let wait = self.traps.up_to(100, 400);
        self.run(wait);
        if !self.is_told_master(master) || self.is_told_master(other) {
            return;
        }
        let was_deaf = std::mem::replace(&mut self.hosts[other].conntrack.deaf, true);
        self.flush_table(other);
        self.hosts[other].conntrack.deaf = was_deaf;
        (0..30).for_each(|_| self.busy(2));
    }

    /// Steps of clients, and some time.
    fn busy(&mut self, steps: u32) {
        (0..steps).for_each(|_| self.traffic());
        self.run(STEP);
    }
}
