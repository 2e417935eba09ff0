//! `xtask build`: the daemon with its XDP programs embedded.

use crate::setup::{self, Scope};
use crate::shell;
use anyhow::Result;

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask build && target/release/twinwall --help")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    setup::ensure(Scope::Build)?;
    shell::run(shell::cargo().args(["build", "--release", "--package", "ha-user"]))?;
    println!("built: {}", shell::root().join("target/release/twinwall").display());
    Ok(())
}
