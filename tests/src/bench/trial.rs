//! One run: a fresh pair, sessions through it, one fault, and what the client saw.

use super::probe::{self, Probe};
use super::scenario::Scenario;
use super::stats::rounded;
use super::sync::usage::load_average;
use super::tool::{self, Tool, ToolName};
use super::{Options, preload};
use crate::extra_vips;
use crate::lab::Lab;
use crate::topology::{Naming, Node, SERVER};
use crate::traffic::session::{Failure, Session};
use crate::traffic::{Load, Traffic};
use anyhow::{Context, Result, bail, ensure};
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest until the first node has the addresses, and until both are settled.
const START_MAX: Duration = Duration::from_secs(15);
/// The longest until the standby knows every flow.
const KNOWN_MAX: Duration = Duration::from_secs(60);
/// Nothing is done for so long: the control window, in which the longest silence is the machine's own.
const QUIET: Duration = Duration::from_secs(1);
/// And then up to this: the fault falls into any phase of the adverts.
const PHASE: Duration = Duration::from_secs(1);
/// The longest from the takeover until every session has gone on: TCP tries again 6.2 s after its last packet when
/// 3 s were not enough.
const SESSIONS_MAX: Duration = Duration::from_secs(12);
/// What is watched after the takeover before the idle sessions are woken, and again after all is well: a second takeover
/// or a fight over the addresses would show.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// TCP sessions, and as many UDP flows; most of them are idle when it happens.
const SESSIONS: usize = 50;
const IDLE: usize = 40;

/// What a run has measured.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The longest interval between two replies that ends after the fault, milliseconds.
    pub outage_ms: f64,
    /// Probes sent since the fault and never answered.
    pub lost: usize,
    /// Sessions that went on, unharmed, after the takeover.
    pub survived: usize,
    pub sessions: usize,
    /// What became of the others: kind and why, each.
    pub casualties: Vec<String>,
    /// The longest interval between two replies in the second before the fault.
    pub baseline_gap_ms: f64,
    /// The longest interval between two probes that were sent since the fault.
    pub sender_gap_ms: f64,
    /// Load average (1 min) at the begin.
    pub load: f64,
    /// Why the run is no success although it could be measured.
    pub failure: Option<String>,
}

/// Which run it is.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub tool: ToolName,
    pub scenario: Scenario,
    /// From 1 on.
    pub run: u16,
}

impl Trial {
    /// Does the run and cleans up after itself.
    ///
    /// # Errors
    /// When there was nothing to measure: the pair did not settle, the standby did not learn the flows, the fault could not
    /// be made, or it was interrupted.
    pub fn run(self, options: &Options, interrupted: &AtomicBool) -> Result<Sample> {
        let Self { tool, scenario, .. } = self;
        let settings = tool::settings(options.vips, scenario == Scenario::PreemptBack);
        let load = load_average();
        let mut lab = Lab::new(&settings, Naming::OfProcess)?;
        // Dropped before the lab: its processes are reaped while their namespaces still exist.
        let mut daemons = tool.tool(options.vips, options.preload);
        let mut stage = Stage { lab: &mut lab, tool: daemons.as_mut(), scenario, options, interrupted };
        let sample = stage.play();
        if let Some(logs) = &options.logs
            && let Err(error) = self.keep_logs(lab.dir(), logs)
        {
            eprintln!("the logs are not kept: {error:#}");
        }
        drop(daemons);
        Ok(Sample { load, ..sample? })
    }

    fn keep_logs(self, from: &Path, into: &Path) -> Result<()> {
        let into = into.join(format!("{}-{}-{}", self.scenario, self.tool, self.run));
        fs::create_dir_all(&into).with_context(|| format!("cannot make {}", into.display()))?;
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            if let (Some(name), Some("log")) = (path.file_name(), path.extension().and_then(OsStr::to_str)) {
                fs::copy(&path, into.join(name))?;
            }
        }
        Ok(())
    }
}

/// A run in progress.
struct Stage<'a> {
    lab: &'a mut Lab,
    tool: &'a mut dyn Tool,
    scenario: Scenario,
    options: &'a Options,
    interrupted: &'a AtomicBool,
}

impl Stage<'_> {
    fn play(&mut self) -> Result<Sample> {
        self.settle()?;
        let traffic = self.fill()?;
        self.strike(&traffic)
    }

    /// Brings the pair up with the scenario's first master.
    fn settle(&mut self) -> Result<()> {
        self.tool.start(self.lab, Node::Fw1)?;
        self.require("fw1 holds the addresses", START_MAX, |stage| stage.lab.holder() == Some(Node::Fw1))?;
        self.tool.start(self.lab, Node::Fw2)?;
        self.require("the pair settles", START_MAX, |stage| stage.tool.is_settled(stage.lab, Node::Fw1))?;
        let (master, _) = self.scenario.from_to();
        if master == Node::Fw2 {
            self.lab.stop(Node::Fw1)?;
            self.require("fw2 takes over", START_MAX, |stage| stage.lab.holder() == Some(Node::Fw2))?;
            self.lab.pair.reboot(Node::Fw1)?;
        }
        Ok(())
    }

    /// Preloads, opens the sessions, and waits until the standby knows all of them.
    fn fill(&mut self) -> Result<Traffic> {
        let (master, taker) = self.scenario.from_to();
        preload::write(&self.lab.pair[master], self.options.preload)?;
        let load = Load { tcp: SESSIONS, udp: SESSIONS, idle: IDLE, icmp: 0, probe: None, ..Load::default() };
        let traffic = Traffic::start(&self.lab.pair.client, &self.lab.pair.server, SERVER.into(), &load)?;
        traffic.expect_survival(0, Duration::from_secs(5))?;
        if self.scenario != Scenario::PreemptBack {
            let flows = u64::from(self.options.preload) + 2 * SESSIONS as u64;
            let mut known = 0;
            let all = self.until(KNOWN_MAX, |stage| {
                known = stage.tool.flows_ready(stage.lab, taker).unwrap_or(0);
                known >= flows
            })?;
            ensure!(all, "{} knows {known} of {flows} flows after {KNOWN_MAX:?}", taker.name());
        }
        Ok(traffic)
    }

    /// Waits out the control window, strikes, and watches until all is well or the limit has passed.
    fn strike(&mut self, traffic: &Traffic) -> Result<Sample> {
        let (master, taker) = self.scenario.from_to();
        let probe = Probe::start(&self.lab.pair.client, &self.lab.pair.server, SERVER)?;
        let victims = self.lab.pair[master].pids();
        let mut was_early = false;
        self.until(QUIET + random(PHASE), |stage| {
            was_early |= stage.lab.pair.vips_held(taker).is_ok_and(|held| held != [false; 2]);
            false
        })?;
        ensure!(self.lab.holder() == Some(master), "{} lost the addresses before the fault", master.name());
        let fault = probe::now();
        self.scenario.strike(self.lab, self.tool, &victims)?;
        let limit = self.scenario.limit();
        let taken = self.until(limit, |stage| stage.has_taken(taker))?;
        let since = traffic.now();
        // What idles is not asked in the very moment of the takeover; what talks all the time is.
        std::thread::sleep(AFTERWARDS);
        traffic.wake();
        let patience = if taken { SESSIONS_MAX } else { Duration::from_secs(2) };
        let is_clear = |session: &Arc<Session>| session.survived(since) || session.failure().is_some();
        self.until(patience, |_| traffic.sessions().iter().all(is_clear))?;
        std::thread::sleep(AFTERWARDS);
        let until = probe::now();
        let log = probe.finish()?;
        let quiet = log.seen(fault - nanoseconds(QUIET), fault);
        let seen = log.seen(fault, until);
        // A reply in the last moments: the pair forwards.
        let forwards = log.last_reply() + nanoseconds(AFTERWARDS) / 2 > until;
        let failure = if !taken || !forwards {
            Some(self.failure(taker, taken, forwards))
        } else {
            was_early.then(|| format!("{} took an address before the fault", taker.name()))
        };
        Ok(Sample {
            outage_ms: milliseconds(seen.silence),
            lost: seen.lost,
            survived: traffic.sessions().iter().filter(|session| session.survived(since)).count(),
            sessions: traffic.sessions().len(),
            casualties: casualties(traffic, since),
            baseline_gap_ms: milliseconds(quiet.silence),
            sender_gap_ms: milliseconds(seen.sender_gap),
            load: 0.0,
            failure,
        })
    }

    fn has_taken(&self, taker: Node) -> bool {
        let more = self.options.vips.saturating_sub(2);
        // A taker that hands back what was not its own must be alone; elsewhere the failed node may keep its addresses.
        let is_alone = self.scenario != Scenario::PreemptBack || self.lab.holder() == Some(taker);
        is_alone
            && self.lab.holds(taker)
            && (more == 0 || extra_vips::held(&self.lab.pair[taker], more).is_ok_and(|held| held == usize::from(more)))
    }

    fn failure(&self, taker: Node, taken: bool, forwards: bool) -> String {
        let held = self.lab.pair.vips_held(taker).unwrap_or_default();
        let word = |held: bool| if held { "held" } else { "missing" };
        let addresses = if taken {
            format!("{} took over", taker.name())
        } else {
            format!("on {}: LAN address {}, WAN address {}", taker.name(), word(held[0]), word(held[1]))
        };
        let replies = if forwards { "" } else { ", and the client had no replies at the end" };
        format!("after {:?}: {addresses}{replies}", self.scenario.limit())
    }

    /// Waits for what the run cannot do without.
    fn require(&mut self, what: &str, limit: Duration, done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        if self.until(limit, done)? {
            return Ok(());
        }
        let stories = Node::BOTH.map(|node| format!("{}:\n{}", node.name(), self.tool.story(self.lab, node)));
        bail!("{what}: not within {limit:?}; {}", stories.join("\n"))
    }

    /// Looks every 10 ms until it is done or the limit has passed; whether it was done.
    fn until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

/// The sessions that have not gone on since then, by kind and reason.
fn casualties(traffic: &Traffic, since: u64) -> Vec<String> {
    let lost = traffic.sessions().iter().filter(|session| !session.survived(since));
    lost.map(|session| format!("{} {}", session.kind.name(), session.failure().map_or("silent", Failure::name)))
        .collect()
}

/// Evenly up to `limit`.
fn random(limit: Duration) -> Duration {
    // The keys of a new hasher are random: enough for a phase.
    let bits = RandomState::new().hash_one(0) >> 32;
    limit.mul_f64(f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn milliseconds(nanoseconds: u64) -> f64 {
    rounded(Duration::from_nanos(nanoseconds).as_secs_f64() * 1e3)
}
