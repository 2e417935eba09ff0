//! `cargo xtask test`: every check, in the order in which a mistake is cheapest to find.

use anyhow::{Result, bail};
use clap::Args;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Tests that make namespaces run this many at a time: more would disturb each other's timers.
const ROOT_TESTS_AT_ONCE: &str = "2";
/// Tests with this prefix want the machine for themselves.
const ALONE: &str = "netns_alone_";
/// Tests with this prefix take ten minutes or more each.
const LONG: &str = "netns_long_";
/// Simulations that take minutes are ignored elsewhere.
const LONG_SIMULATIONS: &str = "--package ha-common --all-features --tests -- --ignored";

/// Format, lints, unit tests, tests in namespaces, and a short run.
#[derive(Args, Debug)]
#[command(after_help = "Example: sudo -E cargo xtask test")]
pub struct TestArgs {
    /// Stop at the first step that fails.
    #[arg(long)]
    fail_fast: bool,
    /// The long tests as well (about two hours): ten minutes of load, 500 faults, twenty minutes of churn, twelve simulated hours, a million frames, a minute of fuzzing each way in.
    #[arg(long)]
    long: bool,
    /// Instead of all that: the XDP tests and a failover on Debian's packaged kernel, in an emulator (some minutes).
    #[arg(long, conflicts_with_all = ["long", "fail_fast"])]
    kernel: bool,
}

struct Step {
    name: &'static str,
    command: Command,
}

/// Runs all steps and sums up.
///
/// # Errors
/// Without root: the tests in namespaces would not run, and a pass without them would say too much.
pub fn test(args: &TestArgs) -> Result<ExitCode> {
    ha_tests::netns::require_root()?;
    if args.kernel {
        return crate::kernel::test().map(|()| ExitCode::SUCCESS);
    }
    crate::build::daemon(crate::setup::Scope::Test)?;
    let mut results = Vec::new();
    for mut step in steps(args.long)? {
        println!("\n== {} ==", step.name);
        let begin = Instant::now();
        let passed = step.command.status().is_ok_and(|status| status.success());
        results.push((step.name, passed, begin.elapsed()));
        if !passed && args.fail_fast {
            break;
        }
    }
    sum_up(&results);
    if !args.long {
        say_what_is_left_out();
    }
    if results.iter().all(|(_, passed, _)| *passed) {
        return Ok(ExitCode::SUCCESS);
    }
    let failed: Vec<_> = results.iter().filter(|(_, passed, _)| !passed).map(|(name, _, _)| *name).collect();
    bail!("failed: {}", failed.join(", "))
}

fn steps(long: bool) -> Result<Vec<Step>> {
    let cargo = |name, line: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args(line.split_whitespace()).current_dir(crate::shell::root());
        Step { name, command }
    };
    let mut netns = cargo("tests in namespaces", "test --package ha-tests --no-fail-fast -- --test-threads");
    netns.command.args([ROOT_TESTS_AT_ONCE, "--skip", ALONE, "--skip", LONG]);
    let alone = |name, prefix| {
        let mut step = cargo(name, "test --package ha-tests --no-fail-fast --tests -- --nocapture --test-threads 1");
        step.command.arg(prefix);
        step
    };
    let mut smoke = Command::new(std::env::current_exe()?);
    smoke.args(["run", "--scenario", "stop", "--sessions", "40"]);
    let mut tidy = Command::new(std::env::current_exe()?);
    tidy.arg("tidy");
    let bpf = |name, line| {
        let mut step = cargo(name, line);
        step.command.current_dir(crate::shell::root().join("ha-ebpf"));
        step
    };
    let mut steps = vec![
        Step { name: "tidy", command: tidy },
        bpf("lints of the XDP programs", "clippy --quiet -- -D warnings"),
        bpf("lints of the benches' XDP programs", "clippy --quiet --features bench -- -D warnings"),
        cargo("lints", "clippy --workspace --all-targets --quiet -- -D warnings"),
        cargo("unit tests", "test --quiet"),
        netns,
        alone("load and torture, one test at a time", ALONE),
        Step { name: "a short run", command: smoke },
    ];
    if long {
        steps.push(cargo(
            "long simulations",
            "test --release --package ha-common --all-features -- --ignored --nocapture",
        ));
        steps.push(alone("long tests", LONG));
        let mut fuzz = Command::new(std::env::current_exe()?);
        fuzz.args(["fuzz", "--minutes", "1", "--jobs", "2"]);
        steps.push(Step { name: "fuzzing, a minute each", command: fuzz });
    }
    Ok(steps)
}

/// A pass without the long tests must not look like one with them.
fn say_what_is_left_out() {
    let in_namespaces = format!("test --quiet --package ha-tests --tests -- --list {LONG}");
    let simulated = format!("test --quiet {LONG_SIMULATIONS} --list");
    println!("\nleft out (`cargo xtask test --long` runs them as well):");
    for list in [in_namespaces, simulated] {
        let mut command = Command::new(env!("CARGO"));
        let listed = command.args(list.split(' ')).current_dir(crate::shell::root()).output();
        let Ok(output) = listed else { continue };
        for name in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_suffix(": test")) {
            println!("        {name}");
        }
    }
}

fn sum_up(results: &[(&str, bool, Duration)]) {
    println!("\n== summary ==");
    for (name, passed, took) in results {
        let verdict = if *passed { "ok    " } else { "FAILED" };
        println!("{verdict}  {name} ({:.0} s)", took.as_secs_f64());
    }
}
