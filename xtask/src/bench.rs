//! `xtask bench WHAT`: measurements.

use crate::setup::{self, Scope};
use crate::shell;
use anyhow::{Result, ensure};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What the XDP program costs per packet, in ns, beside an empty program
    #[command(after_help = "Example: cargo xtask bench xdp --json")]
    Xdp(XdpArgs),
}

#[derive(clap::Args)]
struct XdpArgs {
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Xdp(args) => xdp(args),
    }
}

/// An example of package ha-tests does it: xtask itself must build where no BPF toolchain is yet.
fn xdp(args: &XdpArgs) -> Result<()> {
    setup::ensure(Scope::Build)?;
    ensure!(shell::is_root(), "BPF test runs need root: run this as root");
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "ha-tests", "--example", "bench_xdp", "--"]);
    if args.json {
        cargo.arg("--json");
    }
    shell::run(&mut cargo)
}
