//! What systemd is about to do with a unit: while it runs `ExecStop=` for a restart, its list of jobs says so.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// systemd answers in milliseconds; a stop must not wait for one that does not.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// A host has few jobs at a time.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    #[error("cannot run systemctl: {0}")]
    Run(#[from] std::io::Error),
    #[error("`systemctl list-jobs` failed ({0})")]
    Failed(std::process::ExitStatus),
    #[error("`systemctl list-jobs` did not answer within {ANSWERS_WITHIN:?}")]
    Late,
}

/// Whether the unit's job is a restart.
///
/// # Errors
/// When systemd does not tell.
pub fn is_restart(unit: &str) -> Result<bool, JobsError> {
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--no-pager", "--full", "--plain"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut waited = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if waited >= ANSWERS_WITHIN {
            child.kill()?;
            child.wait()?;
            return Err(JobsError::Late);
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
        waited += LOOK_AGAIN_AFTER;
    };
    if !status.success() {
        return Err(JobsError::Failed(status));
    }
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(says_restart(&text, unit))
}

/// Lines are `JOB UNIT TYPE STATE`.
fn says_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some(unit) && matches!(words.next(), Some("restart" | "try-restart"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a restart of this very unit is one; stops, starts, other units and garbage are not.
    #[test]
    fn restarts_are_recognised() {
        let jobs = "117 twinwall.service restart running\n118 nftables.service start waiting\n";
        assert!(says_restart(jobs, "twinwall.service"));
        assert!(!says_restart(jobs, "nftables.service"));
        assert!(!says_restart("117 twinwall.service stop running\n", "twinwall.service"));
        assert!(!says_restart("117 twinwall2.service restart running\n", "twinwall.service"));
        assert!(!says_restart("No jobs running.\n", "twinwall.service"));
        assert!(!says_restart("", "twinwall.service"));
    }
}
