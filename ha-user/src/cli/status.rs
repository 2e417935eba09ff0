//! `twinwall status`.

use super::{SocketArguments, exit, fail, fail_asking, other_answer, print, print_json};
use crate::ipc::{Reply, Request};
use crate::status::Status;
use clap::Args;
use std::io::IsTerminal;
use std::process::ExitCode;

mod ink;
mod page;
mod track;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall status
  twinwall status --role >/dev/null && echo \"this node is master\"
  twinwall status --json | jq .sync.in_sync

Exit codes: 0 the daemon answered, 1 it or one of its loops did not, 3 it is not running.
With --role: 0 master, 4 any other role.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print one JSON object
    #[arg(long, conflicts_with = "role")]
    json: bool,
    /// Print the role alone, and tell it by the exit code
    #[arg(long)]
    role: bool,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let reply = match arguments.socket.ask(&Request::Status) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::Status(status) = reply else { return other_answer() };
    if arguments.role {
        return print_role(&status);
    }
    let printed = if arguments.json {
        print_json(&*status)
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print(&page::render(&status, colour))
    };
    if status.unanswered.is_empty() { printed } else { ExitCode::from(exit::FAILED) }
}

fn print_role(status: &Status) -> ExitCode {
    if !status.control_answered {
        return fail(status.unanswered.join("; "), exit::FAILED);
    }
    let printed = print(&format!("{}\n", status.election.role));
    if status.election.role == "master" { printed } else { ExitCode::from(exit::NOT_MASTER) }
}
