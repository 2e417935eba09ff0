//! `cargo xtask sim`: whole clusters in simulated time, from seeds; and whether the simulation finds bugs that are put in.

mod mutants;
#[path = "../../../ha-common/examples/sim/mutations.rs"]
mod mutations;

use crate::shell;
use anyhow::Result;
use clap::Args;
use std::process::{Command, ExitCode};

/// The profile of the workspace: optimised, but a panic or an overflow is a finding.
const PROFILE: &str = "sim";

/// Run whole clusters in simulated time: faults, then peace, from seeds
#[derive(Args, Debug)]
#[command(
    after_help = "Examples: cargo xtask sim --seeds 10000; cargo xtask sim --seed 4711; cargo xtask sim --mutations"
)]
pub struct SimArgs {
    /// How many seeds; with --mutations, how many at the most for each bug
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; without --seeds it is the only one
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; default: as many as there are CPUs
    #[arg(long)]
    jobs: Option<u32>,
    /// How much of its timeline a failure shows
    #[arg(long)]
    lines: Option<u64>,
    /// One JSON object instead of sentences
    #[arg(long)]
    json: bool,
    /// Put each known bug into a copy of the pure crate, and let the simulation find it
    #[arg(long)]
    mutations: bool,
    /// Only the bugs whose names contain this; may be repeated
    #[arg(long, requires = "mutations", value_name = "TEXT")]
    only: Vec<String>,
}

/// # Errors
/// When the simulation cannot be built or started, and when a bug is not found.
pub fn run(args: &SimArgs) -> Result<ExitCode> {
    if args.mutations {
        return mutants::run(args);
    }
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "ha-common", "--features", "protocol", "--example", "sim"]);
    cargo.args(["--profile", PROFILE, "--"]);
    add_options(&mut cargo, args);
    if args.json {
        cargo.arg("--json");
    }
    Ok(if cargo.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn add_options(command: &mut Command, args: &SimArgs) {
    // The first seed comes before their number: alone it is one.
    let jobs = args.jobs.map(u64::from);
    for (name, value) in [("--seed", args.seed), ("--seeds", args.seeds), ("--jobs", jobs), ("--lines", args.lines)] {
        if let Some(value) = value {
            command.args([name, &value.to_string()]);
        }
    }
}
