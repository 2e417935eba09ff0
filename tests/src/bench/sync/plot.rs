//! The bench's picture: processor time for each flow and the time of a full table, a bar for each tool.

use super::report::{Line, tools};
use super::tool::ToolName;
use std::fmt::Write;

/// The figures that are drawn, with their titles.
const DRAWN: [(&str, &str); 4] = [
    ("cpu-fw1", "CPU on the master, µs for each new flow"),
    ("cpu-fw2", "CPU on the standby, µs for each new flow"),
    ("bulk-start", "A fresh standby's kernel complete, seconds since its start"),
    ("rss-fw2", "Memory on the standby, MiB"),
];
const LEFT: f64 = 250.0;
const WIDTH: f64 = 480.0;
/// Right of the bars: the figure.
const RIGHT: f64 = 190.0;
const ROW: f64 = 20.0;
const TITLE: f64 = 30.0;

/// An SVG document that reads on a light page and on a dark one. Bars of one title share a scale.
pub fn svg(lines: &[Line]) -> String {
    let tools = tools(lines);
    let (mut body, mut y) = (String::new(), 10.0);
    for (measure, title) in DRAWN {
        let of_measure: Vec<&Line> =
            lines.iter().filter(|line| line.measure == measure && tools.contains(&line.tool.as_str())).collect();
        let longest = of_measure.iter().filter_map(|line| line.value).fold(0.0, f64::max);
        let mut places: Vec<u64> = of_measure.iter().map(|line| line.at).collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() || longest <= 0.0 {
            continue;
        }
        y += TITLE;
        let _ = writeln!(body, r#"<text x="12" y="{y}" class="title">{title}</text>"#);
        for at in places {
            for tool in &tools {
                y += ROW;
                let line = of_measure.iter().find(|line| line.at == at && line.tool == *tool);
                bar(&mut body, tool, at, line.and_then(|line| line.value), longest, y);
            }
            y += 6.0;
        }
    }
    let (width, height) = (LEFT + WIDTH + RIGHT, y + 20.0);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">
<style>.title {{ font-weight: bold; font-size: 13px }} .end {{ text-anchor: end }}</style>
<rect width="{width}" height="{height}" fill="#fff"/>
{body}</svg>
"##
    )
}

fn bar(body: &mut String, tool: &str, at: u64, value: Option<f64>, longest: f64, y: f64) {
    let _ = writeln!(body, r#"<text x="{}" y="{:.1}" class="end">{tool}, {at}</text>"#, LEFT - 10.0, y);
    let Some(value) = value else {
        let _ = writeln!(body, r##"<text x="{LEFT}" y="{y:.1}" fill="#a00">never complete, or not measured</text>"##);
        return;
    };
    let length = (value / longest).clamp(0.0, 1.0) * WIDTH;
    let _ = writeln!(
        body,
        r#"<rect x="{LEFT}" y="{:.1}" width="{length:.1}" height="14" fill="{}"/>"#,
        y - 11.0,
        colour(tool)
    );
    let _ = writeln!(body, r#"<text x="{:.1}" y="{y:.1}">{}</text>"#, LEFT + length + 8.0, super::report::short(value));
}

fn colour(tool: &str) -> &'static str {
    match tool.parse() {
        Ok(ToolName::Twinwall) => "#0a7d3c",
        Ok(ToolName::Ftfw) => "#7aa7e0",
        Ok(ToolName::FtfwDirect) => "#1f5fbf",
        Ok(ToolName::NotrackDirect) => "#c4541a",
        Err(_) => "#888",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tool: ToolName, measure: &str, value: &str) -> Line {
        let text = format!(
            r#"{{"tool":"{tool}","measure":"{measure}","at":1000,"value":{value},"unit":"s","values":[],"failed":[],"load":null,
            "with":{{"kernel":"","cpus":2,"table":[1,1],"seconds":5,"twinwall":null,"conntrackd":null,"date":""}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Each tool has a bar under each title, the longest fills the width, and a tool without a figure has words instead.
    #[test]
    fn every_tool_has_a_bar() {
        let picture = svg(&[
            line(ToolName::Twinwall, "bulk-start", "2.5"),
            line(ToolName::Ftfw, "bulk-start", "10"),
            line(ToolName::NotrackDirect, "bulk-start", "null"),
        ]);
        assert_eq!(picture.matches("height=\"14\"").count(), 2);
        assert!(picture.contains("width=\"480.0\"") && picture.contains("width=\"120.0\""), "{picture}");
        assert_eq!(picture.matches("never complete").count(), 1);
        assert!(!picture.contains("CPU on the master"), "{picture}");
    }
}
