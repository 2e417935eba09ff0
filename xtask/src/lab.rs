//! `cargo xtask lab up|down|shell NODE`: the pair, left running to be looked at.

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use ha_tests::daemon::{Files, Settings, binary};
use ha_tests::lab::{KEPT_DIR, Lab};
use ha_tests::topology::{KEPT_PREFIX, LAN_VIP, Naming, Node, SERVER};
use ha_tests::{bpffs, netns};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A pair that stays: two firewalls with their daemons, a client, a server, a switch.
#[derive(Args, Debug)]
#[command(after_help = "Example: cargo xtask lab up && cargo xtask lab shell client")]
pub struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Builds the daemon and brings the lab up.
    Up,
    /// Ends every process of the lab and removes it.
    Down,
    /// A shell in one of its namespaces.
    Shell {
        #[arg(value_enum)]
        node: Place,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Place {
    Client,
    Fw1,
    Fw2,
    Server,
    Switch,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Fw1 => "fw1",
            Self::Fw2 => "fw2",
            Self::Server => "server",
            Self::Switch => "switch",
        }
    }

    const fn node(self) -> Option<Node> {
        match self {
            Self::Fw1 => Some(Node::Fw1),
            Self::Fw2 => Some(Node::Fw2),
            Self::Client | Self::Server | Self::Switch => None,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Without root, or when the lab is up already (or is not, for a shell).
pub fn lab(args: &LabArgs) -> Result<()> {
    netns::require_root()?;
    match args.verb {
        Verb::Up => up(),
        Verb::Down => {
            down();
            Ok(())
        }
        Verb::Shell { node } => shell(node),
    }
}

fn up() -> Result<()> {
    let is_up = netns::names().iter().any(|name| name.starts_with(KEPT_PREFIX));
    ensure!(!is_up, "the lab is up already: `cargo xtask lab down` removes it");
    crate::build::daemon(crate::setup::Scope::Lab)?;
    let mut lab = Lab::new(&Settings::default(), Naming::Kept)?;
    lab.start_both()?;
    lab.keep()?;
    print!("{}", how_to_enter());
    Ok(())
}

fn down() {
    for name in netns::names().into_iter().filter(|name| name.starts_with(KEPT_PREFIX)) {
        netns::remove(&name);
    }
    bpffs::remove_kept();
    let _ = std::fs::remove_dir_all(KEPT_DIR);
}

fn shell(place: Place) -> Result<()> {
    let namespace = format!("{KEPT_PREFIX}{}", place.name());
    ensure!(netns::names().contains(&namespace), "there is no lab: run `cargo xtask lab up` first");
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace]).arg(shell);
    if let Some(node) = place.node() {
        command.env("TWINWALL_SOCKET", Files::of(node, Path::new(KEPT_DIR)).socket);
    }
    if let Some(directory) = binary()?.parent() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let with_daemon = std::iter::once(directory.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(with_daemon)?);
    }
    // Only returns when it fails.
    Err(command.exec()).context("cannot start a shell with `ip netns exec`")
}

/// How a person enters the kept lab.
pub fn how_to_enter() -> String {
    format!(
        "The lab is up (namespaces {KEPT_PREFIX}client, -fw1, -fw2, -server, -switch; files in {KEPT_DIR}):\n  \
         cargo xtask lab shell fw1      then: twinwall status, twinwall flows, conntrack -L, ip addr\n  \
         cargo xtask lab shell client   then: ping {SERVER}, ip neigh show {LAN_VIP}\n  \
         cargo xtask lab down           removes it\n"
    )
}
