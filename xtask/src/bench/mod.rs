//! `xtask bench WHAT`: measurements.

mod document;
mod example;
mod failover;
mod limits;
mod sync;
mod sync_rx;
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
    /// What it costs to carry the state to the other firewall: twinwall and conntrackd on the same pair, in turns
    #[command(after_help = sync::EXAMPLE)]
    Sync(sync::Args),
    /// A sync frame behind the XDP program: through a UDP socket, AF_XDP or a ring buffer, in turns
    #[command(after_help = sync_rx::EXAMPLE)]
    SyncRx(sync_rx::Args),
    /// What the kernel's conntrack interface and UDP can do alone, whoever uses them
    #[command(after_help = "Example: cargo xtask bench limits --runs 3 --json")]
    Limits(limits::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Xdp(args) => xdp::run(args),
        What::Failover(args) => failover::run(args),
        What::Sync(args) => sync::run(args),
        What::SyncRx(args) => sync_rx::run(args),
        What::Limits(args) => limits::run(args),
    }
}
