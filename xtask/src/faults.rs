//! `cargo xtask faults`: bad days for a real pair, each with its promise.

use anyhow::{Context, Result, bail};
use clap::Args;
use ha_tests::matrix::{Extent, Fault, MATRIX, table};
use ha_tests::netns::checked;
use std::fs;
use std::process::Command;
use std::time::Instant;

const PAGE: &str = "docs/faults.md";
/// What stands between them in the page is written by this command.
const MARKS: [&str; 2] = ["<!-- faults: begin -->", "<!-- faults: end -->"];

/// Do every kind of harm to a real pair in namespaces, and see whether what is promised holds.
#[derive(Args, Debug)]
#[command(after_help = "Example: sudo -E cargo xtask faults --full --docs")]
pub struct FaultsArgs {
    /// Only these rows, by name.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// A thousand kills, a minute of flood, and so on (about half an hour); otherwise about three minutes.
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
    let rows = chosen(&args.rows)?;
    crate::build::daemon(crate::setup::Scope::Test)?;
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

fn chosen(names: &[String]) -> Result<Vec<Fault>> {
    if names.is_empty() {
        return Ok(MATRIX.to_vec());
    }
    let find = |name: &String| {
        let known = || MATRIX.map(|fault| fault.name).join(", ");
        MATRIX
            .into_iter()
            .find(|fault| fault.name == name)
            .with_context(|| format!("no row {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
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
