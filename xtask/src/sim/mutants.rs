//! Known bugs, one at a time, in a copy of the pure crate: the simulation must find each.

use super::mutations::{ALL, Mutation, place};
use super::{PROFILE, SimArgs};
use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Seeds that a bug may need.
const SEEDS: u64 = 2000;
/// What of the pure crate the simulation is built from.
const PARTS: [&str; 5] = ["src", "proto", "examples/sim", "tests/model", "build.rs"];

/// What the simulation tells of a run.
#[derive(Deserialize)]
struct Told {
    seeds: u64,
    failed: BTreeMap<String, Vec<u64>>,
}

impl Told {
    fn failing(&self) -> Vec<u64> {
        self.failed.values().flatten().copied().collect()
    }
}

/// Runs first without a bug, then puts each in.
///
/// # Errors
/// When a bug does not fit the code any more, does not compile, or is not found.
pub fn run(args: &SimArgs) -> Result<ExitCode> {
    let wanted =
        |bug: &&Mutation| args.only.is_empty() || args.only.iter().any(|only| bug.name.contains(only.as_str()));
    let bugs: Vec<_> = ALL.iter().filter(wanted).collect();
    ensure!(!bugs.is_empty(), "no bug of that name: see ha-common/examples/sim/mutations.rs");
    let copy = Copy::make()?;
    // A seed that fails anyway says nothing of a bug that is put in.
    let failing = copy.simulate(args, &[], false).context("the simulation without a bug")?.failing();
    if !failing.is_empty() {
        println!("these seeds fail without any bug, and are left out: {failing:?}");
    }
    let mut survivors = Vec::new();
    for bug in bugs {
        let source = copy.original(bug)?;
        let at = place(bug, &source).map_err(anyhow::Error::msg)?;
        let (before, after) = source.split_at(at);
        let (_, after) = after.split_at(bug.text.len());
        copy.write(bug.file, &[before, bug.replacement, after].concat())?;
        let told =
            copy.simulate(args, &failing, true).with_context(|| format!("the simulation with the bug {}", bug.name));
        copy.write(bug.file, &source)?;
        let told = told?;
        match told.failed.first_key_value() {
            Some((check, _)) => println!("found     {:<34} by \"{check}\" after {} seeds", bug.name, told.seeds),
            None => {
                println!("SURVIVES  {:<34} {} seeds: {}", bug.name, told.seeds, bug.breaks);
                survivors.push(bug.name);
            }
        }
    }
    if survivors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("not found: {} (a check is missing, or more seeds are needed)", survivors.join(", "))
}

/// The copy, a workspace of its own.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make() -> Result<Self> {
        let root = shell::root().join("target/mutants/work");
        let package = root.join("ha-common");
        let origin = shell::root().join("ha-common");
        for part in PARTS {
            copy_all(&origin.join(part), &package.join(part))?;
        }
        fs::write(root.join("Cargo.toml"), workspace_manifest()?)?;
        fs::write(package.join("Cargo.toml"), package_manifest(&origin)?)?;
        fs::copy(shell::root().join("Cargo.lock"), root.join("Cargo.lock"))?;
        Ok(Self { root })
    }

    fn original(&self, bug: &Mutation) -> Result<String> {
        let path = shell::root().join("ha-common/src").join(bug.file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.root.join("ha-common/src").join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Builds and runs, until the first failure if that is enough.
    fn simulate(&self, args: &SimArgs, skip: &[u64], fail_fast: bool) -> Result<Told> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(&self.root)
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_TARGET_DIR", shell::root().join("target/mutants/target"));
        cargo.args(["run", "--quiet", "--package", "ha-common", "--features", "protocol", "--example", "sim"]);
        cargo.args(["--profile", PROFILE, "--", "--json", "--seed", "0"]);
        cargo.args(["--seeds", &args.seeds.unwrap_or(SEEDS).to_string()]);
        if fail_fast {
            cargo.arg("--fail-fast");
        }
        for seed in skip {
            cargo.args(["--skip", &seed.to_string()]);
        }
        if let Some(jobs) = args.jobs {
            cargo.args(["--jobs", &jobs.to_string()]);
        }
        let output = cargo.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("it tells {text:?} (does the bug compile?)"))
    }
}

/// That of the workspace, with the copy as its only member. Built often and run briefly: incrementally, with little
/// optimisation.
fn workspace_manifest() -> Result<String> {
    let text = fs::read_to_string(shell::root().join("Cargo.toml"))?;
    let tables = text.split_once("[workspace.package]").map(|(_, rest)| rest);
    let tables = tables.context("the workspace's Cargo.toml has no [workspace.package]")?;
    let marked = format!("[profile.{PROFILE}]\n");
    ensure!(tables.contains(&marked), "the workspace's Cargo.toml has no [profile.{PROFILE}]");
    let hasty = format!("\n[profile.{PROFILE}.package.ha-common]\nopt-level = 1\ncodegen-units = 16\n");
    Ok(format!("[workspace]\nresolver = \"3\"\nmembers = [\"ha-common\"]\n[workspace.package]{tables}{hasty}"))
}

/// That of the crate, without targets that are not copied.
fn package_manifest(origin: &Path) -> Result<String> {
    let text = fs::read_to_string(origin.join("Cargo.toml"))?;
    let is_copied = |table: &&str| !table.starts_with("test]]") && !table.contains("name = \"sync_cost\"");
    let (head, targets) = text.split_once("\n[[").context("ha-common/Cargo.toml names no targets")?;
    let targets: String = targets.split("\n[[").filter(is_copied).map(|table| format!("\n[[{table}")).collect();
    Ok(format!("{head}\n{targets}"))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let told = || format!("cannot copy {}", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(told)?;
        for entry in fs::read_dir(from).with_context(told)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(told)?;
    // What has not changed keeps its time: it need not be built again.
    let text = fs::read(from).with_context(told)?;
    if fs::read(to).ok().as_ref() != Some(&text) {
        fs::write(to, text).with_context(told)?;
    }
    Ok(())
}
