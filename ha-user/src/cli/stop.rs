//! `twinwall stop`.

mod jobs;

use super::{SocketArguments, exit, fail, fail_asking, other_answer};
use crate::ipc::{Reply, Request};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::process::ExitCode;
use std::time::Duration;

/// A daemon whose loops hang ends after five seconds; with room.
const GONE_WITHIN: Duration = Duration::from_secs(7);

#[derive(Args)]
#[command(after_help = "Example:
  twinwall stop                      # hands over, says goodbye, leaves nothing behind
  twinwall stop --keep-role          # for a restart within [election] restart_grace: nothing moves

Ends when the daemon has ended.
Exit codes: 0 it has ended, 1 it has not, or no answer, 3 not running.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Programs, addresses and mastership stay in the kernel for the restart grace
    #[arg(long)]
    keep_role: bool,
    /// For ExecStop=: keep the role if systemd is about to start UNIT again, else stop clean
    #[arg(long, value_name = "UNIT", num_args = 0..=1, require_equals = true, default_missing_value = "twinwall.service", conflicts_with = "keep_role")]
    systemd: Option<String>,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let keep_role = match &arguments.systemd {
        Some(unit) => jobs::is_restart(unit).unwrap_or_else(|error| {
            eprintln!("twinwall: whether {unit} is being restarted is not known, so it hands over: {error}");
            false
        }),
        None => arguments.keep_role,
    };
    let reply = match arguments.socket.ask(&Request::Stop { keep_role }) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::Stopping { pid } = reply else { return other_answer() };
    wait_gone(pid)
}

/// Waits for the end of the process, which is the daemon's parent's affair otherwise.
fn wait_gone(pid: u32) -> ExitCode {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return fail("the daemon named no process", exit::FAILED);
    };
    let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        // It was faster.
        Err(Errno::SRCH) => return ExitCode::SUCCESS,
        Err(error) => return fail(format!("cannot watch the daemon, process {pid:?}: {error}"), exit::FAILED),
    };
    let timeout = Timespec::try_from(GONE_WITHIN).ok();
    match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref()) {
        Ok(0) => fail(format!("the daemon still runs after {GONE_WITHIN:?} (see its log)"), exit::FAILED),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(format!("cannot wait for the daemon: {error}"), exit::FAILED),
    }
}
