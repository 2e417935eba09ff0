//! The whole of a pair (or of three nodes) in simulated time: real elections, real probers and real sync engines, joined as the
//! loops of the daemon join them, between models of clocks, paths, kernels, clients, operators and a stranger. A seed decides
//! everything. `cargo xtask sim` runs it; docs/simulation.md tells what it covers.

mod checks;
mod clients;
mod clock;
mod conntrack;
mod deliver;
mod faults;
mod host;
mod hostile;
#[path = "../../tests/model/mod.rs"]
mod model;
#[cfg(test)]
mod mutations;
mod network;
mod options;
mod random;
mod report;
mod run;
mod sync_loop;
#[cfg(test)]
mod tests;
mod timeline;
mod traffic;
mod traps;
mod world;
mod writing;

use report::{Plan, keep_panics, survey};
use std::process::ExitCode;

const USAGE: &str =
    "usage: sim [--seeds N] [--seed FIRST] [--jobs N] [--skip SEED]... [--lines N] [--fail-fast] [--json]";

fn main() -> ExitCode {
    let (plan, json) = match read(std::env::args().skip(1)) {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    keep_panics();
    let report = survey(&plan);
    if json {
        report.print_json();
    } else {
        report.print();
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<(Plan, bool), String> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut plan = Plan { first: 0, seeds: 1000, jobs, skip: Vec::new(), fail_fast: false, lines: run::LINES };
    let (mut json, mut seeds) = (false, None);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or(format!("{argument} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{argument} {value} is not a number"))
        };
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            // One seed alone, unless more are asked for.
            "--seed" => (plan.first, plan.seeds) = (number()?, 1),
            "--jobs" => plan.jobs = number()?.clamp(1, 256) as usize,
            "--lines" => plan.lines = number()?.clamp(1, 10_000_000) as usize,
            "--skip" => plan.skip.push(number()?),
            "--fail-fast" => plan.fail_fast = true,
            "--json" => json = true,
            _ => return Err(format!("{argument} is not known")),
        }
    }
    plan.seeds = seeds.unwrap_or(plan.seeds);
    Ok((plan, json))
}
