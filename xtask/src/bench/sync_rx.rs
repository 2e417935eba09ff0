//! `xtask bench sync-rx`: how sync frames come from the XDP program to userspace.

use super::document;
use super::example::{self, Profile};
use crate::setup::{self, Scope};
use anyhow::{Result, ensure};
use ha_tests::bench::sync::report::Line;
use ha_tests::bench::sync_rx::{self, Mode, Options, Way};
use std::path::PathBuf;

pub const EXAMPLE: &str = "Examples:
  cargo xtask bench sync-rx --docs                       # what is published: less than three minutes
  cargo xtask bench sync-rx --ways socket,af-xdp --sizes 1400 --rounds 1
  cargo xtask bench sync-rx --mode generic --sizes 1200 --docs    # the second table
  cargo xtask bench sync-rx --quick                      # whether it works
  cargo xtask bench sync-rx --json > ways.json
  cargo xtask bench sync-rx --from ways.json --docs";

/// Where the measured table of a mode stands in the document.
const fn begin(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "<!-- begin: cargo xtask bench sync-rx --docs -->",
        Mode::Generic => "<!-- begin: cargo xtask bench sync-rx --mode generic --docs -->",
    }
}

#[derive(clap::Args)]
pub struct Args {
    /// Some of: socket, socket-no-gro, af-xdp, ring-buffer
    #[arg(long, value_delimiter = ',', default_values_t = Way::ALL)]
    ways: Vec<Way>,
    /// Where the XDP program runs: native or generic
    #[arg(long, default_value_t = Mode::Native)]
    mode: Mode,
    /// UDP payloads, bytes
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1200], value_parser = clap::value_parser!(u16).range(56..=1472))]
    sizes: Vec<u16>,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Only whether it works: one round, a fraction of a second each
    #[arg(long)]
    quick: bool,
    /// One JSON object a line for each way and figure, instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// The table for a document
    #[arg(long)]
    markdown: bool,
    /// Also put the table into docs/benchmarks.md
    #[arg(long)]
    docs: bool,
    /// Measure nothing: take what `--json` has printed into these files
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    from: Vec<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let lines = if args.from.is_empty() { measure(args)? } else { document::read(&args.from, Line::read)? };
    if args.json {
        for line in &lines {
            println!("{}", line.json()?);
        }
    } else if args.markdown {
        print!("{}", sync_rx::markdown(&lines));
    } else {
        print!("{}", sync_rx::table(&lines));
    }
    if args.docs {
        document::put(begin(args.mode), &sync_rx::markdown(&lines))?;
    }
    Ok(())
}

/// An example of package ha-tests does it, in a release build: opening frames is half of the work.
fn measure(args: &Args) -> Result<Vec<Line>> {
    ha_tests::netns::require_root()?;
    setup::ensure(Scope::Lab)?;
    let (mode, sizes) = (args.mode, args.sizes.clone());
    let ways: Vec<Way> = args.ways.iter().copied().filter(|way| mode.has(*way)).collect();
    ensure!(!ways.is_empty(), "none of these ways is there in {mode} mode");
    let options =
        if args.quick { Options::quick(mode, ways, sizes) } else { Options::full(mode, ways, sizes, args.rounds) };
    let options = serde_json::to_string(&options)?;
    Line::read(&example::run("bench_sync_rx", Profile::Release, &options, None)?)
}
