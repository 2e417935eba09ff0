//! `cargo xtask spec`: SPECIFICATION.md promises nothing that nobody proves.

use anyhow::{Context, Result, ensure};
use clap::{Args, CommandFactory};
use std::collections::BTreeSet;
use std::fs;

const PAGE: &str = "SPECIFICATION.md";
/// How a row of the page is divided: what is promised, its figure, who proves it, when it was seen last.
const COLUMNS: usize = 4;
/// Between a test's attribute and its name: further attributes.
const ATTRIBUTES_MAX: usize = 6;

/// Check that every promise of SPECIFICATION.md names a test or a command that exists, and the day of its last run
#[derive(Args, Debug)]
#[command(after_help = "Example: cargo xtask spec")]
pub struct SpecArgs {}

/// Reads the page and the sources.
///
/// # Errors
/// When a row promises something without proof, or its proof does not exist: every such row is named.
pub fn spec(_: &SpecArgs) -> Result<()> {
    let page = fs::read_to_string(crate::shell::root().join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let tests = tests(&crate::tidy::texts()?);
    let (rows, problems) = check(&page, &tests);
    for problem in &problems {
        eprintln!("{PAGE}: {problem}");
    }
    ensure!(problems.is_empty(), "{} promises without proof", problems.len());
    println!("spec: {rows} promises, each with a proof that exists");
    Ok(())
}

/// How many rows there are, and what is wrong with them.
fn check(page: &str, tests: &BTreeSet<String>) -> (usize, Vec<String>) {
    let (mut rows, mut problems) = (0, Vec::new());
    for (number, line) in (1..).zip(page.lines()) {
        let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { continue };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        let is_head = cells.iter().all(|cell| cell.chars().all(|c| c == '-')) || cells.first() == Some(&"promise");
        if is_head {
            continue;
        }
        rows += 1;
        let mut report = |problem: String| problems.push(format!("line {number}: {problem}"));
        let [_, figure, proof, seen] = cells[..] else {
            report(format!("{} columns instead of {COLUMNS}", cells.len()));
            continue;
        };
        if !figure.chars().any(|c| c.is_ascii_digit()) {
            report(format!("a promise without a number: {figure}"));
        }
        let proofs: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if proofs.is_empty() {
            report("no test or command is named".to_owned());
        }
        proofs.into_iter().filter_map(|proof| lacks(proof, tests)).for_each(&mut report);
        if !seen.split_whitespace().any(is_date) {
            report(format!("no day of a last run: {seen}"));
        }
    }
    (rows, problems)
}

/// What is wrong with a proof: the name of a test, or `cargo xtask VERB …`.
fn lacks(proof: &str, tests: &BTreeSet<String>) -> Option<String> {
    let Some(command) = proof.strip_prefix("cargo xtask ") else {
        return (!tests.contains(proof)).then(|| format!("there is no test {proof}"));
    };
    // The very definition of the command line decides.
    let words = std::iter::once("xtask").chain(command.split_whitespace());
    let parsed = crate::Verb::command().try_get_matches_from(words);
    if let Err(error) = parsed {
        return Some(format!("`{proof}` is no command: {}", error.to_string().lines().next().unwrap_or_default()));
    }
    let rows = command.split_whitespace().skip_while(|word| *word != "--rows").nth(1).unwrap_or_default();
    let known = |row: &&str| ha_tests::matrix::MATRIX.iter().any(|fault| fault.name == *row);
    let unknown = rows.split(',').filter(|row| !row.is_empty()).find(|row| !known(row));
    unknown.map(|row| format!("the fault matrix has no row {row}"))
}

fn is_date(word: &str) -> bool {
    let word = word.trim_end_matches([',', ';', ':', '.']);
    let parts: Vec<&str> = word.split('-').collect();
    let digits = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    parts.iter().map(|part| part.len()).eq([4, 2, 2]) && parts.iter().all(digits)
}

/// The names of all tests: functions behind `#[test]`, `#[rstest]` or `#[tokio::test]`.
fn tests(sources: &[String]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("#[") && line.contains("test")) {
            let is_test = ["#[test]", "#[rstest]", "#[tokio::test"].iter().any(|start| line.starts_with(start));
            let following = lines.iter().skip(at + 1).take(ATTRIBUTES_MAX);
            let name = following.filter_map(|line| line.split("fn ").nth(1)?.split(['(', '<']).next()).next();
            names.extend(name.filter(|_| is_test).map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page as it is: whoever renames a test renames it there.
    #[test]
    fn every_promise_has_its_proof() {
        spec(&SpecArgs {}).unwrap();
    }

    /// Rows without number, proof or day, with tests, commands or rows of the matrix that do not exist are each named.
    #[test]
    fn empty_promises_are_found() {
        let sources = ["#[test]\n#[ignore]\nfn it_holds() {}\nfn no_test() {}\n".to_owned()];
        let known = tests(&sources);
        assert_eq!(known.iter().collect::<Vec<_>>(), ["it_holds"]);
        let good = "| promise | figure | proven by | last run |\n|---|---|---|---|\n\
                    | a | 1 ms | `it_holds`, `cargo xtask faults --rows garbage` | 2026-11-27: 0.5 ms |\n";
        assert_eq!(check(good, &known), (1, vec![]));
        let bad = [
            "| a | fast | `it_holds` | 2026-11-27 |",
            "| a | 1 | it_holds | 2026-11-27 |",
            "| a | 1 | `no_test` | 2026-11-27 |",
            "| a | 1 | `it_holds` | lately |",
            "| a | 1 | `cargo xtask fly` | 2026-11-27 |",
            "| a | 1 | `cargo xtask faults --rows flood` | 2026-11-27 |",
            "| a | 1 | `it_holds` |",
        ];
        for line in bad {
            assert_eq!(check(line, &known).1.len(), 1, "{line}: {:?}", check(line, &known));
        }
    }
}
