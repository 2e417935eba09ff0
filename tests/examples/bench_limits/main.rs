//! `cargo xtask bench limits` runs this: what the kernel's conntrack interface and UDP over a veth can do by themselves, with
//! the daemon's own codec and batch reads and nothing else. The number of runs is the argument; a JSON object a line on
//! standard output.

mod events;
mod requests;
mod udp;

use anyhow::{Context, Result};
use ha_tests::bench::sync::report::{Conditions, Line};
use ha_tests::bench::sync::rig::{RaisedLimits, Rig};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Nobody else's work is measured.
const NICE: i32 = -10;

/// The runs' values of each figure: name, `at`, unit.
type Figures = BTreeMap<(&'static str, u64, &'static str), Vec<f64>>;

fn main() -> ExitCode {
    // Not anyhow's own way out: an error is a sentence for a person, without a backtrace.
    measure().map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn measure() -> Result<()> {
    let runs = std::env::args().nth(1).context("one argument is needed: use cargo xtask bench limits")?;
    let runs: u16 = runs.parse().context("the argument is the number of runs")?;
    ha_tests::netns::require_root()?;
    rustix::process::setpriority_process(None, NICE)?;
    let _raised = RaisedLimits::new()?;
    let mut figures = Figures::new();
    for run in 1..=runs {
        eprintln!("{run:>4}/{runs} requests");
        requests::measure(&Rig::new(None)?, &mut figures)?;
        eprintln!("{run:>4}/{runs} events");
        events::measure(&mut figures)?;
        eprintln!("{run:>4}/{runs} datagrams");
        udp::measure(&Rig::new(None)?, &mut figures)?;
    }
    let conditions = Conditions::of_machine(0)?;
    for ((name, at, unit), values) in &figures {
        println!("{}", Line::of_kernel(name, *at, unit, values, &conditions).json()?);
    }
    Ok(())
}

fn note(figures: &mut Figures, name: &'static str, at: u64, unit: &'static str, value: f64) {
    figures.entry((name, at, unit)).or_default().push(value);
}

/// What a piece of work took: by the clock, and of this thread's processor time.
#[derive(Clone, Copy, Debug)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl Took {
    /// How many of them a second.
    fn per_second(self, count: f64) -> f64 {
        count / self.wall.as_secs_f64().max(1e-9)
    }

    /// Microseconds of processor time for each.
    fn cpu_each(self, count: f64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count.max(1.0)
    }
}

/// Both clocks of the calling thread, to see what work takes.
struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: thread_time() }
    }

    fn stop(&self) -> Took {
        Took { wall: self.wall.elapsed(), cpu: thread_time().saturating_sub(self.cpu) }
    }
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Keeps the calling thread on one processor.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {cpu}"))
}
