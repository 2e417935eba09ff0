//! `xtask bench WHAT`: measurements.

mod failover;
mod xdp;

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What the XDP program costs per packet, in ns, beside an empty program
    #[command(after_help = "Example: cargo xtask bench xdp --json")]
    Xdp(xdp::Args),
    /// What a client sees when a firewall fails: twinwall, ucarp and keepalived in the same lab, in turns
    #[command(after_help = failover::EXAMPLE)]
    Failover(failover::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Xdp(args) => xdp::run(args),
        What::Failover(args) => failover::run(args),
    }
}
