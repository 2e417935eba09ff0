//! `twinwall maintenance`.

use super::{SocketArguments, exit, fail, fail_asking, other_answer, print};
use crate::ipc::{Reply, Request};
use crate::operate::{MAINTENANCE_WITHIN, answer_within};
use crate::request::MaintenanceOutcome;
use clap::{Args, ValueEnum};
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall maintenance on && apt upgrade && reboot
  twinwall maintenance off           # afterwards; it stays on over restarts and reboots until then

Exit codes: 0 it is as asked, 1 no answer or not written, 3 not running, 5 refused, 6 the peer did not confirm.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// on: hand over what is here and take nothing any more; off: be of use again
    switch: Switch,
    /// Even if the peer cannot take over: then clients are without a gateway
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let on = matches!(arguments.switch, Switch::On);
    let request = Request::Maintenance { on, force: arguments.force };
    let reply = match arguments.socket.ask_within(&request, answer_within(MAINTENANCE_WITHIN)) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::Maintenance(outcome) = reply else { return other_answer() };
    tell(on, &outcome)
}

fn tell(on: bool, outcome: &MaintenanceOutcome) -> ExitCode {
    match outcome {
        MaintenanceOutcome::Set { .. } if !on => print("maintenance is off: this node is of use again\n"),
        MaintenanceOutcome::Set { took_ms: Some(took_ms) } => {
            print(&format!("maintenance is on; the peer is master, the hand-over took {took_ms:.1} ms\n"))
        }
        MaintenanceOutcome::Set { took_ms: None } => print("maintenance is on: this node takes nothing\n"),
        MaintenanceOutcome::Refused(refusal) => fail(format!("maintenance stays as it was: {refusal}"), exit::REFUSED),
        MaintenanceOutcome::Unconfirmed { waited_ms } => {
            let message = format!("the peer did not take over within {waited_ms:.0} ms: maintenance stays as it was");
            fail(message, exit::UNCONFIRMED)
        }
    }
}
