//! `cargo xtask audit`: licences, versions, sources and known faults of everything that twinwall is built from (`deny.toml`).

use crate::setup;
use crate::shell;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

const DENY_VERSION: &str = "0.20.2";
/// The two dependency trees: the workspace's, and that of the XDP programs.
const TREES: [&str; 2] = ["Cargo.toml", "ha-ebpf/Cargo.toml"];
/// What one tree has, the other need not.
const NOT_IN_EVERY_TREE: [&str; 4] = ["-A", "unmatched-skip", "-A", "license-exception-not-encountered"];

/// Check licences, duplicates, sources and advisories of the dependencies (cargo-deny; built into target/tools once, in minutes).
#[derive(Args, Debug)]
#[command(after_help = "Example: cargo xtask audit --no-advisories")]
pub struct AuditArgs {
    /// Leave the advisories out: their list is fetched from github.com/RustSec/advisory-db.
    #[arg(long)]
    no_advisories: bool,
}

/// Checks both trees.
///
/// # Errors
/// When a dependency breaks a rule of `deny.toml`, or the list of advisories cannot be fetched.
pub fn audit(args: &AuditArgs) -> Result<ExitCode> {
    let deny = setup::tools_dir().join("bin/cargo-deny");
    if !deny.exists() {
        println!("audit: installing cargo-deny {DENY_VERSION} (cargo, into target/tools; takes minutes)");
        let mut cargo = shell::cargo();
        cargo.args(["install", "--quiet", "--version", DENY_VERSION, "--locked", "cargo-deny", "--root"]);
        shell::run(cargo.arg(setup::tools_dir()))?;
    }
    let mut checks = vec!["licenses", "bans", "sources"];
    if args.no_advisories {
        println!("audit: advisories are left out");
    } else {
        checks.push("advisories");
    }
    for tree in TREES {
        let mut command = std::process::Command::new(&deny);
        command.current_dir(shell::root()).args(["--manifest-path", tree, "--config", "deny.toml", "check"]);
        println!("audit: {tree}");
        shell::run(command.args(NOT_IN_EVERY_TREE).args(&checks))?;
    }
    Ok(ExitCode::SUCCESS)
}
