//! The benches of whole pairs work: one short run of each, as a program reads it.

use ha_tests::bench::scenario::Scenario;
use ha_tests::bench::sync::measure::Measure;
use ha_tests::bench::sync::{self, metric};
use ha_tests::bench::tool::ToolName;
use ha_tests::bench::{self, Options, plot, report};
use serde_json::Value;
use std::sync::atomic::AtomicBool;

/// One pulled LAN cable: the object has every field that is promised with figures that can be true (the outage is at least
/// the probe's interval and at most what plain CARP timers need), the sessions live, and all of it can be drawn.
#[test]
fn netns_bench_measures_a_failover() {
    let options = Options {
        tools: vec![ToolName::Twinwall],
        scenarios: vec![Scenario::LanLink],
        runs: 1,
        preload: 1000,
        vips: 10,
        logs: None,
    };
    let lines = bench::run(&options, &AtomicBool::new(false)).unwrap();
    let line: Value = serde_json::from_str(&lines[0].json().unwrap()).unwrap();
    assert_eq!(line["failed"], Value::Array(Vec::new()), "{line}");
    for (field, expected) in
        [("tool", "twinwall".into()), ("scenario", "lan-link".into()), ("runs", 1.into()), ("preload", 1000.into())]
    {
        let expected: Value = expected;
        assert_eq!(line[field], expected, "{field}");
    }
    for field in ["outage_ms", "lost", "baseline_gap_ms", "sender_gap_ms", "load"] {
        for figure in ["median", "p99", "max"] {
            assert!(line[field][figure].as_f64().is_some_and(|value| value >= 0.0), "{field}.{figure}: {line}");
        }
    }
    let outage = line["outage_ms"]["median"].as_f64().unwrap();
    assert!((0.4..6000.0).contains(&outage), "{line}");
    assert_eq!((line["survived"].as_u64(), line["sessions"].as_u64()), (Some(100), Some(100)), "{line}");
    assert!(line["date"].as_str().unwrap().ends_with('Z'), "{line}");
    assert_eq!(plot::svg(&lines).matches("<circle").count(), 1);
    assert!(report::markdown(&lines).contains("| lan-link (1000 flows, 10 addresses) | twinwall | 1/1 |"));
}

/// The quick state bench of twinwall, whole: every measure yields finite figures that can be true (nothing is lost at these
/// rates, each flow costs something on both sides and on the wire, a table of 5000 arrives, nothing stays after the flush),
/// and tables and picture hold them.
#[test]
fn netns_bench_measures_the_state() {
    let options = sync::Options::quick(vec![sync::tool::ToolName::Twinwall], Measure::ALL.to_vec());
    let lines = sync::run(&options, &AtomicBool::new(false)).unwrap();
    let failed: Vec<_> = lines.iter().filter(|line| !line.failed.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let value = |measure: &str| {
        let line = lines.iter().find(|line| line.measure == measure).unwrap_or_else(|| panic!("no {measure}"));
        let json: Value = serde_json::from_str(&line.json().unwrap()).unwrap();
        assert!(json["tool"].is_string() && json["unit"].is_string() && json["with"]["kernel"].is_string(), "{json}");
        json["value"].as_f64().filter(|value| value.is_finite()).unwrap_or_else(|| panic!("{json}"))
    };
    for metric in metric::SYNC {
        value(metric.name);
    }
    let all = |measure: &'static str| lines.iter().filter(move |line| line.measure == measure);
    for nothing in
        ["cpu-missing", "lag-missing", "bulk-missing", "bulk-unequal", "takeover-missing", "stale", "overload-missing"]
    {
        assert!(all(nothing).all(|line| line.value == Some(0.0)), "{nothing}: {:?}", all(nothing).collect::<Vec<_>>());
    }
    for something in
        ["generator", "rate", "cpu-fw1-raw", "cpu-fw2-raw", "wire-entry", "bulk-start", "rss-fw1", "rss-fw2"]
    {
        assert!(value(something) > 0.0, "{something}: {}", value(something));
    }
    assert!(value("lag-p50") > 0.0 && value("lag-p50") <= value("lag-p99"));
    let drawn = sync::plot::svg(&lines);
    assert!(drawn.contains("Memory on the standby") && drawn.matches("height=\"14\"").count() >= 3, "{drawn}");
    assert!(sync::report::markdown(&lines).contains("| highest loss-free rate |"));
}
