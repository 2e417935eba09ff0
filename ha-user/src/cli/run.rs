//! `twinwall run`.

use super::{ConfigArguments, exit, fail};
use crate::config::{self, Choice};
use crate::{daemon, logging};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall run --config /etc/twinwall/twinwall.toml --node fw1

Signals: TERM and INT stop with a goodbye to the peer; HUP is `twinwall reload`.
Exit codes: 0 stopped, 1 failed, 2 wrong usage or configuration.")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The control socket to make [default: /run/twinwall/NODE.sock]; the lock file is made beside it
    #[arg(long, short, value_name = "PATH", env = "TWINWALL_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let choice = Choice { file: arguments.config.config, node: arguments.config.node, socket: arguments.socket };
    let (resolved, report) = match config::load(&choice) {
        Ok(loaded) => loaded,
        Err(error) => return fail(error, exit::MISUSED),
    };
    if let Err(error) = logging::start(&resolved.log) {
        return fail(error, exit::MISUSED);
    }
    for problem in &report.problems {
        tracing::warn!("{}:{problem}", report.file.display());
    }
    match daemon::run(choice, resolved) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit::FAILED)
        }
    }
}
