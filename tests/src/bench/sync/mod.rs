//! `cargo xtask bench sync`: what it costs to carry the state of one firewall to the other, for twinwall and for
//! conntrackd, on the same pair, in turns.

pub mod flow_table;
pub mod generator;
pub mod measure;
pub mod metric;
pub mod plot;
pub mod report;
pub mod rig;
pub mod tool;
pub mod usage;

use anyhow::Result;
use measure::{Measure, Sample, Trial};
use report::{Conditions, Line};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use tool::ToolName;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub tools: Vec<ToolName>,
    pub measures: Vec<Measure>,
    /// Of each measure with each tool.
    pub runs: u16,
    /// New flows a second, for the processor time; the lag and the storm take the first.
    pub rates: Vec<u32>,
    /// Where the search of the highest rate begins, and where it ends at the latest.
    pub search: [u32; 2],
    /// How long flows come at one rate.
    pub seconds: u32,
    /// Sizes of the table that a fresh standby gets.
    pub flows: Vec<u32>,
    /// Size of the table that is flushed.
    pub storm: u32,
    /// Flows that the generator makes for nobody, to see how fast it is.
    pub ceiling: u32,
}

impl Options {
    /// What the published figures are measured with.
    pub fn full(tools: Vec<ToolName>, measures: Vec<Measure>, runs: u16) -> Self {
        Self {
            tools,
            measures,
            runs,
            rates: vec![20_000, 40_000],
            search: [20_000, 640_000],
            seconds: 5,
            flows: vec![100_000, 500_000, 1_000_000],
            storm: 200_000,
            ceiling: 1_000_000,
        }
    }

    /// Whether it works at all, in less than a minute for one tool: the figures say little.
    pub fn quick(tools: Vec<ToolName>, measures: Vec<Measure>) -> Self {
        Self {
            tools,
            measures,
            runs: 1,
            rates: vec![2_000],
            search: [2_000, 4_000],
            seconds: 1,
            flows: vec![5_000],
            storm: 5_000,
            ceiling: 10_000,
        }
    }
}

/// One measure of one tool, run after run.
struct Series {
    tool: ToolName,
    measure: Measure,
    operand: u32,
    runs: Vec<Result<Sample, String>>,
}

/// Runs everything and returns a line for each tool and figure. Run n of every tool comes before run n + 1 of any, and the
/// tools of one measure directly after each other, so that none has a quieter machine than the others. Progress goes to
/// standard error.
///
/// When interrupted, the lines hold the runs that were complete by then.
///
/// # Errors
/// Without root. A run that fails is part of its lines.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Vec<Line>> {
    crate::netns::require_root()?;
    rustix::process::setpriority_process(None, super::NICE)?;
    // Large tables make every namespace of the machine slow to remove: not for a quick look.
    let _raised = if options.ceiling > rig::ORDINARY { Some(rig::RaisedLimits::new()?) } else { None };
    let operands = options.measures.iter().flat_map(|measure| {
        let measure = *measure;
        measure.operands(options).into_iter().map(move |operand| (measure, operand))
    });
    let mut all: Vec<Series> = operands
        .flat_map(|(measure, operand)| {
            let tools = options.tools.iter().filter(move |tool| measure.is_for(**tool));
            tools.map(move |tool| Series { tool: *tool, measure, operand, runs: Vec::new() })
        })
        .collect();
    let mut ceilings = Vec::new();
    'all: for run in 1..=options.runs {
        if options.measures.contains(&Measure::Rate) {
            ceilings.push(ceiling(options.ceiling).map_err(|error| format!("{error:#}")));
        }
        for series in &mut all {
            let Series { tool, measure, operand, .. } = *series;
            let outcome = Trial::new(tool, measure, operand, options, interrupted).run();
            if interrupted.load(Ordering::Relaxed) {
                eprintln!("interrupted: the figures are those of the runs that were complete by now");
                break 'all;
            }
            let outcome = outcome.map_err(|error| format!("{error:#}"));
            eprintln!("{run:>4}/{} {measure:<6} {operand:>8} {tool:<25} {}", options.runs, told(&outcome));
            series.runs.push(outcome);
        }
    }
    let conditions = Conditions::of(options)?;
    let mut lines = report::ceiling(&ceilings, &conditions);
    for series in all.iter().filter(|series| !series.runs.is_empty()) {
        lines.extend(report::lines(series.tool, series.measure, u64::from(series.operand), &series.runs, &conditions));
    }
    Ok(lines)
}

/// How many new flows a second the generator makes with nobody listening.
fn ceiling(flows: u32) -> Result<f64> {
    let mut rig = rig::Rig::new(None)?;
    let rate = rig.generate(0, flows)?.rate();
    eprintln!("          the generator alone: {rate:.0} flows/s");
    Ok(rate)
}

fn told(outcome: &Result<Sample, String>) -> String {
    match outcome {
        Ok(sample) => {
            let figures =
                sample.readings.iter().map(|reading| format!("{} {}", reading.name, report::short(reading.value)));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(reason) => format!("NOT MEASURED: {reason}"),
    }
}
