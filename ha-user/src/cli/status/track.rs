//! The parts of the page about demotions and hooks.

use super::ink::{Ink, YELLOW, duration, nonzero, table};
use crate::status::{DemotionStatus, HookStatus};

/// What makes this node the worse one; nothing when nothing does.
pub fn demotions(demotions: &[DemotionStatus], ink: &Ink) -> String {
    if demotions.is_empty() {
        return String::new();
    }
    let mut rows = vec![["cause", "weight", "for", "what was seen"].map(str::to_owned)];
    for demotion in demotions {
        let weight = demotion.weight.to_string();
        rows.push([demotion.cause.clone(), weight, duration(demotion.seconds), demotion.detail.clone()]);
    }
    let total: u32 = demotions.iter().map(|demotion| u32::from(demotion.weight)).sum();
    ink.title("Demoted") + &table(&rows) + &ink.paint(YELLOW, &format!("  by {total} in all\n"))
}

/// How the hooks did; nothing when none has run.
pub fn hooks(hooks: &HookStatus, ink: &Ink) -> String {
    if hooks.last.is_none() && hooks.running.is_none() {
        return String::new();
    }
    let mut text = ink.title("Hooks");
    for (hook, results) in &hooks.runs {
        text += &nonzero(results).map_or_else(String::new, |counts| format!("  {hook}: {counts}\n"));
    }
    if let Some(last) = &hooks.last {
        let ago = duration(last.seconds_ago);
        let line = format!("  last, {ago} ago: {} {}: {}\n", last.command, last.result, last.detail);
        text += &if last.result == "ok" { line } else { ink.paint(YELLOW, &line) };
    }
    if let Some(running) = &hooks.running {
        text += &format!("  now: {running}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::page::render;
    use super::super::page::tests::status;
    use super::*;
    use crate::status::HookRunStatus;
    use std::collections::BTreeMap;

    /// What demotes the node and how its hooks did is shown when there is something, and only then.
    #[test]
    fn demotions_and_hooks_are_visible() {
        let mut status = status();
        assert!(!render(&status, false).contains("Demoted") && !render(&status, false).contains("Hooks"));
        let demotion = |cause: &str, weight, detail: &str| DemotionStatus {
            cause: cause.to_owned(),
            weight,
            seconds: 75.0,
            detail: detail.to_owned(),
        };
        status.election.demotions =
            vec![demotion("path:10.0.0.1", 30, "no answer within 500ms"), demotion("script:bgp", 50, "exit code 1")];
        status.election.interfaces[0].up = false;
        status.election.interfaces[0].up_in_seconds = Some(0.4);
        let ran = BTreeMap::from([("ok".to_owned(), 4), ("failed".to_owned(), 0), ("timed_out".to_owned(), 1)]);
        status.hooks.runs = BTreeMap::from([("up".to_owned(), ran)]);
        status.hooks.last = Some(HookRunStatus {
            hook: "up".to_owned(),
            command: "/etc/twinwall/up eth0 10.0.0.9".to_owned(),
            result: "timed_out".to_owned(),
            detail: "did not end within 10s and was killed".to_owned(),
            seconds_ago: 3.0,
        });
        let page = render(&status, false);
        for line in [
            "  path:10.0.0.1  30      1 min 15 s  no answer within 500ms\n",
            "  script:bgp     50      1 min 15 s  exit code 1\n  by 80 in all\n",
            "DOWN, up in 0.4 s",
            "  up: ok 4, timed_out 1\n",
            "  last, 3.0 s ago: /etc/twinwall/up eth0 10.0.0.9 timed_out: did not end within 10s and was killed\n",
        ] {
            assert!(page.contains(line), "{line}{page}");
        }
    }
}
