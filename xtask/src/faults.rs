//! `cargo xtask faults`: bad days for a real pair, each with its promise.

use anyhow::{Context, Result, bail};
use clap::Args;
use ha_tests::matrix::{Extent, Fault, MATRIX, OLDER_PEER, older_program, table};
use ha_tests::netns::checked;
use std::fs;
use std::process::Command;
use std::time::Instant;

const PAGE: &str = "docs/faults.md";
/// The last commit whose build speaks version 1 of the sync protocol.
const OLDER: &str = "3c02aebd241dd916a6f659fe206e0c736258744d";
/// What stands between them in the page is written by this command.
const MARKS: [&str; 2] = ["<!-- faults: begin -->", "<!-- faults: end -->"];

/// Do every kind of harm to a real pair in namespaces, and see whether what is promised holds.
#[derive(Args, Debug)]
#[command(after_help = "Example: sudo -E cargo xtask faults --full --docs")]
pub struct FaultsArgs {
    /// Only these rows, by name.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// A thousand kills, a minute of flood, a peer of an older build, and so on (about half an hour); otherwise about three
    /// minutes.
    #[arg(long)]
    full: bool,
    /// Write the table to docs/faults.md.
    #[arg(long, conflicts_with = "rows")]
    docs: bool,
}

/// Runs the rows and prints the table.
///
/// # Errors
/// When a promise does not hold (the other rows are run all the same), or a row has another name.
pub fn faults(args: &FaultsArgs) -> Result<()> {
    ha_tests::netns::require_root()?;
    let rows = chosen(args)?;
    crate::build::daemon(crate::setup::Scope::Test)?;
    if rows.iter().any(|fault| fault.name == OLDER_PEER.name) {
        build_older()?;
    }
    let extent = if args.full { Extent::Full } else { Extent::Short };
    let mut seen = Vec::new();
    for fault in rows {
        println!("\n{}: {}", fault.name, fault.harm);
        let begin = Instant::now();
        let result = (fault.prove)(extent);
        match &result {
            Ok(figures) => println!("  ok ({:.0} s): {figures}", begin.elapsed().as_secs_f64()),
            Err(error) => println!("  BROKEN ({:.0} s): {error:#}", begin.elapsed().as_secs_f64()),
        }
        seen.push((fault, result));
    }
    let shown = table(&seen);
    println!("\n{shown}");
    if args.docs {
        write(&shown, args.full)?;
    }
    let broken: Vec<_> = seen.iter().filter(|(_, result)| result.is_err()).map(|(fault, _)| fault.name).collect();
    if !broken.is_empty() {
        bail!("promises that do not hold: {}", broken.join(", "));
    }
    Ok(())
}

/// Those that are named; else all, but what needs an older build only in full.
fn chosen(args: &FaultsArgs) -> Result<Vec<Fault>> {
    let all = || MATRIX.into_iter().chain([OLDER_PEER]);
    if args.rows.is_empty() {
        return Ok(all().filter(|fault| args.full || fault.name != OLDER_PEER.name).collect());
    }
    let find = |name: &String| {
        let known = || all().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
        all().find(|fault| fault.name == name).with_context(|| format!("no row {name}; there are {}", known()))
    };
    args.rows.iter().map(find).collect()
}

/// Builds the daemon of [`OLDER`] beside this one, unless it has been.
fn build_older() -> Result<()> {
    let program = older_program();
    if program.exists() {
        return Ok(());
    }
    println!("building the daemon of commit {OLDER} (minutes)");
    let root = crate::shell::root();
    let source = root.join("target/older/source");
    fs::create_dir_all(source.join("target")).context("cannot make target/older/source")?;
    let archive = source.with_extension("tar");
    let mut git = Command::new("git");
    git.current_dir(&root).args(["archive", "--output"]).arg(&archive).arg(OLDER);
    checked(&mut git).context("the older build is made from the repository's history (git fetch --unshallow)")?;
    checked(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source))?;
    // Its build looks for the linker in its own target directory.
    let tools = source.join("target/tools");
    if !tools.exists() {
        std::os::unix::fs::symlink(crate::setup::tools_dir(), tools).context("cannot link the tools")?;
    }
    let mut cargo = crate::shell::cargo();
    cargo.current_dir(&source).env_remove("CARGO_TARGET_DIR");
    crate::shell::run(cargo.args(["build", "--release", "--package", "ha-user", "--quiet"]))?;
    fs::rename(source.join("target/release/twinwall"), &program).context("the older build has made no program")?;
    Ok(())
}

fn write(table: &str, full: bool) -> Result<()> {
    let path = crate::shell::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let [begin, end] = MARKS;
    let (Some((before, _)), Some((_, after))) = (page.split_once(begin), page.split_once(end)) else {
        bail!("{PAGE} lacks {begin} and {end}");
    };
    let date = checked(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]))?;
    let kernel = checked(Command::new("uname").arg("-r"))?;
    let flag = if full { " --full" } else { "" };
    let stamp = format!("`cargo xtask faults{flag}`, {} UTC, Linux {}.", date.trim(), kernel.trim());
    fs::write(&path, format!("{before}{begin}\n{stamp}\n\n{table}{end}{after}"))
        .with_context(|| format!("cannot write {PAGE}"))
}
