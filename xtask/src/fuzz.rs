//! `cargo xtask fuzz`: lets libFuzzer look for inputs that break a target, each for some minutes, and sums up.
//!
//! The compiler is the stable one: coverage is a pass of LLVM's that any rustc can be told to run. The targets are in
//! `tests/fuzz`, and what was found before in `tests/fuzz/corpus`, one directory each.

mod outcome;

use crate::shell;
use anyhow::{Context, Result, ensure};
use clap::Args;
use outcome::Outcome;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use wait4::Wait4;

/// Edge coverage, and comparisons, by which libFuzzer finds magic numbers (clang's SanitizerCoverage).
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Longest input: several datagrams, or a configuration.
const INPUT_BYTES_MAX: u32 = 4096;
/// One input takes microseconds; this one hangs.
const INPUT_SECONDS_MAX: u32 = 10;
/// The whole process, with the corpus and what libFuzzer remembers.
const MEMORY_MIB_MAX: u32 = 2048;
/// libFuzzer counts time of the clock: a run that others kept from its processor is gone on with, at most this often.
const RUNS_MAX: u32 = 100;
/// Of one target in the repository: the smallest inputs that reach everything are kept, and no longer ones than this.
const KEPT_BYTES_MAX: u64 = 2048;

/// Look for inputs that break a parser, a state machine or a codec (libFuzzer; installs g++ if there is no C++ compiler).
#[derive(Args, Debug)]
#[command(after_help = "Example: cargo xtask fuzz --minutes 60 --jobs 2 --keep\n\
    A finding is run again with: TWINWALL_FUZZ_TARGET=NAME target/fuzz/*/fuzz/fuzz FILE")]
pub struct FuzzArgs {
    /// Processor time for each target, so that it is worth the same on a busy machine.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// This one alone; may be repeated. `list` names them.
    #[arg(long)]
    target: Vec<String>,
    /// Targets at a time, each on one CPU.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Put few small inputs that together reach every edge reached into tests/fuzz/corpus
    #[arg(long)]
    keep: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Builds the targets, runs them, and sums up.
///
/// # Errors
/// When the targets cannot be built or started. Findings make the command fail as well.
pub fn fuzz(args: &FuzzArgs) -> Result<ExitCode> {
    let names = targets()?;
    if args.target.iter().any(|wanted| wanted == "list") {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    for wanted in &args.target {
        ensure!(names.contains(wanted), "there is no target {wanted}: choose from {}", names.join(", "));
    }
    let chosen = names.into_iter().filter(|name| args.target.is_empty() || args.target.contains(name));
    let fuzzer = build()?;
    let waiting = Mutex::new(chosen.collect::<Vec<_>>().into_iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(name) = next(&waiting) {
                    let outcome = run(&fuzzer, &name, args);
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    outcomes.sort_by(|a, b| a.target.cmp(&b.target));
    outcome::sum_up(&outcomes, args.json)?;
    let is_clean = outcomes.iter().all(|outcome| outcome.findings.is_empty());
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn next(waiting: &Mutex<std::vec::IntoIter<String>>) -> Option<String> {
    waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
}

/// A target is a directory of the corpus: `tests/corpus.rs` holds the two against each other.
fn targets() -> Result<Vec<String>> {
    let corpora = corpora();
    let listed = fs::read_dir(&corpora).with_context(|| format!("cannot list {}", corpora.display()))?;
    let names = listed.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn corpora() -> PathBuf {
    shell::root().join("tests/fuzz/corpus")
}

/// Builds the fuzzer, apart from everything else, and returns its path.
fn build() -> Result<PathBuf> {
    if !["c++", "g++", "clang++"].into_iter().any(shell::has_program) {
        println!("fuzz: installing g++ (Debian: a C++ compiler for libFuzzer)");
        crate::setup::install_packages(&["g++"])?;
    }
    let host = host()?;
    let directory = shell::root().join("target/fuzz");
    let mut cargo = shell::cargo();
    // With a target named, the flags are not for build scripts and macros. The targets need no XDP programs.
    cargo.args([
        "build",
        "--quiet",
        "--profile",
        "fuzz",
        "--package",
        "ha-fuzz",
        "--features",
        "engine",
        "--bin",
        "fuzz",
    ]);
    cargo.args(["--target", &host, "--target-dir"]).arg(&directory);
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f")).env("HA_BPF", "off");
    shell::run(&mut cargo)?;
    Ok(directory.join(host).join("fuzz/fuzz"))
}

/// The compiler's own target triple.
fn host() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// What one target works with: what it finds now, where it puts what broke it, and what is kept.
struct Places {
    work: PathBuf,
    findings: PathBuf,
    kept: PathBuf,
}

impl Places {
    fn make(name: &str) -> Result<Self> {
        let directory = shell::root().join("target/fuzz");
        let places = Self {
            work: directory.join("work").join(name),
            findings: directory.join("findings").join(name),
            kept: corpora().join(name),
        };
        for place in [&places.work, &places.findings] {
            fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        }
        Ok(places)
    }
}

fn run(fuzzer: &Path, name: &str, args: &FuzzArgs) -> Result<Outcome> {
    let places = Places::make(name)?;
    let wanted = Duration::from_secs_f64((args.minutes * 60.0).max(1.0));
    eprintln!("fuzz: {name} for {:.0} s", wanted.as_secs_f64());
    let mut outcome = Outcome::none(name);
    for _ in 0..RUNS_MAX {
        let rest = wanted.saturating_sub(outcome.processor);
        if rest < Duration::from_secs(1) || !outcome.findings.is_empty() {
            break;
        }
        outcome.add(run_once(fuzzer, name, &places, rest)?);
    }
    if args.keep {
        outcome.kept = keep(fuzzer, name, &places)?;
    }
    Ok(outcome)
}

/// `length`: of the clock's time, whole seconds.
fn run_once(fuzzer: &Path, name: &str, places: &Places, length: Duration) -> Result<Outcome> {
    let before = files(&places.findings)?;
    let mut command = fuzzer_for(fuzzer, name);
    command.args([
        format!("-max_total_time={}", length.as_secs_f64().ceil()),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-artifact_prefix={}/", places.findings.display()),
        "-print_final_stats=1".to_owned(),
        "-use_value_profile=1".to_owned(),
    ]);
    command.arg(&places.work).arg(&places.kept).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start the fuzzer")?;
    let mut bytes = Vec::new();
    child.stderr.take().map(|mut stderr| stderr.read_to_end(&mut bytes)).transpose()?;
    let used = child.wait4()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut findings = files(&places.findings)?;
    findings.retain(|path| !before.contains(path));
    let mut outcome = Outcome::read(name, &text, used.rusage.utime + used.rusage.stime, findings);
    if !used.status.success() && outcome.findings.is_empty() {
        outcome.findings.push(places.findings.join("(none was written)"));
    }
    if !outcome.findings.is_empty() {
        eprintln!("{name}: {}", outcome::tail(&text, 40));
    }
    Ok(outcome)
}

fn fuzzer_for(fuzzer: &Path, name: &str) -> Command {
    let mut command = Command::new(fuzzer);
    // A panic is told once, by its message; the place is in it.
    command.env("TWINWALL_FUZZ_TARGET", name).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

/// Replaces what is kept of a target by few small inputs, old and new, that together reach every edge reached; regressions
/// (by name) stay whatever they reach. The number of inputs.
fn keep(fuzzer: &Path, name: &str, places: &Places) -> Result<Option<usize>> {
    let merged = shell::root().join("target/fuzz/merged").join(name);
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged)?;
    let mut command = fuzzer_for(fuzzer, name);
    // A cover of all edges; how often each is taken, and values compared, stay in the working corpus.
    command
        .args(["-set_cover_merge=1", "-use_counters=0", "-use_value_profile=0"])
        .arg(format!("-max_len={KEPT_BYTES_MAX}"));
    let output = command.arg(&merged).arg(&places.kept).arg(&places.work).output()?;
    ensure!(
        output.status.success(),
        "{name}: the corpora cannot be merged: {}",
        outcome::tail(&String::from_utf8_lossy(&output.stderr), 10)
    );
    let is_regression =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("regression-"));
    for path in files(&places.kept)?.into_iter().filter(|path| !is_regression(path)) {
        fs::remove_file(path)?;
    }
    for path in files(&merged)? {
        // libFuzzer names an input by its SHA-1: the beginning is enough.
        let short: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(12).collect();
        fs::copy(&path, places.kept.join(short))?;
    }
    Ok(Some(files(&places.kept)?.len()))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
