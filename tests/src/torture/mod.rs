//! Torture: a seeded plan of overlapping faults on the real pair, watched by the observer.
//!
//! After each batch the pair must settle within a bound, and the whole time no two nodes may have answered for one address,
//! LAN and WAN may not have been apart for longer than a bound, and somebody must have answered.

pub mod plan;

use crate::lab::Lab;
use crate::netns::{Process, wait_until};
use crate::observer::{Observer, Timeline};
use crate::topology::Node;
use anyhow::{Context, Result, bail, ensure};
use plan::{Batch, Fault, Part, Plan, Target};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// After the last fault of a batch: one master, one backup, in sync.
const SETTLED: Duration = Duration::from_secs(20);
/// How long the command for a hand-over may take, done or refused.
const HAND_OVER: Duration = Duration::from_secs(5);
/// LAN and WAN on different nodes, nanoseconds.
const APART_MAX: u64 = 100_000_000;
/// Nobody answers on one side although one node is healthy: CARP's own dead time with the highest skew of the lab, where
/// cut paths leave nothing faster, and a margin.
const SILENCE_MAX: u64 = 5_000_000_000;
/// After a partition has been healed the first heartbeats decide; until then two masters are nobody's fault.
const HEALED: u64 = 250_000_000;

/// In a hand-over the new gate opens before the old one is closed by the new master's first probe, nanoseconds
/// (docs/safety.md, "Hand-over").
const OVERLAP_MAX: u64 = 4_000_000;
/// What is shown of the answers around a violation, nanoseconds to each side.
const AROUND: u64 = 60_000_000;

/// What the pair has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub faults: u32,
    /// Batches that ended with the other node as master.
    pub moves: u32,
    /// Nanoseconds.
    pub longest_silence: u64,
    pub longest_apart: u64,
    /// Both nodes answered: at most [`OVERLAP_MAX`], in a hand-over.
    pub longest_double: u64,
}

/// A pair under torture.
pub struct Torture {
    observer: Observer,
    lab: Lab,
    begin: Instant,
    /// What was done when.
    story: Vec<String>,
    summary: Summary,
}

/// One thing to do at one time.
struct Step {
    at: Duration,
    fault: Fault,
    strikes: bool,
}

impl Torture {
    /// Takes a running pair.
    ///
    /// # Errors
    /// When the observer cannot be started.
    pub fn new(lab: Lab) -> Result<Self> {
        let observer = Observer::start(&lab.pair)?;
        Ok(Self { observer, lab, begin: Instant::now(), story: Vec::new(), summary: Summary::default() })
    }

    /// Does what the seed says.
    ///
    /// # Errors
    /// At the first broken promise: the error holds the seed, the faults with their times and the ends of both logs.
    pub fn run(mut self, seed: u64, faults: u32) -> Result<Summary> {
        let hand_over = knows_hand_over(&self.lab)?;
        for batch in Plan::new(seed, faults, hand_over) {
            if let Err(error) = self.endure(&batch) {
                let logs = Node::BOTH.map(|node| format!("{}:\n{}", node.name(), self.lab.files(node).log_tail()));
                let story = self.story.join("\n");
                bail!(
                    "TWINWALL_TORTURE_SEED={seed} TWINWALL_TORTURE_FAULTS={faults}: {error:#}\n{story}\n{}",
                    logs.join("\n")
                );
            }
        }
        Ok(self.summary)
    }

    /// One batch, from a settled pair to a settled pair.
    fn endure(&mut self, batch: &Batch) -> Result<()> {
        std::thread::sleep(batch.rest);
        let master = self.settle()?;
        let victim = match batch.target {
            Target::Master => master,
            Target::Backup => master.peer(),
        };
        self.note(&format!("{} is master; to {}: {:?}", master.name(), victim.name(), batch.faults));
        let offered_before = self.takeovers_by_offer();
        let from = self.observer.now();
        let begin = Instant::now();
        let mut parted: Option<Range<u64>> = None;
        for step in steps(batch) {
            std::thread::sleep(step.at.saturating_sub(begin.elapsed()));
            let now = self.observer.now();
            if step.fault == Fault::Partition && step.strikes {
                parted = Some(now..u64::MAX);
            }
            let verb = if step.strikes { "begins" } else { "ends" };
            self.note(&format!("  {:?} {verb}", step.fault));
            self.act(&step, victim).with_context(|| format!("{:?} {verb}", step.fault))?;
            if let Some(parted) = parted.as_mut().filter(|_| !step.strikes) {
                parted.end = self.observer.now() + HEALED;
            }
        }
        let now_master = self.settle()?;
        let until = self.observer.now();
        let is_offered = self.takeovers_by_offer() > offered_before;
        let overlap_max = if is_offered { OVERLAP_MAX } else { 0 };
        self.judge(&self.observer.timeline(from)?, from..until, &parted.unwrap_or(0..0), overlap_max)?;
        self.observer.forget(until);
        self.summary.faults += u32::try_from(batch.faults.len()).unwrap_or(0);
        self.summary.moves += u32::from(now_master != master);
        Ok(())
    }

    /// Waits until the pair is settled; its master.
    fn settle(&self) -> Result<Node> {
        let lab = &self.lab;
        let mut master = None;
        wait_until("the pair settles", SETTLED, || {
            master = lab.settled_on(&lab.answers());
            master.is_some()
        })
        .with_context(|| lab.describe(&lab.answers()))?;
        master.context("nobody is master")
    }

    fn takeovers_by_offer(&self) -> usize {
        Node::BOTH.into_iter().map(|node| self.lab.files(node).takeovers_by_offer()).sum()
    }

    /// What the observer has seen must be the work of one master; `excused` is the time of a partition, `overlap_max`
    /// how long both may have answered, nanoseconds.
    fn judge(&mut self, seen: &Timeline, watched: Range<u64>, excused: &Range<u64>, overlap_max: u64) -> Result<()> {
        // In a partition both serve, and nothing can be said of how long.
        let double = if excused.is_empty() { seen.longest_double() } else { u64::MAX };
        let violations = seen.violations().into_iter().filter(|found| !excused.contains(&found.sent));
        let violations: Vec<_> = violations.filter(|_| double > overlap_max).collect();
        if excused.is_empty() {
            self.summary.longest_double = self.summary.longest_double.max(double);
        }
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(watched.start));
        if let Some(first) = violations.first() {
            bail!(
                "two nodes answered on the {:?} side: {} answers too many; the first to a request {:?} after the \
                 batch began, by {}, {:?} after the other one had begun; answers around it (request sent, answer \
                 arrived, ms):\n{}",
                first.side,
                violations.len(),
                since(first.sent),
                first.node.name(),
                Duration::from_nanos(first.sent.saturating_sub(first.other_began)),
                seen.excerpt(first.side, first.sent, AROUND)
            );
        }
        let apart = seen.apart().into_iter().filter(|found| !excused.contains(&found.begin));
        if let Some(worst) = apart.max_by_key(|apart| apart.end - apart.begin) {
            let length = worst.end - worst.begin;
            self.summary.longest_apart = self.summary.longest_apart.max(length);
            ensure!(
                length <= APART_MAX,
                "LAN and WAN were apart for {:?} from {:?} on",
                Duration::from_nanos(length),
                since(worst.begin)
            );
        }
        let silence = seen.longest_silence(watched.start, watched.end);
        self.summary.longest_silence = self.summary.longest_silence.max(silence);
        self.note(&format!("  settled; the longest silence was {:?}", Duration::from_nanos(silence)));
        ensure!(silence <= SILENCE_MAX, "nobody answered for {:?}", Duration::from_nanos(silence));
        Ok(())
    }

    fn act(&mut self, step: &Step, victim: Node) -> Result<()> {
        let lab = &mut self.lab;
        let whose = |part: Part| match part {
            Part::Victim => victim,
            Part::Peer => victim.peer(),
        };
        match (step.fault, step.strikes) {
            (Fault::Kill, true) => lab.kill(victim),
            (Fault::Stop, true) => lab.stop(victim)?,
            (Fault::Kill | Fault::Stop, false) => lab.start(victim)?,
            (Fault::Crash, true) => lab.crash_host(victim)?,
            (Fault::Crash, false) => {
                lab.pair.reboot(victim)?;
                lab.start(victim)?;
            }
            (Fault::Freeze, true) => lab.freeze(victim),
            (Fault::Freeze, false) => lab.thaw(victim),
            (Fault::Pause, true) => lab.pause_host(victim)?,
            (Fault::Pause, false) => lab.resume_host(victim)?,
            // Refused (say by a node that cut paths have made unready) it moves nothing, which is right as well.
            (Fault::HandOver, true) => drop(Process::start(hand_over(lab, victim)?)?.wait(HAND_OVER)?),
            (Fault::HandOver, false) => {}
            (Fault::Partition, true) => lab.pair.partition()?,
            (Fault::Partition, false) => lab.pair.heal_all()?,
            (Fault::Cut { from, path }, true) => lab.pair.cut(whose(from), path)?,
            (Fault::Cut { from, path }, false) => lab.pair.heal(whose(from), path)?,
            (Fault::Lose { from, path, percent }, true) => lab.pair.lose(whose(from), path, percent)?,
            (Fault::Lose { from, path, .. }, false) => lab.pair.lose(whose(from), path, 0)?,
            (Fault::Unplug { port }, strikes) => lab.plug(victim, port, !strikes)?,
            (Fault::Delete { port }, true) => lab.pair.delete_interface(victim, port)?,
            (Fault::Delete { port }, false) => lab.pair.recreate_interface(victim, port)?,
        }
        Ok(())
    }

    fn note(&mut self, what: &str) {
        let line = format!("{:9.3} s  {what}", self.begin.elapsed().as_secs_f64());
        println!("{line}");
        // The last batches tell the story; a long one is not kept whole.
        if self.story.len() >= 60 {
            self.story.drain(..20);
        }
        self.story.push(line);
    }
}

/// A batch in the order of time; what begins comes before what ends at the same instant.
fn steps(batch: &Batch) -> Vec<Step> {
    let both = |timed: &plan::Timed| {
        [(timed.begin, true), (timed.end, false)].map(|(at, strikes)| Step { at, fault: timed.fault, strikes })
    };
    let mut steps: Vec<_> = batch.faults.iter().flat_map(both).collect();
    steps.sort_by_key(|step| (step.at, !step.strikes));
    steps
}

/// The command for a hand-over, asked of this node.
fn hand_over(lab: &Lab, node: Node) -> Result<Command> {
    let mut command = lab.files(node).command(&["failover"])?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Whether this daemon has a command for a planned hand-over.
fn knows_hand_over(lab: &Lab) -> Result<bool> {
    let asked = lab.files(Node::Fw1).command(&["failover", "--help"])?.output()?;
    Ok(asked.status.success())
}
