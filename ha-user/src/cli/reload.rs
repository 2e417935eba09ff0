//! `twinwall reload`.

use super::{SocketArguments, exit, fail_asking, other_answer, print, print_json};
use crate::ipc::{Reply, Request};
use crate::operate::{RELOAD_WITHIN, ReloadOutcome, ReloadReport, answer_within};
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "Example:
  twinwall check && twinwall reload

In force at once: the secret file, [sync.filter], a larger netlink_buffer, [log] level. What else has changed is named, and waits for a
restart. A file with errors changes nothing. SIGHUP does the same, and tells the log.
Exit codes: 0 done (a restart may be needed for the rest), 1 a part could not be put in force or no answer,
2 the file cannot be used, 3 not running.")]
pub struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn main(arguments: Arguments) -> ExitCode {
    let reply = match arguments.socket.ask_within(&Request::Reload, answer_within(RELOAD_WITHIN)) {
        Ok(reply) => reply,
        Err(error) => return fail_asking(&error),
    };
    let Reply::Reload(report) = reply else { return other_answer() };
    let printed = if arguments.json { print_json(&report) } else { print(&describe(&report)) };
    match &report.outcome {
        ReloadOutcome::Refused => ExitCode::from(exit::MISUSED),
        ReloadOutcome::Done { failed, .. } if !failed.is_empty() => ExitCode::from(exit::FAILED),
        ReloadOutcome::Done { .. } => printed,
    }
}

fn describe(report: &ReloadReport) -> String {
    let mut lines = report.problems.clone();
    match &report.outcome {
        ReloadOutcome::Refused => lines.push(format!("{} cannot be used: everything stays as it is", report.file)),
        ReloadOutcome::Done { applied, failed, restart } => {
            if applied.is_empty() && failed.is_empty() && restart.is_empty() {
                lines.push("nothing has changed".to_owned());
            }
            if !applied.is_empty() {
                lines.push(format!("in force: {}", applied.join(", ")));
            }
            lines.extend(failed.iter().map(|failed| format!("not in force: {failed}")));
            if !restart.is_empty() {
                lines.push(format!("needs a restart (systemctl restart twinwall): {}", restart.join(", ")));
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each outcome in words: refused with its problem, all kinds of change, none.
    #[test]
    fn outcomes_in_words() {
        let describe = |problems: &[&str], outcome| {
            let problems = problems.iter().map(|&text| text.to_owned()).collect();
            super::describe(&ReloadReport { file: "t.toml".to_owned(), problems, outcome })
        };
        let done = |applied: &[&str], failed: &[&str], restart: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
            ReloadOutcome::Done { applied: owned(applied), failed: owned(failed), restart: owned(restart) }
        };
        let all = describe(&[], done(&["sync.filter", "log.level"], &["x: no memory"], &["vip", "nodes"]));
        insta::assert_snapshot!(all, @"
        in force: sync.filter, log.level
        not in force: x: no memory
        needs a restart (systemctl restart twinwall): vip, nodes
        ");
        assert_eq!(describe(&[], done(&[], &[], &[])), "nothing has changed\n");
        let refused = describe(&["t.toml:1:1: error: a: is not a known key"], ReloadOutcome::Refused);
        assert!(refused.ends_with("key\nt.toml cannot be used: everything stays as it is\n"), "{refused}");
    }
}
