//! What goes wrong, and what operators do: one random change for the worse or the better at a time.

use crate::checks::SECRETS_MAX;
use crate::network::Path;
use crate::options::Kind;
use crate::sync_loop::{Request, key};
use crate::timeline::Note;
use crate::world::{PATHS, SYNC, World};
use ha_common::election::{Command, Input};
use std::time::Duration;

/// The longest short stall.
const SHORT: Duration = Duration::from_millis(200);

macro_rules! faults {
    ($($variant:ident $name:literal $weight:literal,)+) => {
        /// Kinds of change, each with a name and how often it is drawn.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Fault { $($variant,)+ }

        impl Fault {
            pub const ALL: &[(Fault, u64)] = &[$((Fault::$variant, $weight),)+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

faults! {
    Freeze "process stopped" 3,
    FreezeLong "process stopped for long" 2,
    FreezeInTick "stopped in the middle of a tick" 2,
    FreezeControl "control loop stalled" 2,
    FreezeSync "sync loop stalled" 3,
    PauseCounted "host paused" 2,
    PauseMissed "host paused, clock too" 1,
    Drift "clock drifts otherwise" 2,
    Kill "process killed" 2,
    Restart "process killed and started" 4,
    Return "restarted keeping its role" 2,
    PowerLoss "power lost" 2,
    Boot "started or booted" 4,
    CutPath "path cut" 3,
    CutOneWay "path cut one way" 4,
    Loss "path loses" 4,
    Delay "path delays and reorders" 3,
    Duplicate "path duplicates" 3,
    Link "link down or up" 4,
    Demote "demotion" 3,
    HandOver "failover asked" 4,
    Want "failover wanted" 2,
    Maintenance "maintenance" 2,
    Stop "stopped" 2,
    Resync "resync asked" 2,
    NewSecret "secrets reloaded" 5,
    Deaf "events lost" 4,
    RefusedWrites "kernel refuses writes" 3,
    Flush "table flushed" 2,
    Burst "burst of sessions" 3,
    Better "faults repaired" 6,
}

impl Fault {
    pub fn draw(random: &mut crate::random::Random) -> Fault {
        let total: u64 = Self::ALL.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        for (fault, weight) in Self::ALL {
            match at.checked_sub(*weight) {
                Some(left) => at = left,
                None => return *fault,
            }
        }
        Fault::Better
    }
}

impl World {
    /// One random change.
    pub fn fault(&mut self) {
        let fault = Fault::draw(&mut self.random);
        let node = self.random.index(self.hosts.len());
        let value = self.random.next();
        self.note(node, Note::Fault(fault, value % 1000));
        self.faults[fault as usize] += 1;
        self.disturb();
        match fault {
            Fault::Freeze => self.stall(node, true, true, 1),
            Fault::FreezeLong => {
                let times = self.long();
                self.stall(node, true, true, times);
            }
            Fault::FreezeInTick => {
                let length = self.short();
                self.hosts[node].freeze_in_tick = Some(length);
            }
            Fault::FreezeControl => self.stall(node, true, false, 1),
            Fault::FreezeSync => {
                let times = self.long();
                self.stall(node, false, true, times);
            }
            Fault::PauseCounted => self.pause(node, true),
            Fault::PauseMissed => self.pause(node, false),
            Fault::Drift => {
                let drift = self.random.pick(&[0, 100, -100, 30_000, -30_000]);
                self.hosts[node].clock.drift(self.now, drift);
            }
            Fault::Kill => self.kill(node),
            Fault::Restart => {
                self.kill(node);
                self.boot_or_start(node);
            }
            Fault::Return => {
                self.leave(node);
                self.boot_or_start(node);
            }
            Fault::PowerLoss => self.power_loss(node),
            Fault::Boot => self.boot_or_start(node),
            Fault::CutPath => self.cut(node, true),
            Fault::CutOneWay => self.cut(node, false),
            Fault::Loss => self.harm_path(|path, percent, _| path.loss_percent = percent),
            Fault::Delay => self.harm_path(|path, _, delay| path.delay_max = delay),
            Fault::Duplicate => self.harm_path(|path, percent, _| path.duplicate_percent = percent),
            Fault::Link => {
                let path = self.path();
                let up = self.hosts[node].link_up[path];
                self.set_link(node, path, !up);
            }
            Fault::Demote => {
                let total = self.random.pick(&[0, 0, 10, 300]);
                self.control(node, Input::Demotion(total));
            }
            Fault::HandOver => {
                let force = self.random.percent(25);
                self.control(node, Input::Command(Command::HandOver { force }));
            }
            Fault::Want => self.control(node, Input::Command(Command::Want)),
            Fault::Maintenance => self.maintain(node),
            Fault::Stop => self.control(node, Input::Command(Command::Stop)),
            Fault::Resync => self.ask_sync(node, Request::Resync),
            Fault::NewSecret => self.rotate(),
            Fault::Deaf => self.hosts[node].conntrack.deaf ^= true,
            Fault::RefusedWrites => {
                let percent = self.random.pick(&[0, 10, 50, 100]);
                self.hosts[node].conntrack.refused_percent = percent;
            }
            Fault::Flush => self.flush_table(node),
            Fault::Burst => (0..64).for_each(|_| self.traffic()),
            Fault::Better => self.repair(),
        }
        self.observe();
        self.trap();
    }

    fn short(&mut self) -> Duration {
        self.random.between(Duration::ZERO, SHORT)
    }

    /// How many times longer a long stall is: longer than a peer timeout, and than CARP's timers where these decide.
    fn long(&self) -> u32 {
        match self.options.kind {
            Kind::Pair => 8,
            Kind::Timers | Kind::Three | Kind::Quiet => 30,
        }
    }

    fn stall(&mut self, node: usize, control: bool, sync: bool, times: u32) {
        let (now, length) = (self.now, self.short() * times);
        let until = |stalls: bool| if stalls { now + length } else { now };
        self.hosts[node].freeze(now, until(control), until(sync));
    }

    fn pause(&mut self, node: usize, counted: bool) {
        let length = self.short() * 4;
        self.hosts[node].pause(self.now, length, counted);
    }

    /// Any path but the one that is spared.
    fn path(&mut self) -> usize {
        let path = self.random.index(PATHS);
        if self.options.clean_path == Some(path) { (path + 1) % PATHS } else { path }
    }

    fn cut(&mut self, node: usize, both_ways: bool) {
        let (path, nodes) = (self.path(), self.hosts.len());
        let other = (node + 1 + self.random.index(nodes - 1)) % nodes;
        let cut = &mut self.paths[path].cut;
        if both_ways {
            (cut[node][other], cut[other][node]) = (true, true);
        } else {
            cut[node][other] ^= true;
        }
    }

    fn harm_path(&mut self, harm: impl FnOnce(&mut Path, u64, Duration)) {
        let path = self.path();
        let percent = self.random.pick(&[0, 5, 25, 60]);
        // Heartbeats bear round trips of some milliseconds; the sync link bears more.
        let delay = Duration::from_micros(self.random.pick(&[50, 200, 2000, 5000]));
        harm(&mut self.paths[path], percent, if path == SYNC { delay * 4 } else { delay });
    }

    fn maintain(&mut self, node: usize) {
        let on = self.random.percent(50);
        self.hosts[node].settings.maintenance = on;
        self.control(node, Input::Command(Command::Maintenance(on)));
    }

    /// An operator takes one step of a change of secrets: a reload on a node that lacks the new one, then of one that still
    /// has the old one. A node that its peers would be lost to refuses, as in production.
    fn rotate(&mut self) {
        let newest = self.secret;
        let lacks = |host: &crate::host::Host| host.keys.last().is_none_or(|key| key.epoch != newest);
        let keeps = |host: &crate::host::Host| host.keys.len() > 1;
        let (node, keys) = if let Some(node) = self.hosts.iter().position(lacks) {
            (node, vec![key(newest - 1), key(newest)])
        } else if let Some(node) = self.hosts.iter().position(keeps) {
            (node, vec![key(newest)])
        } else if self.secret + 1 < SECRETS_MAX {
            self.secret += 1;
            (self.random.index(self.hosts.len()), vec![key(newest), key(newest + 1)])
        } else {
            return;
        };
        let host = &mut self.hosts[node];
        // A node that is down gets its file all the same; a running one asks its engine first.
        if host.sync.as_ref().is_some_and(|sync| sync.engine.peer_without(&keys).is_some()) {
            return;
        }
        host.hold(&keys);
        self.ask_sync(node, Request::Keys(keys));
    }

    pub fn flush_table(&mut self, node: usize) {
        let (now, is_master) = (self.now, self.is_told_master(node));
        let numbers: Vec<_> = self.hosts[node].conntrack.entries.keys().copied().collect();
        for number in numbers {
            self.hosts[node].conntrack.end(number);
            self.ended_by_operator(node, number);
            if is_master {
                self.clients.end(now, number);
            }
        }
        self.wake_sync(node);
    }

    /// Every path, kernel and node works again.
    pub fn repair(&mut self) {
        self.disturb();
        for path in &mut self.paths {
            path.repair();
        }
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.conntrack.deaf = false;
            host.conntrack.refused_percent = 0;
            host.settings.maintenance = false;
            self.control(node, Input::Command(Command::Maintenance(false)));
            self.control(node, Input::Demotion(0));
            for path in 0..PATHS {
                if !self.hosts[node].link_up[path] {
                    self.set_link(node, path, true);
                }
            }
            self.boot_or_start(node);
        }
    }
}
