//! `twinwall failover`.

use super::{SocketArguments, duration, exit, fail, fail_asking, other_answer, print};
use crate::ipc::{Reply, Request};
use crate::operate::{HandOverReport, answer_within};
use crate::request::{HandOverOutcome, HandOverRefusal};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall failover                  # on the master: to the peer; on the backup: to this node
  twinwall failover --to fw2 --wait && echo \"fw2 is master\"

Nothing is lost: the peer is master before this node lets go, and gets what it lacks of the sessions first.
Exit codes: 0 done (or begun, without --wait; or nothing to do), 1 no answer, 3 not running, 5 refused,
6 begun and not confirmed.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// The node that is to be master [default: the one that is not]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Wait until the new master has confirmed
    #[arg(long)]
    wait: bool,
    /// From the master: even if sessions are lost, or a peer without heartbeats (ucarp) cannot confirm
    #[arg(long)]
    force: bool,
    /// How long --wait waits
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let Arguments { socket, to, wait, force, timeout } = arguments;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Failover { to, force, wait, timeout_ms };
    let reply = match socket.ask_within(&request, answer_within(timeout)) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::HandOver(report) = reply else { return other_answer() };
    tell(&report, wait, timeout)
}

fn tell(report: &HandOverReport, wait: bool, timeout: Duration) -> ExitCode {
    let to = &report.to;
    match &report.outcome {
        Some(HandOverOutcome::Done { took_ms }) => {
            print(&format!("{to} is master; the hand-over took {took_ms:.1} ms\n"))
        }
        Some(HandOverOutcome::Refused(HandOverRefusal::AlreadyMaster)) => {
            print(&format!("nothing to do: {to} is master already\n"))
        }
        Some(HandOverOutcome::Refused(refusal)) => fail(format!("not handed over to {to}: {refusal}"), exit::REFUSED),
        Some(HandOverOutcome::Unconfirmed { waited_ms }) => {
            let message = format!("{to} did not confirm within {waited_ms:.0} ms: the master is still the same");
            fail(message, exit::UNCONFIRMED)
        }
        None if wait => {
            fail(format!("{to} is not master after {timeout:?}; `twinwall status` tells more"), exit::UNCONFIRMED)
        }
        None => print(&format!("the hand-over to {to} has begun; `twinwall status` shows how it ends\n")),
    }
}
