//! `cargo xtask bench sync-rx` runs this: sync frames over a veth pair, checked by the XDP program and taken to userspace in
//! one way and another, in turns. The argument is the options as JSON; a JSON object a line on standard output.

mod af_xdp;
mod frames;
mod load;
mod measure;
mod rig;
mod source;
mod trial;

use anyhow::{Context, Result};
use ha_tests::bench::sync_rx::Options;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Nobody else's work is measured.
const NICE: i32 = -10;

fn main() -> ExitCode {
    // Not anyhow's own way out: an error is a sentence for a person, without a backtrace.
    run().map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run() -> Result<()> {
    let options = std::env::args().nth(1).context("one argument is needed: use cargo xtask bench sync-rx")?;
    let options: Options = serde_json::from_str(&options).context("the options are not what xtask passes")?;
    ha_tests::netns::require_root()?;
    rustix::process::setpriority_process(None, NICE)?;
    // An interrupt ends the trial under way in order, so that its namespaces go, and what was measured is printed.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    for line in measure::all(&options, &interrupted)? {
        println!("{}", line.json()?);
    }
    Ok(())
}
