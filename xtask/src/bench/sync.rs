//! `xtask bench sync`: what it costs to carry the state of one firewall to the other.

use super::example::{self, Profile};
use super::{document, limits};
use crate::setup::Scope;
use crate::{build, shell};
use anyhow::{Context, Result, ensure};
use ha_tests::bench::sync::measure::Measure;
use ha_tests::bench::sync::report::{self, Line};
use ha_tests::bench::sync::tool::ToolName;
use ha_tests::bench::sync::{Options, plot};
use std::fs;
use std::path::PathBuf;

pub const EXAMPLE: &str = "Examples:
  cargo xtask bench sync --docs                          # everything, three runs: what is published
  cargo xtask bench sync --tools twinwall --measures cpu,lag --runs 1
  cargo xtask bench sync --measures bulk --flows 1000000 --json > bulk.json
  cargo xtask bench sync --tools twinwall --twinwall-bin /tmp/other/twinwall --quick
  cargo xtask bench sync --from bulk.json,rest.json --docs";

const PICTURE: &str = "docs/sync.svg";
/// Where the measured table stands in the document.
const BEGIN: &str = "<!-- begin: cargo xtask bench sync --docs -->";

#[derive(clap::Args)]
pub struct Args {
    /// Some of: twinwall, conntrackd-ftfw, conntrackd-ftfw-direct, conntrackd-notrack-direct
    #[arg(long, value_delimiter = ',', default_values_t = ToolName::ALL)]
    tools: Vec<ToolName>,
    /// Some of: rate, cpu, lag, bulk (with memory and takeover), storm
    #[arg(long, value_delimiter = ',', default_values_t = Measure::ALL)]
    measures: Vec<Measure>,
    /// How often each measure is made with each tool
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,
    /// Sizes of the table that a fresh standby gets
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    flows: Vec<u32>,
    /// New flows a second at which processor time is measured; the lag is measured at the first
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rates: Vec<u32>,
    /// Only whether it works: small tables and rates, a second each, one run
    #[arg(long)]
    quick: bool,
    /// Leave out what the kernel does alone (`bench limits`)
    #[arg(long)]
    without_limits: bool,
    /// This daemon instead of the workspace's, which is then not built
    #[arg(long, value_name = "PATH")]
    twinwall_bin: Option<PathBuf>,
    /// One JSON object a line for each tool and figure, instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// The table for a document
    #[arg(long)]
    markdown: bool,
    /// Also draw the bars into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Also put table and picture into docs/benchmarks.md and docs/sync.svg
    #[arg(long)]
    docs: bool,
    /// Measure nothing: take what `--json` has printed into these files
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    from: Vec<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let lines = if args.from.is_empty() { measure(args)? } else { document::read(&args.from, Line::read)? };
    ensure!(!lines.is_empty(), "none of these measures is for any of these tools");
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

fn measure(args: &Args) -> Result<Vec<Line>> {
    ha_tests::netns::require_root()?;
    let options = options(args);
    let scope = if options.tools.iter().any(|tool| tool.replication().is_some()) { Scope::Peers } else { Scope::Lab };
    let binary = match &args.twinwall_bin {
        Some(path) => {
            ensure!(path.exists(), "{} does not exist: build it, or leave out --twinwall-bin", path.display());
            crate::setup::ensure(scope)?;
            Some(std::path::absolute(path)?)
        }
        // The bench itself looks at the variable.
        None if std::env::var_os("TWINWALL_BIN").is_some() => {
            crate::setup::ensure(scope)?;
            None
        }
        None => {
            build::daemon(scope)?;
            None
        }
    };
    let printed = example::run("bench_sync", Profile::Release, &serde_json::to_string(&options)?, binary.as_deref())?;
    let mut lines = Line::read(&printed)?;
    if !args.without_limits && !args.quick {
        lines.extend(limits::measure(limits::RUNS)?);
    }
    Ok(lines)
}

fn options(args: &Args) -> Options {
    let (tools, measures) = (args.tools.clone(), args.measures.clone());
    let mut options =
        if args.quick { Options::quick(tools, measures) } else { Options::full(tools, measures, args.runs) };
    if !args.flows.is_empty() {
        options.flows.clone_from(&args.flows);
    }
    if !args.rates.is_empty() {
        options.rates.clone_from(&args.rates);
    }
    options
}
