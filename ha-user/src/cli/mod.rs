//! The command line: a file per command.

mod check;
mod demote;
mod failover;
mod flows;
mod keygen;
mod maintenance;
mod reload;
mod resync;
mod run;
mod status;
mod stop;

use crate::config::{self, DEFAULT_FILE, RUN_DIRECTORY};
use crate::ipc::client::{Client, ClientError};
use crate::ipc::{Reply, Request};
use clap::{Args, Parser, Subcommand};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Two Linux firewalls that fail over without losing sessions.
#[derive(Parser)]
#[command(name = "twinwall", version, max_term_width = 100, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example, first steps on a new pair:
  twinwall keygen                  # on one node; copy the file to the other
  twinwall check                   # on both
  systemctl start twinwall
  twinwall status";

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Run(run::Arguments),
    /// Check the configuration and say what is wrong with it.
    Check(check::Arguments),
    /// Make the secret that the nodes share.
    Keygen(keygen::Arguments),
    /// Show role, peers, state sync and interfaces of the running daemon.
    Status(status::Arguments),
    /// List the replicated flows.
    Flows(flows::Arguments),
    /// Make this node the worse one for a while, or clear that.
    Demote(demote::Arguments),
    /// Read the configuration anew: what can be in force at once is, the rest is named.
    Reload(reload::Arguments),
    /// Exchange the whole flow tables with the peers again.
    Resync(resync::Arguments),
    /// Make another node master, without loss.
    Failover(failover::Arguments),
    /// Keep this node from becoming master, over restarts and reboots.
    Maintenance(maintenance::Arguments),
    /// Stop the running daemon, clean or for a restart.
    Stop(stop::Arguments),
}

/// Which configuration, and which of its nodes.
#[derive(Args)]
struct ConfigArguments {
    /// The configuration, the same file on all nodes
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Which node this is [default: the one with this host's name or address]
    #[arg(long, short, value_name = "NAME", env = "TWINWALL_NODE", hide_env_values = true)]
    node: Option<String>,
}

/// Which daemon.
#[derive(Args)]
struct SocketArguments {
    /// The control socket [default: the only one in /run/twinwall]
    #[arg(long, short, value_name = "PATH", env = "TWINWALL_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
}

impl SocketArguments {
    /// Asks the daemon.
    fn ask(self, request: &Request) -> Result<Reply, ClientError> {
        Client::find(self.socket, Path::new(RUN_DIRECTORY))?.ask(request)
    }

    /// Asks for something that takes the daemon up to `within`.
    fn ask_within(self, request: &Request, within: Duration) -> Result<Reply, ClientError> {
        Client::find(self.socket, Path::new(RUN_DIRECTORY))?.ask_within(request, within)
    }
}

/// Exit codes that scripts may rely on; 0 is success, and clap ends with 2 on wrong usage.
mod exit {
    pub const FAILED: u8 = 1;
    /// Wrong usage or configuration: starting again does not help.
    pub const MISUSED: u8 = 2;
    pub const NOT_RUNNING: u8 = 3;
    /// Of `status --role`.
    pub const NOT_MASTER: u8 = 4;
    /// The daemon says no, and why.
    pub const REFUSED: u8 = 5;
    /// A hand-over was begun and not confirmed.
    pub const UNCONFIRMED: u8 = 6;
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(arguments) => run::main(arguments),
        Command::Check(arguments) => check::main(arguments),
        Command::Keygen(arguments) => keygen::main(arguments),
        Command::Status(arguments) => status::main(arguments),
        Command::Flows(arguments) => flows::main(arguments),
        Command::Demote(arguments) => demote::main(arguments),
        Command::Reload(arguments) => reload::main(arguments),
        Command::Resync(arguments) => resync::main(arguments),
        Command::Failover(arguments) => failover::main(arguments),
        Command::Maintenance(arguments) => maintenance::main(arguments),
        Command::Stop(arguments) => stop::main(arguments),
    }
}

/// Prints an error the same way everywhere.
fn fail(error: impl Display, code: u8) -> ExitCode {
    eprintln!("twinwall: {error}");
    ExitCode::from(code)
}

fn fail_asking(error: &ClientError) -> ExitCode {
    let code = match error {
        ClientError::NotRunning { .. } => exit::NOT_RUNNING,
        ClientError::Several { .. } => exit::MISUSED,
        ClientError::Forbidden { .. }
        | ClientError::NoAnswer { .. }
        | ClientError::Incomprehensible { .. }
        | ClientError::Refused(_) => exit::FAILED,
    };
    fail(error, code)
}

/// An answer of another kind than the question asks for: two versions speak to each other.
fn other_answer() -> ExitCode {
    fail("the daemon answered another question (is it of another version?)", exit::FAILED)
}

/// Reads a time as the configuration has it.
fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration (write it like 250ms, 5s or 2min)"))
}

/// Writes to stdout; a reader that went away (`| head`) is no error.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(error, exit::FAILED),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Writes a value as indented JSON.
fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => fail(error, exit::FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// clap's own consistency check of all arguments.
    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command's help ends with an example.
    #[test]
    fn every_help_has_an_example() {
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.starts_with("Example"), "{}", command.get_name());
        }
    }
}
