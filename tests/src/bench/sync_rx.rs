//! `cargo xtask bench sync-rx`: ways of a sync frame from the XDP program to the sync loop, side by side.
//!
//! Here is what the bench and its command share: what can be asked for, and how the figures are shown. The measuring is
//! `examples/bench_sync_rx`, which needs the XDP programs.

use super::stats::Summary;
use super::sync::report::{Line, short};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::str::FromStr;

/// A way to userspace, behind the same check of the frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As in production: the frame passes to the network stack and a UDP socket. The interface joins datagrams of one run
    /// (GRO), as network cards' drivers do unless they are told otherwise.
    Socket,
    /// The same without GRO: each datagram goes through the stack by itself.
    SocketNoGro,
    /// Redirected to an AF_XDP socket, copied by the kernel into memory that is mapped.
    AfXdp,
    /// The payload copied into a BPF ring buffer.
    RingBuffer,
}

impl Way {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Socket, Self::SocketNoGro, Self::AfXdp, Self::RingBuffer];

    /// The name in options, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::SocketNoGro => "socket-no-gro",
            Self::AfXdp => "af-xdp",
            Self::RingBuffer => "ring-buffer",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|way| way.name() == text).ok_or_else(|| format!("there is no way {text}: {names}"))
    }
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the driver.
    Native,
    /// Behind it, on packet buffers that the kernel has made: what every interface can do. The kernel joins no datagrams
    /// (GRO) while a program is attached so.
    Generic,
}

impl Mode {
    /// The name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// What there is to measure in this mode.
    pub const fn has(self, way: Way) -> bool {
        match (self, way) {
            (Self::Native, _) | (Self::Generic, Way::Socket | Way::AfXdp | Way::RingBuffer) => true,
            (Self::Generic, Way::SocketNoGro) => false,
        }
    }

    /// A way in this mode, as tables and JSON name it.
    pub fn tool(self, way: Way) -> String {
        match self {
            Self::Native => way.to_string(),
            Self::Generic => format!("{way} (generic)"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Native, Self::Generic]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("there is no mode {text}: native, generic"))
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub mode: Mode,
    pub ways: Vec<Way>,
    /// UDP payloads, bytes.
    pub sizes: Vec<u16>,
    /// Of every way, in turns.
    pub rounds: u16,
    /// Frames a second at which latency, processor time and wake-ups are measured.
    pub rates: Vec<u32>,
    /// How long frames come at such a rate, milliseconds.
    pub steady_ms: u32,
    /// The same for one step of the search of the highest loss-free rate.
    pub step_ms: u32,
}

impl Options {
    /// What the published figures are measured with: less than three minutes.
    pub fn full(mode: Mode, ways: Vec<Way>, sizes: Vec<u16>, rounds: u16) -> Self {
        Self { mode, ways, sizes, rounds, rates: vec![1_000, 20_000, 100_000], steady_ms: 1_000, step_ms: 250 }
    }

    /// Whether it works at all.
    pub fn quick(mode: Mode, ways: Vec<Way>, sizes: Vec<u16>) -> Self {
        Self { mode, ways, sizes, rounds: 1, rates: vec![1_000], steady_ms: 200, step_ms: 50 }
    }
}

/// One figure: its name in JSON, its words in tables, its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    pub name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
}

const fn figure(name: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure { name, title, unit }
}

pub const LOSS_FREE: Figure = figure("loss-free", "highest loss-free rate", "frames/s");
pub const OVER_OPENED: Figure = figure("over-opened", "opened when more are sent than can be", "frames/s");
pub const OVER_SENT: Figure = figure("over-sent", "… what the sender sent", "frames/s");
pub const OVER_LOST_CABLE: Figure = figure("over-lost-cable", "… lost before the program", "%");
pub const OVER_LOST_BEHIND: Figure = figure("over-lost-behind", "… lost behind the program", "%");
pub const OVER_CPU: Figure = figure("over-cpu", "… receiving CPU for each opened frame", "us/frame");
pub const LATENCY_P50: Figure = figure("latency-p50", "latency, median", "us");
pub const LATENCY_P99: Figure = figure("latency-p99", "latency, p99", "us");
pub const CPU: Figure = figure("cpu", "receiving CPU", "us/frame");
pub const CPU_THREAD: Figure = figure("cpu-thread", "… of it the reading thread", "us/frame");
pub const CPU_SOFTIRQ: Figure = figure("cpu-softirq", "… of it driver, program and stack", "us/frame");
pub const CPU_SENDER: Figure = figure("cpu-sender", "CPU of the sender", "us/frame");
pub const SLEEPS: Figure = figure("sleeps", "wake-ups of the reading thread", "1/s");
pub const OPENING: Figure = figure("opening", "opening alone", "us/frame");

/// All, in the order of the tables.
pub const FIGURES: [Figure; 14] = [
    LOSS_FREE,
    OVER_OPENED,
    OVER_SENT,
    OVER_LOST_CABLE,
    OVER_LOST_BEHIND,
    OVER_CPU,
    LATENCY_P50,
    LATENCY_P99,
    CPU,
    CPU_THREAD,
    CPU_SOFTIRQ,
    SLEEPS,
    CPU_SENDER,
    OPENING,
];

/// The name of a figure at a size of payload; [`Line::at`] is the rate.
pub fn measure(figure: Figure, size: u16) -> String {
    format!("{}-{size}", figure.name)
}

/// For a terminal.
pub fn table(lines: &[Line]) -> String {
    let rows = rows(lines);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text + &conditions(lines) + &failures(lines)
}

/// For a document.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = String::new();
    for (number, row) in rows(lines).iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    text + &conditions(lines) + &failures(lines)
}

/// Head and rows: the figure, the payload's bytes, the rate, the unit, then the ways. Without lines no row.
fn rows(lines: &[Line]) -> Vec<Vec<String>> {
    let mut sizes: Vec<u16> = lines.iter().filter_map(|line| line.measure.rsplit_once('-')?.1.parse().ok()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let tools = tools(lines);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (size, figure) in sizes.into_iter().flat_map(|size| FIGURES.map(|figure| (size, figure))) {
        let name = measure(figure, size);
        let mut rates: Vec<u64> = lines.iter().filter(|line| line.measure == name).map(|line| line.at).collect();
        rates.sort_unstable();
        rates.dedup();
        for rate in rates {
            let at = if rate == 0 { String::new() } else { rate.to_string() };
            let mut row = vec![figure.title.to_owned(), size.to_string(), at, figure.unit.to_owned()];
            row.extend(tools.iter().map(|tool| cell(lines, tool, &name, rate)));
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        let head = ["figure", "bytes", "frames/s", "unit"].map(str::to_owned).into_iter().chain(tools);
        rows.insert(0, head.collect());
    }
    rows
}

/// Those of the lines, in the order of the tables.
fn tools(lines: &[Line]) -> Vec<String> {
    let all = [Mode::Native, Mode::Generic].into_iter().flat_map(|mode| Way::ALL.map(|way| mode.tool(way)));
    all.filter(|tool| lines.iter().any(|line| line.tool == *tool)).collect()
}

/// The median of the rounds, with the least and the most of them.
fn cell(lines: &[Line], tool: &str, measure: &str, at: u64) -> String {
    let line = lines.iter().find(|line| line.tool == tool && line.measure == measure && line.at == at);
    let Some((line, value)) = line.and_then(|line| Some((line, line.value?))) else { return "-".to_owned() };
    let least = line.values.iter().copied().fold(value, f64::min);
    let most = line.values.iter().copied().fold(value, f64::max);
    if short(least) == short(most) {
        short(value)
    } else {
        format!("{} ({}–{})", short(value), short(least), short(most))
    }
}

fn conditions(lines: &[Line]) -> String {
    let Some(with) = lines.iter().map(|line| &line.with).max_by_key(|with| &with.date) else { return String::new() };
    let loads = Summary::of(lines.iter().filter_map(|line| line.load));
    let rounds = lines.iter().map(|line| line.values.len()).max().unwrap_or(0);
    let load = loads.map_or_else(|| "unknown".to_owned(), |loads| short(loads.median));
    format!(
        "\nMeasured until {}: Linux {}, {} processors, rounds: {rounds}, load average: {load}; the median of the rounds, in \
         brackets the least and the most.\n",
        with.date, with.kernel, with.cpus
    )
}

/// What could not be measured, each reason's first line.
fn failures(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        for reason in &line.failed {
            let reason = reason.lines().next().unwrap_or_default();
            let _ = write!(text, "\n- {} {} {}: not measured: {reason}", line.tool, line.measure, line.at);
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sync::report::Conditions;

    fn line(way: Way, figure: Figure, size: u16, at: u64, values: &[f64]) -> Line {
        Line {
            tool: Mode::Native.tool(way),
            measure: measure(figure, size),
            at,
            value: Summary::of(values.iter().copied()).map(|summary| summary.median),
            unit: figure.unit.to_owned(),
            values: values.to_vec(),
            failed: Vec::new(),
            load: Some(1.5),
            with: Conditions {
                kernel: "6.1".to_owned(),
                cpus: 2,
                table: [0, 0],
                seconds: 1,
                twinwall: None,
                conntrackd: None,
                date: "2026-11-27T00:00:00Z".to_owned(),
            },
        }
    }

    /// The names are the same in options, on the screen and in JSON, and another name is refused with those that exist.
    #[test]
    fn names_read_back() {
        for way in Way::ALL {
            assert_eq!(way.name().parse(), Ok(way));
            assert_eq!(serde_json::to_string(&way).unwrap(), format!("\"{way}\""));
        }
        assert!("pigeon".parse::<Way>().unwrap_err().contains("ring-buffer"));
        assert_eq!("generic".parse(), Ok(Mode::Generic));
        assert!("offload".parse::<Mode>().unwrap_err().contains("native"));
    }

    /// Every figure has a row for each size and rate in the order of the tables, a way without a figure has a dash, rounds
    /// that differ are shown with their extremes, and what failed is told.
    #[test]
    fn figures_stand_in_their_rows() {
        let mut lines = vec![
            line(Way::AfXdp, CPU, 1200, 20_000, &[3.0, 1.0, 2.0]),
            line(Way::Socket, CPU, 1200, 20_000, &[4.0]),
            line(Way::Socket, LOSS_FREE, 200, 0, &[100_000.0]),
        ];
        lines.push(Line { tool: Mode::Generic.tool(Way::Socket), ..line(Way::Socket, CPU, 200, 20_000, &[5.0]) });
        lines.push(Line { failed: vec!["no AF_XDP\nlog".to_owned()], ..line(Way::AfXdp, LOSS_FREE, 200, 0, &[]) });
        let text = markdown(&lines);
        assert!(text.contains("| receiving CPU | 1200 | 20000 | us/frame | 4 | 2 (1–3) | - |"), "{text}");
        let place = |needle: &str| text.find(needle).unwrap();
        assert!(place("| highest loss-free rate | 200 |  | frames/s | 100000 | - | - |") < place("| receiving CPU"));
        assert!(text.contains("af-xdp loss-free-200 0: not measured: no AF_XDP\n"), "{text}");
        assert!(text.contains("| receiving CPU | 200 | 20000 | us/frame | - | - | 5 |"), "{text}");
        assert!(
            text.starts_with("| figure | bytes | frames/s | unit | socket | af-xdp | socket (generic) |\n"),
            "{text}"
        );
        assert!(table(&lines).contains("2 (1–3)"));
        assert!(rows(&[]).is_empty());
    }
}
