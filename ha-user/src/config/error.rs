//! What is wrong with a configuration, where, and what to do about it.

use serde::Serialize;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why there is no [`super::Resolved`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source} (give another file with --config)", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{} is larger than {limit} bytes (is it really the configuration?)", file.display())]
    TooLarge { file: PathBuf, limit: u64 },
    #[error("{} is not UTF-8 text at byte {offset} (save it as UTF-8)", file.display())]
    NotText { file: PathBuf, offset: usize },
    #[error("{0}")]
    Invalid(Report),
}

/// An error refuses the file, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// From 1; column in characters.
    pub line: usize,
    pub column: usize,
    /// `vip[0].addresses[1]`; empty for the file as a whole.
    pub key: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// All problems of one file, errors first, then in file order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
}

impl Report {
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|p| p.severity == Severity::Error).count()
    }

    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }

    /// Each problem as it is printed.
    pub fn lines(&self) -> Vec<String> {
        self.problems.iter().map(|problem| format!("{}:{problem}", self.file.display())).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{problem}", self.file.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Where a value stands: its bytes in the text and its key path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub span: Range<usize>,
    pub key: String,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    pub value: T,
    pub at: At,
}

/// A list whose elements have places of their own.
pub type FoundList<T> = Found<Vec<Found<T>>>;

/// Collects problems while a file is read, so that all are reported and not the first alone.
pub struct Problems<'a> {
    text: &'a str,
    list: Vec<Problem>,
    any_error: bool,
}

/// A file with more problems than this is not a configuration; the rest is not listed.
const PROBLEMS_MAX: usize = 100;

impl<'a> Problems<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, list: Vec::new(), any_error: false }
    }

    pub fn error(&mut self, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Error, at, message, remedy);
    }

    pub fn warning(&mut self, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Warning, at, message, remedy);
    }

    pub fn report(&mut self, severity: Severity, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        self.any_error |= severity == Severity::Error;
        if self.list.len() >= PROBLEMS_MAX {
            return;
        }
        let (line, column) = position(self.text, at.span.start);
        let (key, message, remedy) = (at.key.clone(), message.into(), remedy.into());
        self.list.push(Problem { severity, line, column, key, message, remedy });
    }

    pub fn any_error(&self) -> bool {
        self.any_error
    }

    pub fn into_report(mut self, file: &Path) -> Report {
        self.list.sort_by_key(|problem| (problem.severity, problem.line, problem.column));
        Report { file: file.to_owned(), problems: self.list }
    }
}

/// Line and column (in characters), both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns count characters and lines count from one, also at the end and inside a character.
    #[test]
    fn positions() {
        let text = "a = 1\nü = \"é\"\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 4), (1, 5));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, 7), (2, 1));
        assert_eq!(position(text, 8), (2, 2));
        assert_eq!(position(text, 999), (3, 1));
    }
}
