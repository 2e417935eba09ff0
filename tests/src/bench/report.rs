//! The bench's result: a line for each tool and scenario, as JSON, as a table for a terminal, as Markdown.

use super::Options;
use super::scenario::Scenario;
use super::stats::{Summary, rounded};
use super::tool::ToolName;
use super::trial::Sample;
use crate::netns::checked;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

/// One tool in one scenario. Intervals are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub tool: ToolName,
    pub scenario: Scenario,
    /// Runs that were made; those that could not be measured are among `failed`.
    pub runs: usize,
    /// The longest interval between two replies that ends after the fault. A run in which they never came back counts
    /// with as long as it was watched. `null` when no run could be measured.
    pub outage_ms: Option<Summary>,
    /// Probes sent since the fault and never answered.
    pub lost: Option<Summary>,
    /// Sessions of all runs that went on unharmed, of those that were open.
    pub survived: usize,
    pub sessions: usize,
    /// What became of the others: how many of each kind and reason.
    pub casualties: BTreeMap<String, usize>,
    /// Runs without success, with the reason: nothing is left out silently.
    pub failed: Vec<Failed>,
    /// The longest interval between two replies in the second before the fault: what the machine does by itself.
    pub baseline_gap_ms: Option<Summary>,
    /// The longest interval between two probes that were sent since the fault (0.5 when none was late). It is not
    /// taken off the outage.
    pub sender_gap_ms: Option<Summary>,
    /// The outage of each run that could be measured.
    pub outages_ms: Vec<f64>,
    /// Load average (1 min) at the begin of the runs.
    pub load: Option<Summary>,
    /// UTC, when the line was made.
    pub date: String,
    pub preload: u32,
    pub vips: u16,
}

/// A run without success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// From 1 on.
    pub run: usize,
    pub reason: String,
    /// Whether its figures are among the others.
    pub measured: bool,
}

impl Line {
    pub(super) fn new(
        tool: ToolName,
        scenario: Scenario,
        runs: &[Result<Sample, String>],
        options: &Options,
    ) -> Result<Self> {
        let samples: Vec<&Sample> = runs.iter().flatten().collect();
        let summary = |of: fn(&Sample) -> f64| Summary::of(samples.iter().map(|sample| of(sample)));
        let failed = runs.iter().zip(1..).filter_map(|(outcome, run)| match outcome {
            Ok(sample) => Some(Failed { run, reason: sample.failure.clone()?, measured: true }),
            Err(reason) => Some(Failed { run, reason: reason.clone(), measured: false }),
        });
        Ok(Self {
            tool,
            scenario,
            runs: runs.len(),
            outage_ms: summary(|sample| sample.outage_ms),
            lost: summary(|sample| u32::try_from(sample.lost).map_or(f64::INFINITY, f64::from)),
            survived: samples.iter().map(|sample| sample.survived).sum(),
            sessions: samples.iter().map(|sample| sample.sessions).sum(),
            casualties: samples.iter().flat_map(|sample| &sample.casualties).fold(
                BTreeMap::new(),
                |mut counts, name| {
                    *counts.entry(name.clone()).or_default() += 1;
                    counts
                },
            ),
            failed: failed.collect(),
            baseline_gap_ms: summary(|sample| sample.baseline_gap_ms),
            sender_gap_ms: summary(|sample| sample.sender_gap_ms),
            outages_ms: samples.iter().map(|sample| sample.outage_ms).collect(),
            load: summary(|sample| sample.load),
            date: checked(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned(),
            preload: options.preload,
            vips: options.vips,
        })
    }

    /// Reads the lines that [`Line::json`] has written; empty lines are skipped.
    ///
    /// # Errors
    /// At the first that is none, with its number.
    pub fn read(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        lines.map(|(line, number)| serde_json::from_str(line).with_context(|| format!("line {number}"))).collect()
    }

    /// One object in one line.
    ///
    /// # Errors
    /// Never for lines that were measured or read.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// What sets it apart from the plain bench; empty for that.
    pub fn condition(&self) -> String {
        let mut parts = Vec::new();
        if self.preload > 0 {
            parts.push(format!("{} flows", self.preload));
        }
        if self.vips > 2 {
            parts.push(format!("{} addresses", self.vips));
        }
        parts.join(", ")
    }

    /// The scenario and its condition.
    fn title(&self) -> String {
        let condition = self.condition();
        if condition.is_empty() { self.scenario.to_string() } else { format!("{} ({condition})", self.scenario) }
    }

    /// The cells of its row, in the order of [`HEAD`].
    fn cells(&self) -> [String; 9] {
        let successes = self.runs - self.failed.len().min(self.runs);
        [
            self.title(),
            self.tool.to_string(),
            format!("{successes}/{}", self.runs),
            three(self.outage_ms),
            three(self.lost),
            format!("{}/{}", self.survived, self.sessions),
            one(self.baseline_gap_ms.map(|gap| gap.max)),
            one(self.sender_gap_ms.map(|gap| gap.max)),
            one(self.load.map(|load| load.median)),
        ]
    }
}

/// The columns of both tables.
const HEAD: [&str; 9] = [
    "scenario",
    "tool",
    "succeeded",
    "silence ms, median / p99 / max",
    "lost probes, median / p99 / max",
    "sessions alive",
    "gap before, max ms",
    "sender gap, max ms",
    "load",
];

/// Lines in the order of the tables: by condition, scenario and tool.
pub fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|line| (line.preload, line.vips, line.scenario, line.tool));
    lines
}

/// For a terminal.
pub fn table(lines: &[Line]) -> String {
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(lines.iter().map(Line::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text + &reasons(lines, "")
}

/// For a document.
pub fn markdown(lines: &[Line]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&HEAD.map(str::to_owned)) + &row(&HEAD.map(|_| "---".to_owned()));
    for line in lines {
        text += &row(&line.cells());
    }
    let dates: Vec<_> = lines.iter().map(|line| line.date.as_str()).collect();
    if let (Some(first), Some(last)) = (dates.iter().min(), dates.iter().max()) {
        let span = if first == last { format!("until {last}") } else { format!("from {first} to {last}") };
        let _ = writeln!(text, "\nMeasured {span}.");
    }
    text + &reasons(lines, "- ")
}

/// What became of lost sessions, and why runs failed; equal reasons of one row once.
fn reasons(lines: &[Line], bullet: &str) -> String {
    let mut text = String::new();
    for line in lines {
        if !line.casualties.is_empty() {
            let lost = line.casualties.iter().map(|(what, count)| format!("{count} {what}"));
            let lost = lost.collect::<Vec<_>>().join(", ");
            let _ = write!(text, "\n{bullet}{} {}: sessions lost: {lost}", line.tool, line.title());
        }
        let mut told: Vec<(&str, usize)> = Vec::new();
        for failed in &line.failed {
            let reason = failed.reason.lines().next().unwrap_or_default();
            match told.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, count)) => *count += 1,
                None => told.push((reason, 1)),
            }
        }
        for (reason, count) in told {
            let _ =
                write!(text, "\n{bullet}{} {}: {count} of {} failed: {reason}", line.tool, line.scenario, line.runs);
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

fn three(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |Summary { median, p99, max }| format!("{} / {} / {}", short(median), short(p99), short(max)),
    )
}

fn one(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), short)
}

/// Three digits say enough.
fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{}", rounded((value * 10.0).round() / 10.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            tools: vec![ToolName::Ucarp],
            scenarios: vec![Scenario::Crash],
            runs: 3,
            preload: 0,
            vips: 2,
            logs: None,
        }
    }

    fn sample(outage_ms: f64) -> Sample {
        Sample {
            outage_ms,
            lost: 7,
            survived: 99,
            sessions: 100,
            casualties: vec!["udp renumbered".to_owned()],
            ..Sample::default()
        }
    }

    /// A run that could not be measured is counted and told with its reason, and what could be measured is summed up; the
    /// line reads back from its JSON.
    #[test]
    fn no_run_is_left_out() {
        let never = Sample { failure: Some("no replies".to_owned()), ..sample(15_000.0) };
        let runs = [Ok(sample(2.0)), Ok(never), Err("the pair settles: not within 15s\nlog".to_owned())];
        let line = Line::new(ToolName::Ucarp, Scenario::Crash, &runs, &options()).unwrap();
        assert_eq!((line.runs, line.failed.len(), line.outages_ms.len()), (3, 2, 2));
        assert_eq!((line.survived, line.sessions), (198, 200));
        assert_eq!(line.outage_ms.unwrap().max, 15_000.0);
        let text = table(std::slice::from_ref(&line));
        assert!(text.contains("1/3") && text.contains("the pair settles: not within 15s"), "{text}");
        assert!(!text.contains("log"), "{text}");
        assert!(text.contains("ucarp crash: sessions lost: 2 udp renumbered"), "{text}");
        assert_eq!(Line::read(&(line.json().unwrap() + "\n\n")).unwrap(), [line]);
        assert!(format!("{:#}", Line::read("\n{}").unwrap_err()).contains("line 2"));
    }

    /// When nothing could be measured the figures are missing rather than zero.
    #[test]
    fn nothing_measured_is_not_zero() {
        let runs = [Err("no keepalived".to_owned())];
        let line = Line::new(ToolName::Keepalived1s, Scenario::Stop, &runs, &options()).unwrap();
        assert_eq!((line.outage_ms, line.lost), (None, None));
        assert!(markdown(&[line]).contains("| stop | keepalived-1s | 0/1 | - | - | 0/0 |"));
    }

    /// Tables come in the order of scenarios and tools, conditions apart.
    #[test]
    fn lines_are_sorted() {
        let line = |tool, scenario, preload| {
            Line::new(tool, scenario, &[Ok(sample(1.0))], &Options { preload, ..options() }).unwrap()
        };
        let lines = sorted(vec![
            line(ToolName::Twinwall, Scenario::Crash, 1000),
            line(ToolName::Ucarp, Scenario::Stop, 0),
            line(ToolName::Ucarp, Scenario::Crash, 0),
            line(ToolName::Twinwall, Scenario::Crash, 0),
        ]);
        let order: Vec<_> = lines.iter().map(|line| (line.tool, line.scenario, line.condition())).collect();
        assert_eq!(order[0], (ToolName::Twinwall, Scenario::Crash, String::new()));
        assert_eq!(order[1], (ToolName::Ucarp, Scenario::Crash, String::new()));
        assert_eq!(order[3], (ToolName::Twinwall, Scenario::Crash, "1000 flows".to_owned()));
    }
}
