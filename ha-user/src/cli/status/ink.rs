//! How the page is drawn: colours, tables, figures with their units.

use std::collections::BTreeMap;

pub const BOLD: &str = "1";
pub const GREEN: &str = "1;32";
pub const YELLOW: &str = "33";
pub const RED: &str = "1;31";

/// Colours, or none where it is no terminal.
pub struct Ink {
    pub colour: bool,
}

impl Ink {
    /// `code`: of SGR, such as [`BOLD`].
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Of a section, after an empty line.
    pub fn title(&self, text: &str) -> String {
        format!("\n{}\n", self.paint(BOLD, text))
    }
}

/// `name count, name count` of what has been counted at all.
pub fn nonzero(counts: &BTreeMap<String, u64>) -> Option<String> {
    let shown: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if shown.is_empty() { None } else { Some(shown.join(", ")) }
}

/// Columns as wide as their widest cell, two spaces apart; the last one runs free.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = " ".to_owned();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            line += &format!(" {cell:width$} ", width = width.unwrap_or(0));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Two units at most: `2 h 13 min`, `4.2 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        86_400.. => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// `0.8 ms`, `1.2 s`.
pub fn milliseconds(value: f64) -> String {
    if value < 1000.0 { format!("{value:.1} ms") } else { format!("{:.1} s", value / 1000.0) }
}

/// `once`, `4 times`.
pub fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// `1 flow`, `402 flows`.
pub fn flows(count: u64) -> String {
    if count == 1 { "1 flow".to_owned() } else { format!("{count} flows") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of something is told of in the singular.
    #[test]
    fn numbers_are_words_people_use() {
        assert_eq!([0, 1, 2].map(times), ["0 times", "once", "2 times"]);
        assert_eq!([0, 1, 2].map(flows), ["0 flows", "1 flow", "2 flows"]);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let told = [-1.0, 4.24, 61.0, 8000.0, 90_000.0].map(duration);
        assert_eq!(told, ["0.0 s", "4.2 s", "1 min 1 s", "2 h 13 min", "1 d 1 h"]);
        assert_eq!([0.81, 999.9, 1200.0].map(milliseconds), ["0.8 ms", "999.9 ms", "1.2 s"]);
    }
}
