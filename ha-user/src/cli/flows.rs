//! `twinwall flows`.

use super::{SocketArguments, fail_asking, other_answer, print, print_json};
use crate::ipc::{FLOWS_MAX, Reply, Request};
use clap::Args;
use std::fmt::Write;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall flows --limit 20
  twinwall flows --json | jq '.[] | select(.owner == \"peer\")'

Exit codes: 0 listed, 1 no answer, 3 not running.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
    /// Most flows to list
    #[arg(long, short, value_name = "N", default_value_t = 1000, value_parser = limit)]
    limit: usize,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let reply = match arguments.socket.ask(&Request::Flows { limit: arguments.limit }) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::Flows(flows) = reply else { return other_answer() };
    if arguments.json {
        return print_json(&flows);
    }
    let mut text = String::new();
    for flow in &flows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{flow}");
    }
    print(&text)
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=FLOWS_MAX).contains(&limit) => Ok(limit),
        Ok(_) | Err(_) => Err(format!("choose 1 to {FLOWS_MAX}")),
    }
}
