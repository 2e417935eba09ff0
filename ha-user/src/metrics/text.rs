//! The Prometheus text format 0.0.4.
//!
//! Not prometheus-client: our values are snapshots taken by the loops and not live counters, and that crate
//! writes OpenMetrics, whose counters `promtool check metrics` takes for undocumented.

use crate::status::HistogramStatus;
use std::fmt::Write;

/// What a number means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the daemon runs; its name ends in `_total`.
    Counter,
    Gauge,
    /// Counts by class, with sum and count.
    Histogram,
}

/// A page of metrics while it is written.
#[derive(Default)]
pub struct Page {
    text: String,
}

/// One metric: its samples follow.
pub struct Family<'p> {
    text: &'p mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Page {
    /// Begins a metric. Without samples nothing of it is written.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Family<'_> {
        Family { text: &mut self.text, name, kind, help, begun: false }
    }

    /// A metric of one sample without labels.
    pub fn single(&mut self, kind: Kind, name: &'static str, help: &'static str, value: impl Number) {
        self.family(kind, name, help).sample(&[], value);
    }

    pub fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Number) {
        self.begin();
        self.line("", labels, &[], value);
    }

    /// Adds the samples of a histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], times: &HistogramStatus) {
        self.begin();
        for (bound, count) in &times.buckets {
            self.line("_bucket", labels, &[("le", &bound.to_string())], *count);
        }
        self.line("_bucket", labels, &[("le", "+Inf")], times.count);
        self.line("_sum", labels, &[], times.sum_seconds);
        self.line("_count", labels, &[], times.count);
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {0} {1}\n# TYPE {0} {kind}\n", self.name, self.help);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], more: &[(&str, &str)], value: impl Number) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().chain(more).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() || !more.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        value.write(self.text);
        self.text.push('\n');
    }
}

/// A value that the format can carry.
pub trait Number {
    fn write(&self, text: &mut String);
}

impl Number for u64 {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "{self}");
    }
}

impl Number for f64 {
    fn write(&self, text: &mut String) {
        match *self {
            value if value.is_nan() => text.push_str("NaN"),
            f64::INFINITY => text.push_str("+Inf"),
            f64::NEG_INFINITY => text.push_str("-Inf"),
            value => {
                let _ = write!(text, "{value}");
            }
        }
    }
}

impl Number for bool {
    fn write(&self, text: &mut String) {
        text.push(if *self { '1' } else { '0' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Label values are escaped, families without samples stay away, special numbers have their names.
    #[test]
    fn format() {
        let mut page = Page::default();
        page.family(Kind::Gauge, "absent", "Never sampled.");
        let mut family = page.family(Kind::Counter, "x_total", "Things.");
        family.sample(&[("a", "q\"b\\n\nz"), ("b", "")], 3u64);
        family.sample(&[("a", "ü")], 4u64);
        page.single(Kind::Gauge, "y_seconds", "Time.", f64::INFINITY);
        page.single(Kind::Gauge, "z", "Truth.", true);
        let times = HistogramStatus { buckets: vec![(0.001, 1), (5.0, 2)], sum_seconds: 3.5, count: 4 };
        page.family(Kind::Histogram, "t_seconds", "Times.").histogram(&[("a", "b")], &times);
        page.family(Kind::Histogram, "u", "None.").histogram(&[], &HistogramStatus::default());
        let expected = "# HELP x_total Things.\n# TYPE x_total counter\nx_total{a=\"q\\\"b\\\\n\\nz\",b=\"\"} 3\n\
                        x_total{a=\"ü\"} 4\n# HELP y_seconds Time.\n# TYPE y_seconds gauge\ny_seconds +Inf\n\
                        # HELP z Truth.\n# TYPE z gauge\nz 1\n\
                        # HELP t_seconds Times.\n# TYPE t_seconds histogram\nt_seconds_bucket{a=\"b\",le=\"0.001\"} 1\n\
                        t_seconds_bucket{a=\"b\",le=\"5\"} 2\nt_seconds_bucket{a=\"b\",le=\"+Inf\"} 4\n\
                        t_seconds_sum{a=\"b\"} 3.5\nt_seconds_count{a=\"b\"} 4\n\
                        # HELP u None.\n# TYPE u histogram\nu_bucket{le=\"+Inf\"} 0\nu_sum 0\nu_count 0\n";
        assert_eq!(page.finish(), expected);
    }
}
