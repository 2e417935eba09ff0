//! What libFuzzer said of its runs, as figures.

use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What runs of one target came to.
#[derive(Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub target: String,
    /// Time of a processor, for the inputs kept before as well.
    pub processor: Duration,
    pub executions: u64,
    /// Edges of the control flow that any input has reached, of all in the program (with what no target can reach).
    pub edges: u64,
    pub edges_of: u64,
    /// Edges by how often they are taken, and values compared (libFuzzer's features).
    pub features: u64,
    /// Inputs that reached something new.
    pub new_inputs: u64,
    /// Inputs in tests/fuzz/corpus now, if they were renewed.
    pub kept: Option<usize>,
    /// Files with the inputs that broke it.
    pub findings: Vec<PathBuf>,
}

impl Outcome {
    /// Before the first run.
    pub fn none(target: &str) -> Self {
        Self::read(target, "", Duration::ZERO, Vec::new())
    }

    /// Reads what a run with `-print_final_stats=1` writes.
    pub fn read(target: &str, text: &str, processor: Duration, findings: Vec<PathBuf>) -> Self {
        let last = |key: &str| {
            let after = text.rsplit_once(key).map(|(_, rest)| rest.trim_start());
            let digits = after.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
            digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        Self {
            target: target.to_owned(),
            processor,
            executions: last("stat::number_of_executed_units:"),
            edges: last(" cov:"),
            edges_of: last("INFO: Loaded 1 modules   ("),
            features: last(" ft:"),
            new_inputs: last("stat::new_units_added:"),
            kept: None,
            findings,
        }
    }

    /// Takes in the next run, which began with what the ones before it had found.
    pub fn add(&mut self, next: Self) {
        self.processor += next.processor;
        self.executions += next.executions;
        self.edges = self.edges.max(next.edges);
        self.edges_of = self.edges_of.max(next.edges_of);
        self.features = self.features.max(next.features);
        self.new_inputs += next.new_inputs;
        self.findings.extend(next.findings);
    }

    fn executions_per_second(&self) -> f64 {
        self.executions as f64 / self.processor.as_secs_f64().max(1e-3)
    }
}

/// The end of a long text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Prints a table, or JSON.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn sum_up(outcomes: &[Outcome], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(outcomes)?);
        return Ok(());
    }
    println!(
        "{:<10} {:>6} {:>12} {:>8} {:>7} {:>8} {:>6} {:>6}  findings",
        "target", "CPU s", "executions", "per s", "edges", "features", "new", "kept"
    );
    for one in outcomes {
        let kept = one.kept.map_or("-".to_owned(), |kept| kept.to_string());
        println!(
            "{:<10} {:>6.0} {:>12} {:>8.0} {:>7} {:>8} {:>6} {kept:>6}  {}",
            one.target,
            one.processor.as_secs_f64(),
            one.executions,
            one.executions_per_second(),
            one.edges,
            one.features,
            one.new_inputs,
            one.findings.len()
        );
        for path in &one.findings {
            println!("           {}", path.display());
        }
    }
    let total: u64 = outcomes.iter().map(|one| one.executions).sum();
    println!("{total} executions in all");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of a real run's end are read, and a run that wrote nothing has none.
    #[test]
    fn figures_are_read() {
        let text = "INFO: Loaded 1 modules   (57137 inline 8-bit counters): 57137 [0x5, 0x6), \n\
                    #2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 44Mb\n\
                    #99\tNEW    cov: 254 ft: 812 corp: 60/3042b lim: 86 exec/s: 5125 rss: 48Mb L: 70/86 MS: 1\n\
                    Done 61510 runs in 11 second(s)\n\
                    stat::number_of_executed_units: 61510\n\
                    stat::average_exec_per_sec:     5591\n\
                    stat::new_units_added:          60\n";
        let mut outcome = Outcome::read("packet", text, Duration::from_secs(10), Vec::new());
        let expected = Outcome {
            target: "packet".to_owned(),
            processor: Duration::from_secs(10),
            executions: 61510,
            edges: 254,
            edges_of: 57137,
            features: 812,
            new_inputs: 60,
            kept: None,
            findings: Vec::new(),
        };
        assert_eq!(outcome, expected);
        assert_eq!(Outcome::none("packet").executions, 0);
        let text = text.replace("ft: 812", "ft: 813");
        outcome.add(Outcome::read("packet", &text, Duration::from_secs(5), Vec::new()));
        assert_eq!((outcome.executions, outcome.new_inputs, outcome.features, outcome.edges), (123_020, 120, 813, 254));
        assert!((outcome.executions_per_second() - 123_020.0 / 15.0).abs() < 1.0);
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
    }
}
