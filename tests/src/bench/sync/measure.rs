//! What is done to a fresh pair to get the figures.

use super::Options;
use super::rig::Rig;
use super::tool::ToolName;
use super::usage::{Cpu, load_average, resident_mib, wire_bytes};
use crate::netns::wait_until;
use crate::topology::Node;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nothing more arrives when nothing has for so long: longer than any retransmission or comparison of digests.
const UNCHANGED: Duration = Duration::from_secs(4);
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// A daemon has read its kernel's table by then.
const LOAD_MAX: Duration = Duration::from_secs(60);
/// A step of the search has at most so many flows, whatever rate is asked for.
const STEP_FLOWS_MAX: u32 = 1_000_000;
/// A rate counts as reached when the generator made this share of it, percent.
const REACHED_PERCENT: f64 = 95.0;

/// One of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Search of the highest rate without loss, then twice and four times as much.
    Rate,
    /// Processor time and bytes for each flow at given rates.
    Cpu,
    /// From the entry in the master's kernel to the entry in the standby's.
    Lag,
    /// A full table for a fresh standby: time, memory, bytes; then a takeover.
    Bulk,
    /// The master's table is flushed.
    Storm,
}

impl Measure {
    pub const ALL: [Self; 5] = [Self::Rate, Self::Cpu, Self::Lag, Self::Bulk, Self::Storm];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Cpu => "cpu",
            Self::Lag => "lag",
            Self::Bulk => "bulk",
            Self::Storm => "storm",
        }
    }

    /// Rates or sizes that it is made at; 0 where it finds its own.
    pub fn operands(self, options: &Options) -> Vec<u32> {
        match self {
            Self::Rate => vec![0],
            Self::Cpu => options.rates.clone(),
            Self::Lag => options.rates.first().copied().into_iter().collect(),
            Self::Bulk => options.flows.clone(),
            Self::Storm => vec![options.storm],
        }
    }

    /// With an external cache the standby's kernel has no flow before the takeover: there is no lag.
    pub const fn is_for(self, tool: ToolName) -> bool {
        match self {
            Self::Lag => !tool.is_cached(),
            Self::Rate | Self::Cpu | Self::Bulk | Self::Storm => true,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Measure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|measure| measure.name() == text)
            .ok_or_else(|| format!("there is no measure {text}: {names}"))
    }
}

/// A figure: which, at which rate or size, how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub name: &'static str,
    pub at: u64,
    pub value: f64,
}

/// One measurement of one tool.
pub struct Trial<'a> {
    pub tool: ToolName,
    pub measure: Measure,
    /// Rate or size; 0 where the measure finds its own.
    pub operand: u32,
    pub options: &'a Options,
    pub interrupted: &'a AtomicBool,
    readings: Vec<Reading>,
}

/// What a trial has measured, and the load average at its begin.
pub struct Sample {
    pub readings: Vec<Reading>,
    pub load: f64,
}

/// One rate on a fresh pair.
struct Step {
    /// What the generator reached.
    rate: f64,
    is_reached: bool,
    missing_1s: u64,
    missing: u64,
}

impl<'a> Trial<'a> {
    pub fn new(
        tool: ToolName,
        measure: Measure,
        operand: u32,
        options: &'a Options,
        interrupted: &'a AtomicBool,
    ) -> Self {
        Self { tool, measure, operand, options, interrupted, readings: Vec::new() }
    }

    /// Makes the measurement and cleans up after itself.
    ///
    /// # Errors
    /// When there was nothing to measure: the pair did not settle, a daemon ended, or it was interrupted.
    pub fn run(mut self) -> Result<Sample> {
        let load = load_average();
        match self.measure {
            Measure::Rate => self.rate()?,
            Measure::Cpu => self.cpu()?,
            Measure::Lag => self.lag()?,
            Measure::Bulk => self.bulk()?,
            Measure::Storm => self.storm()?,
        }
        Ok(Sample { readings: self.readings, load })
    }

    /// Doubles the rate until something is lost or the generator reaches no more, then narrows the highest rate without loss
    /// down to 15 %.
    fn rate(&mut self) -> Result<()> {
        let [first, last] = self.options.search;
        let (mut best, mut asked_best, mut failed) = (0.0_f64, 0, None);
        let mut asked = first;
        loop {
            let step = self.step(asked)?;
            if step.missing > 0 {
                failed = Some(asked);
                asked = u32::midpoint(asked_best, asked);
            } else {
                best = best.max(step.rate);
                asked_best = asked;
                if !step.is_reached || asked >= last {
                    break;
                }
                asked = failed.map_or(asked.saturating_mul(2).min(last), |failed| u32::midpoint(asked, failed));
            }
            if failed.is_some_and(|failed| (failed - asked_best) * 100 <= failed * 15) {
                break;
            }
        }
        self.read("rate", 0, best);
        for factor in [2u32, 4] {
            let step = self.step((best * f64::from(factor)) as u32)?;
            let factor = u64::from(factor);
            self.read("overload-rate", factor, step.rate);
            self.read("overload-missing-1s", factor, step.missing_1s as f64);
            self.read("overload-missing", factor, step.missing as f64);
        }
        Ok(())
    }

    fn step(&self, asked: u32) -> Result<Step> {
        self.check()?;
        let asked = asked.max(1000);
        let mut rig = Rig::running(self.tool)?;
        let count = asked.saturating_mul(self.options.seconds).min(STEP_FLOWS_MAX);
        let sent = rig.generate(asked, count)?;
        std::thread::sleep(Duration::from_secs(1));
        let made = rig.count(Node::Fw1)?;
        let missing_1s = made.saturating_sub(rig.arrived()?);
        let missing = self.missing(&rig, made)?;
        let reached = sent.rate() * 100.0 / f64::from(asked);
        eprintln!("          {} asked, {:.0} flows/s, {missing} missing", asked, sent.rate());
        Ok(Step { rate: sent.rate(), is_reached: reached >= REACHED_PERCENT, missing_1s, missing })
    }

    /// Flows of fw1 that the standby does not know when nothing changes any more: each looked for, where they are in the kernel.
    fn missing(&self, rig: &Rig, made: u64) -> Result<u64> {
        let (arrived, _) = rig.settle(made, UNCHANGED, SETTLE_MAX)?;
        if self.tool.is_cached() {
            return Ok(made.saturating_sub(arrived));
        }
        let difference = rig.table(Node::Fw1)?.difference(&rig.table(Node::Fw2)?);
        Ok(u64::try_from(difference.missing + difference.unequal)?)
    }

    fn cpu(&mut self) -> Result<()> {
        let (rate, seconds) = (self.operand, self.options.seconds);
        let mut rig = Rig::running(self.tool)?;
        let usage = |rig: &mut Rig| -> Result<([Cpu; 2], u64, Instant)> {
            let cpu = [Cpu::of(rig.pid(Node::Fw1)?)?, Cpu::of(rig.pid(Node::Fw2)?)?];
            Ok((cpu, wire_bytes(&rig.lab.pair[Node::Fw1], "eth2")?, Instant::now()))
        };
        let before = usage(&mut rig)?;
        std::thread::sleep(Duration::from_secs(u64::from(seconds)));
        let idle = usage(&mut rig)?;
        let sent = rig.generate(rate, rate.saturating_mul(seconds))?;
        // The tail belongs to these flows too: until all have arrived, and a moment for acknowledgements.
        let made = rig.count(Node::Fw1)?;
        let (arrived, _) = rig.settle(made, UNCHANGED, SETTLE_MAX)?;
        std::thread::sleep(Duration::from_millis(200));
        let busy = usage(&mut rig)?;
        let at = u64::from(rate);
        // The idle part of the busy time, in proportion.
        let share = (busy.2 - idle.2).as_secs_f64() / (idle.2 - before.2).as_secs_f64();
        let flows = made as f64;
        ensure!(flows > 0.0, "the generator's flows made no entries on fw1");
        const NAMES: [[&str; 4]; 2] = [
            ["cpu-fw1", "cpu-fw1-raw", "cpu-fw1-sync", "idle-fw1"],
            ["cpu-fw2", "cpu-fw2-raw", "cpu-fw2-sync", "idle-fw2"],
        ];
        for (node, [net, raw, sync, quiet]) in NAMES.into_iter().enumerate() {
            let (used, rest) = (busy.0[node].since(idle.0[node]), idle.0[node].since(before.0[node]));
            let per_flow = |used: u64, rest: u64| (used as f64 - rest as f64 * share) / flows / 1e3;
            self.read(net, at, per_flow(used.all, rest.all));
            self.read(raw, at, used.all as f64 / flows / 1e3);
            if self.tool == ToolName::Twinwall {
                self.read(sync, at, per_flow(used.sync, rest.sync));
            }
            self.read(quiet, at, rest.all as f64 / 1e6 / (idle.2 - before.2).as_secs_f64());
        }
        let (used, rest) = (busy.1 - idle.1, idle.1 - before.1);
        self.read("wire-event", at, (used as f64 - rest as f64 * share) / flows);
        self.read("wire-event-raw", at, used as f64 / flows);
        self.read("cpu-rate", at, sent.rate());
        self.read("cpu-missing", at, made.saturating_sub(arrived) as f64);
        Ok(())
    }

    /// Both kernels stamp each entry when it is made, with the clock of this one machine: nobody else has to wake up.
    fn lag(&mut self) -> Result<()> {
        let mut rig = Rig::running(self.tool)?;
        for node in Node::BOTH {
            rig.lab.pair[node].sysctl("net.netfilter.nf_conntrack_timestamp", "1")?;
        }
        rig.generate(self.operand, self.operand.saturating_mul(self.options.seconds))?;
        rig.settle(rig.count(Node::Fw1)?, UNCHANGED, SETTLE_MAX)?;
        let (master, standby) = (rig.table(Node::Fw1)?, rig.table(Node::Fw2)?);
        let lags = master.lags_ms(&standby)?;
        let at = u64::from(self.operand);
        // By nearest rank.
        let rank = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        for (name, value) in [("lag-p50", rank(50)), ("lag-p99", rank(99)), ("lag-max", rank(100))] {
            self.read(name, at, value.context("no flow has arrived")?);
        }
        self.read("lag-missing", at, (master.count() - lags.len()) as f64);
        Ok(())
    }

    fn bulk(&mut self) -> Result<()> {
        let (flows, at) = (self.operand, u64::from(self.operand));
        let mut rig = Rig::new(Some(self.tool))?;
        rig.mark_others()?;
        rig.generate(0, flows)?;
        rig.start(Node::Fw1)?;
        self.wait_loaded(&rig, u64::from(flows))?;
        self.check()?;
        let made = rig.count(Node::Fw1)?.min(u64::from(flows));
        let wire = wire_bytes(&rig.lab.pair[Node::Fw1], "eth2")?;
        let start = Instant::now();
        rig.start(Node::Fw2)?;
        let up = Instant::now();
        if self.tool != ToolName::Twinwall {
            rig.conntrackd(Node::Fw2)?.request_resync(&rig.lab.pair[Node::Fw2])?;
        }
        let (_, arrived) = rig.settle(made, UNCHANGED, SETTLE_MAX)?;
        let commit = if self.tool.is_cached() { Some(self.commit(&rig)?) } else { None };
        let complete = arrived + commit.unwrap_or_default();
        let used = wire_bytes(&rig.lab.pair[Node::Fw1], "eth2")? - wire;
        if self.tool == ToolName::Twinwall && rig.lab.wait_settled(Node::Fw1, SETTLE_MAX).is_ok() {
            self.read("bulk-sync", at, start.elapsed().as_secs_f64());
        }
        let difference = rig.table(Node::Fw1)?.difference(&rig.table(Node::Fw2)?);
        if difference.missing == 0 {
            self.read("bulk-start", at, (complete - start).as_secs_f64());
            self.read("bulk-up", at, (complete - up).as_secs_f64());
        }
        self.read("bulk-missing", at, difference.missing as f64);
        self.read("bulk-unequal", at, difference.unequal as f64);
        self.read("wire-entry", at, used as f64 / made as f64);
        self.read("rss-fw1", at, resident_mib(rig.pid(Node::Fw1)?)?);
        self.read("rss-fw2", at, resident_mib(rig.pid(Node::Fw2)?)?);
        let takeover = match commit {
            Some(commit) => commit,
            None => self.takeover(&mut rig, made)?,
        };
        self.read("takeover", at, takeover.as_secs_f64());
        self.read("takeover-missing", at, (flows as usize).saturating_sub(rig.table(Node::Fw2)?.count()) as f64);
        Ok(())
    }

    /// Waits until fw1's daemon knows its kernel's flows, and has the addresses.
    fn wait_loaded(&self, rig: &Rig, flows: u64) -> Result<()> {
        if self.tool == ToolName::Twinwall {
            rig.lab.wait_role(Node::Fw1, "master", LOAD_MAX)?;
        }
        wait_until("fw1's daemon has read the kernel's table", LOAD_MAX, || match self.tool {
            ToolName::Twinwall => {
                rig.lab.status(Node::Fw1).is_ok_and(|status| status.number("/sync/flows_local") >= flows)
            }
            ToolName::Ftfw | ToolName::FtfwDirect | ToolName::NotrackDirect => {
                let daemon = rig.conntrackd(Node::Fw1);
                daemon.and_then(|daemon| daemon.cached_own(&rig.lab.pair[Node::Fw1])).is_ok_and(|own| own >= flows)
            }
        })?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    /// conntrackd's commit: how long until the kernel has what the cache has.
    fn commit(&self, rig: &Rig) -> Result<Duration> {
        let begin = Instant::now();
        rig.conntrackd(Node::Fw2)?.commit(&rig.lab.pair[Node::Fw2])?;
        Ok(begin.elapsed())
    }

    /// How long after the takeover the standby's kernel has all flows. twinwall's takes over by itself when fw1 dies; the
    /// others are told by what moves the addresses: for them it is what that script's `-c` takes, with nothing to commit.
    fn takeover(&self, rig: &mut Rig, made: u64) -> Result<Duration> {
        if self.tool != ToolName::Twinwall {
            return self.commit(rig);
        }
        rig.crash_master()?;
        let limit = Instant::now() + Duration::from_secs(10);
        while rig.lab.pair.vips_held(Node::Fw2)? != [true; 2] {
            ensure!(Instant::now() < limit, "fw2 did not take over");
            std::thread::sleep(Duration::from_millis(1));
        }
        let begin = Instant::now();
        while rig.count(Node::Fw2)? < made && begin.elapsed() < UNCHANGED {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begin.elapsed())
    }

    fn storm(&mut self) -> Result<()> {
        let (flows, at) = (self.operand, u64::from(self.operand));
        let mut rig = Rig::running(self.tool)?;
        let rate = self.options.rates.first().copied().unwrap_or(0);
        rig.generate(rate, flows)?;
        let (arrived, _) = rig.settle(rig.count(Node::Fw1)?, UNCHANGED, SETTLE_MAX)?;
        ensure!(arrived > 0, "no flow has arrived before the flush");
        self.check()?;
        rig.unpin();
        rig.lab.pair[Node::Fw1].run("conntrack", &["-F"])?;
        std::thread::sleep(Duration::from_secs(1));
        let stale = |rig: &Rig| -> Result<f64> {
            Ok(if self.tool.is_cached() { rig.arrived()? as f64 } else { rig.table(Node::Fw2)?.count() as f64 })
        };
        let after_1s = stale(&rig)?;
        rig.settle(0, UNCHANGED, SETTLE_MAX)?;
        let at_the_end = stale(&rig)?;
        self.read("stale-1s", at, after_1s);
        self.read("stale", at, at_the_end);
        Ok(())
    }

    fn read(&mut self, name: &'static str, at: u64, value: f64) {
        self.readings.push(Reading { name, at, value });
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
