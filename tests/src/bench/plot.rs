//! The bench's picture: a row for each tool and scenario, a dot for each run, a bar at the median, on a logarithmic axis.

use super::report::Line;
use super::tool::ToolName;
use std::fmt::Write;

/// The axis, milliseconds: what is shorter or longer is drawn at its ends.
const FIRST: f64 = 0.5;
const LAST: f64 = 20_000.0;
const TICKS: [(f64, &str); 5] = [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s")];
const LEFT: f64 = 250.0;
const WIDTH: f64 = 560.0;
/// Right of the axis: the median in figures.
const RIGHT: f64 = 110.0;
const ROW: f64 = 20.0;
const TITLE: f64 = 26.0;
const TOP: f64 = 34.0;

/// An SVG document that reads on a light page and on a dark one.
pub fn svg(lines: &[Line]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    let mut group = None;
    for line in lines {
        let this = (line.preload, line.vips, line.scenario);
        if group.replace(this) != Some(this) {
            y += TITLE;
            let condition = line.condition();
            let comma = if condition.is_empty() { "" } else { ", " };
            let _ = writeln!(body, r#"<text x="12" y="{y}" class="title">{}{comma}{condition}</text>"#, line.scenario);
            y += 6.0;
        }
        y += ROW;
        row(&mut body, line, y);
    }
    let (width, height) = (LEFT + WIDTH + RIGHT, y + 40.0);
    let mut text = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">
<style>.title {{ font-weight: bold; font-size: 13px }} .grid {{ stroke: #ddd }} .end {{ text-anchor: end }} .mid {{ text-anchor: middle }}</style>
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="12" y="22" class="title">The client's longest silence: a dot is a run, the bar is the median (logarithmic)</text>
"##
    );
    for (value, label) in TICKS {
        let x = place(value);
        let _ = writeln!(text, r#"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{:.1}" class="grid"/>"#, y + 10.0);
        let _ = writeln!(text, r#"<text x="{x:.1}" y="{:.1}" class="mid">{label}</text>"#, y + 26.0);
    }
    text + &body + "</svg>\n"
}

fn row(body: &mut String, line: &Line, y: f64) {
    let colour = colour(line.tool);
    let failed = if line.failed.is_empty() {
        String::new()
    } else {
        format!(" ({} of {} failed)", line.failed.len(), line.runs)
    };
    let _ = writeln!(body, r#"<text x="{}" y="{:.1}" class="end">{}{failed}</text>"#, LEFT - 12.0, y + 4.0, line.tool);
    for (run, outage) in line.outages_ms.iter().enumerate() {
        // Dots of equal runs lie beside each other: up to 3 above or below, by their number.
        let offset = [0.0, -3.0, 3.0, -1.5, 1.5][run % 5];
        let _ = writeln!(
            body,
            r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}" fill-opacity="0.55"/>"#,
            place(*outage),
            y + offset
        );
    }
    let Some(outage) = line.outage_ms else { return };
    let x = place(outage.median);
    let _ = writeln!(
        body,
        r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="{colour}" stroke-width="3"/>"#,
        y - 8.0,
        y + 8.0
    );
    let _ = writeln!(body, r#"<text x="{}" y="{:.1}">{}</text>"#, LEFT + WIDTH + 12.0, y + 4.0, told(outage.median));
}

/// Where a value lies on the axis.
fn place(milliseconds: f64) -> f64 {
    let share = (milliseconds.clamp(FIRST, LAST) / FIRST).ln() / (LAST / FIRST).ln();
    LEFT + share * WIDTH
}

fn told(milliseconds: f64) -> String {
    if milliseconds >= 1000.0 { format!("{:.1} s", milliseconds / 1e3) } else { format!("{milliseconds:.1} ms") }
}

const fn colour(tool: ToolName) -> &'static str {
    match tool {
        ToolName::Twinwall => "#0a7d3c",
        ToolName::Keepalived10ms => "#1f5fbf",
        ToolName::Keepalived1s => "#7aa7e0",
        ToolName::Ucarp => "#c4541a",
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Scenario;
    use super::*;

    fn line(tool: ToolName, outages: &str) -> Line {
        let text = format!(
            r#"{{"tool":"{tool}","scenario":"crash","runs":3,"outage_ms":{{"median":46.0,"p99":60.0,"max":60.0}},"lost":null,
            "survived":0,"sessions":0,"casualties":{{}},"failed":[],"baseline_gap_ms":null,"sender_gap_ms":null,"outages_ms":[{outages}],
            "load":null,"date":"","preload":0,"vips":2}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Every run is a dot within the axis, every row has one median bar, and rows of one scenario share its title.
    #[test]
    fn every_run_is_drawn() {
        let picture = svg(&[line(ToolName::Twinwall, "0.1,5,9"), line(ToolName::Ucarp, "2900,3100,99999")]);
        assert_eq!(picture.matches("<circle").count(), 6);
        assert_eq!(picture.matches("stroke-width=\"3\"").count(), 2);
        assert_eq!(picture.matches(&format!(">{}<", Scenario::Crash)).count(), 1);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        assert!(picture.contains(r#"cx="250.0""#) && picture.contains(r#"cx="810.0""#), "{picture}");
    }

    /// The axis is logarithmic: equal factors are equal distances.
    #[test]
    fn equal_factors_are_equal_distances() {
        let step = place(10.0) - place(1.0);
        assert!((place(1000.0) - place(100.0) - step).abs() < 1e-6);
        assert!(place(0.0) >= LEFT && place(1e9) <= LEFT + WIDTH);
    }
}
