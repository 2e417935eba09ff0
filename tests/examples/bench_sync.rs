//! `cargo xtask bench sync` runs this: the options as one JSON argument, a JSON object a line on standard output.

use anyhow::{Context, Result};
use ha_tests::bench::sync::{self, Options};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    let options = std::env::args().nth(1).context("one argument is needed: use cargo xtask bench sync")?;
    let options: Options = serde_json::from_str(&options).context("the options are not what xtask passes")?;
    // An interrupt ends the run under way in order, so that its namespaces go, and what was measured is printed.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    for line in sync::run(&options, &interrupted)? {
        println!("{}", line.json()?);
    }
    Ok(())
}
