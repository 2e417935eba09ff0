//! The failover bench works: one short run of it, as a program reads it.

use ha_tests::bench::scenario::Scenario;
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
