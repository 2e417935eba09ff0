//! The bench's result: a line for each tool and figure, as JSON, as a table for a terminal, as Markdown.

use super::measure::{Measure, Sample};
use super::metric::{self, LimitKind, Metric};
use super::tool::ToolName;
use super::{Options, usage};
use crate::bench::stats::{Summary, rounded};
use crate::daemon;
use crate::netns::checked;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// `tool` of what `bench limits` measures.
pub const KERNEL: &str = "kernel";
/// `tool` of the generator with nobody listening.
const GENERATOR: &str = "generator";

/// One figure of one tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// A tool's name, `generator`, or `kernel` for what `bench limits` measures.
    pub tool: String,
    pub measure: String,
    /// The rate, the size of the table, the factor, the batch: what the measure was made at. 0 where there is none.
    pub at: u64,
    /// The median of all runs that could be measured; `null` when none could.
    pub value: Option<f64>,
    pub unit: String,
    /// Of each run that could be measured.
    pub values: Vec<f64>,
    /// Why runs could not be measured: nothing is left out silently.
    pub failed: Vec<String>,
    /// Median of the load average (1 min) at the begin of the runs.
    pub load: Option<f64>,
    /// What it was measured with.
    pub with: Conditions,
}

/// What figures were measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    pub kernel: String,
    pub cpus: usize,
    /// `nf_conntrack_max` and the number of buckets.
    pub table: [u64; 2],
    /// How long flows come at one rate; 0 where that says nothing.
    pub seconds: u32,
    /// Version and path of the daemon.
    pub twinwall: Option<String>,
    pub conntrackd: Option<String>,
    /// UTC, when the lines were made.
    pub date: String,
}

impl Conditions {
    pub(super) fn of(options: &Options) -> Result<Self> {
        let mut conditions = Self::of_machine(options.seconds)?;
        if options.tools.contains(&ToolName::Twinwall) {
            let binary = daemon::binary()?;
            let version = checked(Command::new(&binary).arg("--version"))?;
            conditions.twinwall = Some(format!("{} ({})", version.trim(), binary.display()));
        }
        if options.tools.iter().any(|tool| tool.replication().is_some()) {
            let version = checked(Command::new("conntrackd").arg("-v"))?;
            // Its licence follows.
            conditions.conntrackd = version.split(". ").next().map(|version| version.trim().to_owned());
        }
        Ok(conditions)
    }

    /// Of this machine, without any tool.
    ///
    /// # Errors
    /// When conntrack is not loaded.
    pub fn of_machine(seconds: u32) -> Result<Self> {
        let number = |path: &str| -> Result<u64> {
            Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().parse()?)
        };
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            table: [
                number("/proc/sys/net/netfilter/nf_conntrack_max")?,
                number("/sys/module/nf_conntrack/parameters/hashsize")?,
            ],
            seconds,
            twinwall: None,
            conntrackd: None,
            date: checked(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned(),
        })
    }
}

impl Line {
    /// A figure of the kernel, measured once or several times.
    pub fn of_kernel(measure: &str, at: u64, unit: &str, values: &[f64], conditions: &Conditions) -> Self {
        Self {
            tool: KERNEL.to_owned(),
            measure: measure.to_owned(),
            at,
            value: median(values),
            unit: unit.to_owned(),
            values: values.iter().copied().map(rounded).collect(),
            failed: Vec::new(),
            load: Some(usage::load_average()),
            with: conditions.clone(),
        }
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
}

/// The lines of one measure of one tool: one for each figure, and one without a figure when a run could not be measured.
pub(super) fn lines(
    tool: ToolName,
    measure: Measure,
    operand: u64,
    runs: &[Result<Sample, String>],
    conditions: &Conditions,
) -> Vec<Line> {
    let samples: Vec<&Sample> = runs.iter().flatten().collect();
    let failed: Vec<String> = runs.iter().filter_map(|run| run.as_ref().err().cloned()).collect();
    let load = Summary::of(samples.iter().map(|sample| sample.load)).map(|load| load.median);
    let line = |measure: &str, at: u64, unit: &str, values: Vec<f64>, failed: Vec<String>| Line {
        tool: tool.to_string(),
        measure: measure.to_owned(),
        at,
        value: median(&values),
        unit: unit.to_owned(),
        values,
        failed,
        load,
        with: conditions.clone(),
    };
    let mut lines = Vec::new();
    for metric in metric::SYNC {
        let mut places: Vec<u64> = readings(&samples, metric.name).map(|(at, _)| at).collect();
        places.sort_unstable();
        places.dedup();
        for at in places {
            let here = readings(&samples, metric.name).filter(|(place, _)| *place == at);
            let values = here.map(|(_, value)| rounded(value)).collect();
            lines.push(line(metric.name, at, metric.unit, values, Vec::new()));
        }
    }
    if !failed.is_empty() {
        lines.push(line(measure.name(), operand, "", Vec::new(), failed));
    }
    lines
}

/// The line of the generator alone.
pub(super) fn ceiling(runs: &[Result<f64, String>], conditions: &Conditions) -> Vec<Line> {
    if runs.is_empty() {
        return Vec::new();
    }
    let values: Vec<f64> = runs.iter().flatten().copied().collect();
    let failed = runs.iter().filter_map(|run| run.as_ref().err().cloned()).collect();
    let line = Line::of_kernel(GENERATOR, 0, "flows/s", &values, conditions);
    vec![Line { tool: GENERATOR.to_owned(), failed, ..line }]
}

fn readings<'a>(samples: &'a [&Sample], name: &'a str) -> impl Iterator<Item = (u64, f64)> + 'a {
    let all = samples.iter().flat_map(|sample| &sample.readings);
    all.filter(move |reading| reading.name == name).map(|reading| (reading.at, reading.value))
}

fn median(values: &[f64]) -> Option<f64> {
    Summary::of(values.iter().copied()).map(|summary| summary.median)
}

/// For a terminal.
pub fn table(lines: &[Line]) -> String {
    let rows = rows(lines);
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text + &limits(lines, "", "") + &failures(lines, "")
}

/// For a document.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = String::new();
    for (number, row) in rows(lines).iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "| {} |", row.iter().map(|_| "---").collect::<Vec<_>>().join(" | "));
        }
    }
    if let Some(Line { with, .. }) = lines.iter().max_by_key(|line| &line.with.date) {
        let Conditions { kernel, cpus, table: [max, buckets], date, twinwall, conntrackd, .. } = with;
        let tools = [twinwall, conntrackd].into_iter().flatten().map(|tool| format!(", {tool}")).collect::<String>();
        let _ = writeln!(
            text,
            "\nMeasured until {date}: Linux {kernel}, {cpus} processors, tables of {max} entries and {buckets} buckets{tools}; \
             load average at the begin of the measures: {}.",
            loads(lines)
        );
    }
    text + &limits(lines, "| ", " |") + &failures(lines, "- ")
}

/// From the least to the highest.
fn loads(lines: &[Line]) -> String {
    let loads = Summary::of(lines.iter().filter_map(|line| line.load));
    let least = lines.iter().filter_map(|line| line.load).fold(f64::INFINITY, f64::min);
    loads.map_or_else(|| "unknown".to_owned(), |loads| format!("{} to {}", short(least), short(loads.max)))
}

/// Head and rows: figure, what it was made at, unit, the kernel alone, then the tools.
fn rows(lines: &[Line]) -> Vec<Vec<String>> {
    let tools = tools(lines);
    let mut head: Vec<String> = ["figure", "at", "unit", "kernel alone"].map(str::to_owned).into();
    head.extend(tools.iter().map(|tool| (*tool).to_owned()));
    let mut rows = vec![head];
    for metric in metric::SYNC {
        let mut places: Vec<u64> = lines
            .iter()
            .filter(|line| line.measure == metric.name && line.tool != KERNEL)
            .map(|line| line.at)
            .collect();
        places.sort_unstable();
        places.dedup();
        for at in places {
            let unit = if metric.at == "x" { "x".to_owned() } else { format!(" {}", metric.at) };
            let place = if metric.at.is_empty() { String::new() } else { format!("{at}{unit}") };
            let mut row = vec![metric.title.to_owned(), place, metric.unit.to_owned(), limit(lines, metric, at)];
            row.extend(tools.iter().map(|tool| cell(lines, tool, metric.name, at)));
            rows.push(row);
        }
    }
    // Without a row there is no table.
    if rows.len() == 1 { Vec::new() } else { rows }
}

/// The tools of the lines in the order of the tables.
pub fn tools(lines: &[Line]) -> Vec<&'static str> {
    let names = ToolName::ALL.map(ToolName::name);
    names.into_iter().filter(|name| lines.iter().any(|line| line.tool == *name)).collect()
}

/// The median, and how far the runs lie apart where there were several.
fn cell(lines: &[Line], tool: &str, measure: &str, at: u64) -> String {
    let line = lines.iter().find(|line| line.tool == tool && line.measure == measure && line.at == at);
    let Some((line, value)) = line.and_then(|line| Some((line, line.value?))) else { return "-".to_owned() };
    let (least, most) =
        line.values.iter().fold((value, value), |(least, most), value| (least.min(*value), most.max(*value)));
    if short(least) == short(most) {
        short(value)
    } else {
        format!("{} ({}–{})", short(value), short(least), short(most))
    }
}

/// What the kernel alone makes of a figure.
fn limit(lines: &[Line], metric: Metric, at: u64) -> String {
    let value = metric.limit.and_then(|limit| {
        let limit_at = if limit.kind == LimitKind::SameAt { at } else { limit.at };
        let is_it = |line: &&Line| line.measure == limit.name && line.at == limit_at;
        let value = lines.iter().find(is_it)?.value?;
        Some(match limit.kind {
            LimitKind::Same | LimitKind::SameAt => short(value),
            LimitKind::Seconds => format!("{} s", short(at as f64 / value)),
        })
    });
    value.unwrap_or_default()
}

/// The figures of `bench limits`, a table of their own.
fn limits(lines: &[Line], begin: &str, end: &str) -> String {
    let kernel: Vec<&Line> = lines.iter().filter(|line| line.tool == KERNEL || line.tool == GENERATOR).collect();
    if kernel.is_empty() {
        return String::new();
    }
    let between = if begin.is_empty() { "  " } else { " | " };
    let mut text = format!("\n{begin}{:<28}{between}{:>8}{between}{:>12}{between}unit{end}\n", "kernel", "at", "value");
    if !begin.is_empty() {
        text += "| --- | --- | --- | --- |\n";
    }
    for line in kernel {
        let (value, at) = (line.value.map_or_else(|| "-".to_owned(), short), line.at);
        let _ = writeln!(
            text,
            "{begin}{:<28}{between}{at:>8}{between}{value:>12}{between}{}{end}",
            line.measure, line.unit
        );
    }
    text
}

/// Why runs could not be measured, each reason's first line.
fn failures(lines: &[Line], bullet: &str) -> String {
    let mut text = String::new();
    for line in lines {
        for reason in &line.failed {
            let reason = reason.lines().next().unwrap_or_default();
            let _ = write!(text, "\n{bullet}{} {} {}: not measured: {reason}", line.tool, line.measure, line.at);
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

/// Three digits say enough; whole numbers above a hundred.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{}", (value * 10.0).round() / 10.0),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Reading;
    use super::*;

    fn conditions() -> Conditions {
        Conditions {
            kernel: "6.1".to_owned(),
            cpus: 2,
            table: [1, 1],
            seconds: 5,
            twinwall: None,
            conntrackd: None,
            date: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn sample(value: f64) -> Result<Sample, String> {
        Ok(Sample { readings: vec![Reading { name: "cpu-fw2", at: 20_000, value }], load: 0.5 })
    }

    /// Three runs of one figure make one line with their median; a run that could not be measured has a line with its reason;
    /// both read back from their JSON.
    #[test]
    fn no_run_is_left_out() {
        let runs = [sample(3.0), sample(1.0), Err("fw2 did not start\nlog".to_owned()), sample(2.0)];
        let lines = lines(ToolName::Ftfw, Measure::Cpu, 20_000, &runs, &conditions());
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].value, lines[0].values.len(), lines[0].unit.as_str()), (Some(2.0), 3, "us/flow"));
        assert_eq!((lines[1].value, lines[1].failed.len()), (None, 1));
        let json: String = lines.iter().map(|line| line.json().unwrap() + "\n").collect();
        assert_eq!(Line::read(&json).unwrap(), lines);
        let text = markdown(&lines);
        assert!(
            text.contains("| 2 (1–3) |")
                && text.contains("- conntrackd-ftfw cpu 20000: not measured: fw2 did not start"),
            "{text}"
        );
        assert!(!text.contains("log"), "{text}");
    }

    /// A figure has the kernel's beside it: the same unit as it is, of the row's size where sizes count, a rate as the time for it.
    #[test]
    fn the_kernels_limit_stands_beside() {
        let mut all = lines(ToolName::Twinwall, Measure::Cpu, 20_000, &[sample(3.0)], &conditions());
        let bulk = Sample { readings: vec![Reading { name: "bulk-up", at: 1_000_000, value: 4.0 }], load: 0.0 };
        all.extend(lines(ToolName::Twinwall, Measure::Bulk, 1_000_000, &[Ok(bulk)], &conditions()));
        all.push(Line::of_kernel("insert-snat-cpu", 256, "us", &[2.1], &conditions()));
        let stale = Sample { readings: vec![Reading { name: "stale-1s", at: 200_000, value: 0.0 }], load: 0.0 };
        all.extend(lines(ToolName::Twinwall, Measure::Storm, 200_000, &[Ok(stale)], &conditions()));
        all.push(Line::of_kernel("fill-snat-beside", 500_000, "s", &[1.2], &conditions()));
        all.push(Line::of_kernel("fill-snat-beside", 1_000_000, "s", &[2.5], &conditions()));
        all.push(Line::of_kernel("delete", 256, "entries/s", &[400_000.0], &conditions()));
        let text = markdown(&all);
        assert!(text.contains("| 20000 flows/s | us/flow | 2.1 | 3 |"), "{text}");
        assert!(text.contains("| 1000000 flows | s | 2.5 | 4 |"), "{text}");
        assert!(text.contains("| 200000 flows | flows | 0.5 s | 0 |"), "{text}");
    }
}
