//! `xtask bench limits`: what the kernel can do alone.

use super::example::{self, Profile};
use crate::setup::{self, Scope};
use anyhow::Result;
use ha_tests::bench::sync::report::{self, Line};

/// How often each figure is measured unless it is said otherwise.
pub const RUNS: u16 = 3;

#[derive(clap::Args)]
pub struct Args {
    /// How often each figure is measured; the median counts
    #[arg(long, default_value_t = RUNS, value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,
    /// One JSON object a line for each figure, instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// The table for a document
    #[arg(long)]
    markdown: bool,
}

pub fn run(args: &Args) -> Result<()> {
    ha_tests::netns::require_root()?;
    setup::ensure(Scope::Lab)?;
    let lines = measure(args.runs)?;
    if args.json {
        for line in &lines {
            println!("{}", line.json()?);
        }
    } else if args.markdown {
        print!("{}", report::markdown(&lines));
    } else {
        print!("{}", report::table(&lines));
    }
    Ok(())
}

/// The lines of so many runs.
///
/// # Errors
/// When the bench cannot be built or fails.
pub fn measure(runs: u16) -> Result<Vec<Line>> {
    Line::read(&example::run("bench_limits", Profile::Release, &runs.to_string(), None)?)
}
