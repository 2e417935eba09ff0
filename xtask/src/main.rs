//! The project's own commands: `cargo xtask VERB`.

mod lab;
mod run;
mod test;

use anyhow::{Result, ensure};
use clap::Parser;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows and tests twinwall")]
enum Verb {
    Run(run::RunArgs),
    Lab(lab::LabArgs),
    Test(test::TestArgs),
}

fn main() -> Result<ExitCode> {
    match Verb::parse() {
        Verb::Run(args) => run::run(&args),
        Verb::Lab(args) => lab::lab(&args).map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => test::test(&args),
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds the release daemon.
fn daemon_built() -> Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--package", "ha-user", "--quiet"]).current_dir(root());
    ensure!(build.status()?.success(), "the daemon does not build");
    Ok(())
}
