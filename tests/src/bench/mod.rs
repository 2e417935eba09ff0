//! `cargo xtask bench failover`: what a client sees when a firewall of a pair fails, for twinwall and for the tools that it
//! replaces, in the same lab, in turns.

mod others;
pub mod plot;
pub(crate) mod preload;
mod probe;
pub mod report;
pub mod scenario;
pub mod stats;
pub mod sync;
pub mod sync_rx;
pub mod tool;
mod trial;

use anyhow::Result;
use report::Line;
use scenario::Scenario;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tool::ToolName;
use trial::{Sample, Trial};

/// The bench and all it starts get this nice value: ordinary load on the machine is not what is measured.
const NICE: i32 = -10;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub tools: Vec<ToolName>,
    pub scenarios: Vec<Scenario>,
    /// Of each scenario with each tool.
    pub runs: u16,
    /// Flows in the tables before the fault, besides the sessions.
    pub preload: u32,
    /// Virtual addresses, the two that traffic uses included.
    pub vips: u16,
    /// Where the daemons' logs of every run are copied to, a directory each.
    pub logs: Option<PathBuf>,
}

/// The runs of one tool in one scenario.
struct Series {
    tool: ToolName,
    scenario: Scenario,
    runs: Vec<Result<Sample, String>>,
}

/// Runs everything and returns a line for each tool and scenario. Run n of every tool comes before run n + 1 of any, so
/// that none has a quieter machine than the others. Progress goes to standard error.
///
/// When interrupted, the lines hold the runs that were complete by then.
///
/// # Errors
/// Without root. A run that fails is part of its line.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Vec<Line>> {
    crate::netns::require_root()?;
    rustix::process::setpriority_process(None, NICE)?;
    let pairs = options.scenarios.iter().flat_map(|scenario| options.tools.iter().map(|tool| (*tool, *scenario)));
    let pairs = pairs.filter(|(tool, scenario)| scenario.is_for(*tool));
    let mut all: Vec<_> = pairs.map(|(tool, scenario)| Series { tool, scenario, runs: Vec::new() }).collect();
    'all: for run in 1..=options.runs {
        for series in &mut all {
            let trial = Trial { tool: series.tool, scenario: series.scenario, run };
            let outcome = trial.run(options, interrupted).map_err(|error| format!("{error:#}"));
            if interrupted.load(Ordering::Relaxed) {
                break 'all;
            }
            eprintln!("{run:>4}/{} {:<13} {:<16} {}", options.runs, series.scenario, series.tool, told(&outcome));
            series.runs.push(outcome);
        }
    }
    let done = all.iter().filter(|series| !series.runs.is_empty());
    done.map(|series| Line::new(series.tool, series.scenario, &series.runs, options)).collect()
}

fn told(outcome: &Result<Sample, String>) -> String {
    match outcome {
        Ok(sample) => {
            let Sample { outage_ms, lost, survived, sessions, baseline_gap_ms, .. } = sample;
            let failure = sample.failure.as_ref().map_or_else(String::new, |failure| format!("; FAILED: {failure}"));
            format!(
                "{outage_ms:>9.1} ms silent ({baseline_gap_ms:.1} before), {lost:>5} lost, {survived}/{sessions} sessions{failure}"
            )
        }
        Err(reason) => format!("NOT MEASURED: {reason}"),
    }
}
