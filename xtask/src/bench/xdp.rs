//! `xtask bench xdp`: the cost of the XDP program.

use crate::setup::{self, Scope};
use crate::shell;
use anyhow::{Result, ensure};

#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// An example of package ha-tests does it: xtask itself must build where no BPF toolchain is yet.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(Scope::Build)?;
    ensure!(shell::is_root(), "BPF test runs need root: run this as root");
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "ha-tests", "--example", "bench_xdp", "--"]);
    if args.json {
        cargo.arg("--json");
    }
    shell::run(&mut cargo)
}
