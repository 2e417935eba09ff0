//! `xtask bench failover`: the pair fails, again and again, and a client measures for how long.

use super::document;
use super::example::{self, Profile};
use crate::setup::Scope;
use crate::{build, shell};
use anyhow::{Context, Result, ensure};
use ha_tests::bench::report::{self, Line};
use ha_tests::bench::scenario::Scenario;
use ha_tests::bench::tool::ToolName;
use ha_tests::bench::{Options, plot};
use std::fs;
use std::path::PathBuf;

pub const EXAMPLE: &str = "Examples:
  cargo xtask bench failover --scenarios crash,stop --runs 5
  cargo xtask bench failover --json > plain.json
  cargo xtask bench failover --preload 100000 --json > loaded.json
  cargo xtask bench failover --from plain.json,loaded.json --docs";

const PICTURE: &str = "docs/failover.svg";
/// Where the measured table stands in the document.
const BEGIN: &str = "<!-- begin: cargo xtask bench failover --docs -->";

#[derive(clap::Args)]
pub struct Args {
    /// Some of: twinwall, keepalived-10ms, keepalived-1s, ucarp
    #[arg(long, value_delimiter = ',', default_values_t = ToolName::ALL)]
    tools: Vec<ToolName>,
    /// Some of: crash, stop, lan-link, wan-link, freeze, and for twinwall: handover, preempt-back
    #[arg(long, value_delimiter = ',', default_values_t = Scenario::ALL)]
    scenarios: Vec<Scenario>,
    /// How often each tool goes through each scenario
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// So many further flows are in the tables before the fault
    #[arg(long, value_name = "FLOWS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    preload: u32,
    /// Virtual addresses in all: the two that the traffic uses, the others on the LAN
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=500))]
    vips: u16,
    /// Copy the daemons' logs of every run into this directory
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// One JSON object a line for each tool and scenario, instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// The table for a document
    #[arg(long)]
    markdown: bool,
    /// Also draw every run into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Also put table and picture into docs/benchmarks.md and docs/failover.svg
    #[arg(long)]
    docs: bool,
    /// Measure nothing: take what `--json` has printed into these files
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    from: Vec<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let lines =
        report::sorted(if args.from.is_empty() { measure(args)? } else { document::read(&args.from, Line::read)? });
    ensure!(!lines.is_empty(), "none of these scenarios is for any of these tools");
    if args.json {
        for line in &lines {
            println!("{}", line.json()?);
        }
    } else if args.markdown {
        print!("{}", report::markdown(&lines));
    } else {
        print!("{}", report::table(&lines));
    }
    if let Some(file) = &args.plot {
        fs::write(file, plot::svg(&lines)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.docs {
        fs::write(shell::root().join(PICTURE), plot::svg(&lines))?;
        document::put(BEGIN, &report::markdown(&lines))?;
    }
    Ok(())
}

/// The daemon is the release build.
fn measure(args: &Args) -> Result<Vec<Line>> {
    ha_tests::netns::require_root()?;
    build::daemon(scope(&args.tools))?;
    let options = Options {
        tools: args.tools.clone(),
        scenarios: args.scenarios.clone(),
        runs: args.runs,
        preload: args.preload,
        vips: args.vips,
        // cargo runs the bench in the workspace's directory.
        logs: args.logs.as_deref().map(std::path::absolute).transpose()?,
    };
    let printed = example::run("bench_failover", Profile::Debug, &serde_json::to_string(&options)?, None)?;
    Line::read(&printed)
}

/// What has to be installed for these tools.
fn scope(tools: &[ToolName]) -> Scope {
    let needs = |tool: &ToolName| match tool {
        ToolName::Twinwall => (false, false),
        ToolName::Ucarp => (true, false),
        ToolName::Keepalived10ms | ToolName::Keepalived1s => (true, true),
    };
    let any = tools.iter().map(needs).fold((false, false), |all, one| (all.0 | one.0, all.1 | one.1));
    match any {
        (_, true) => Scope::Bench,
        (true, false) => Scope::Peers,
        (false, false) => Scope::Lab,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only keepalived asks for keepalived, and twinwall alone for no other tool.
    #[test]
    fn tools_ask_for_their_packages() {
        assert_eq!(scope(&[ToolName::Twinwall]), Scope::Lab);
        assert_eq!(scope(&[ToolName::Twinwall, ToolName::Ucarp]), Scope::Peers);
        assert_eq!(scope(&ToolName::ALL), Scope::Bench);
    }
}
