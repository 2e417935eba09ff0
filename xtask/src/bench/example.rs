//! Benches that are examples of package ha-tests, in processes of their own whose threads are only those that measure.

use crate::shell;
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Stdio;

/// How the bench itself is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// It spends its time in the kernel: a second build of everything would gain nothing.
    Debug,
    /// Its own work counts.
    Release,
}

/// Runs an example with one argument, and returns what it has printed. Its progress goes to standard error. `daemon` is the
/// twinwall to measure; the workspace's where there is none.
///
/// # Errors
/// When it cannot be built or fails.
pub fn run(name: &str, profile: Profile, argument: &str, daemon: Option<&Path>) -> Result<String> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "ha-tests", "--example", name]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    if let Some(daemon) = daemon {
        cargo.env("TWINWALL_BIN", daemon);
    }
    let child = cargo.arg("--").arg(argument).stdout(Stdio::piped()).spawn()?;
    // What an interrupt leaves of the bench is still shown; it ends in order, and so does this.
    let _flag = crate::run::on_signals()?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{name} failed ({})", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
