//! Measured tables in docs/benchmarks.md, and what benches have printed before.

use crate::shell;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Where the measured tables stand.
const DOCUMENT: &str = "docs/benchmarks.md";
/// Ends every one of them.
const END: &str = "<!-- end -->";

/// Replaces what stands between the line `begin` and the next end mark.
///
/// # Errors
/// When the document has no such marks.
pub fn put(begin: &str, table: &str) -> Result<()> {
    let document = shell::root().join(DOCUMENT);
    let text = fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let text = replaced(&text, begin, table)
        .with_context(|| format!("{DOCUMENT} has no lines {begin:?} and {END:?} after it"))?;
    fs::write(document, text).with_context(|| format!("cannot write {DOCUMENT}"))
}

/// What `--json` has printed into these files, by the bench's own reader.
///
/// # Errors
/// When a file cannot be read, or is something else.
pub fn read<T>(files: &[PathBuf], reader: fn(&str) -> Result<Vec<T>>) -> Result<Vec<T>> {
    let mut lines = Vec::new();
    for file in files {
        let name = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
        lines.extend(reader(&text).with_context(|| format!("{name} is not what --json prints"))?);
    }
    Ok(lines)
}

fn replaced(text: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what is between a bench's own marks is replaced, and doing it twice changes nothing more.
    #[test]
    fn the_table_is_replaced_in_place() {
        let (first, second) = ("<!-- begin: a -->", "<!-- begin: b -->");
        let document = format!("head\n{first}\nother\n{END}\n{second}\nold\n{END}\ntail\n");
        let once = replaced(&document, second, "| new |\n").unwrap();
        assert_eq!(once, format!("head\n{first}\nother\n{END}\n{second}\n\n| new |\n\n{END}\ntail\n"));
        assert_eq!(replaced(&once, second, "| new |\n").unwrap(), once);
        assert_eq!(replaced("no marks", first, "x"), None);
    }
}
