//! `xtask build`: the daemon with its XDP programs embedded.

use crate::setup::{self, Scope};
use crate::shell;
use anyhow::Result;

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask build && target/release/twinwall --help")]
pub struct Args {}

pub fn run(_: &Args) -> Result<()> {
    daemon(Scope::Build)?;
    println!("built: {}", shell::root().join("target/release/twinwall").display());
    Ok(())
}

/// Sets up what `scope` needs and builds the release daemon.
///
/// # Errors
/// When something is missing and cannot be installed, or when the build fails.
pub fn daemon(scope: Scope) -> Result<()> {
    setup::ensure(scope)?;
    shell::run(shell::cargo().args(["build", "--release", "--package", "ha-user", "--quiet"]))
}
