//! Metrics of demotions and hooks.

use super::text::{Kind, Page};
use crate::status::{ControlStatus, HookStatus};

/// A configured cause that does not demote has the value 0: a change is one of value. What an operator sets has a series
/// of its own as long as it lasts.
pub fn write_demotions(page: &mut Page, status: &ControlStatus) {
    let mut weight = page.family(
        Kind::Gauge,
        "twinwall_demotion",
        "Weight of each cause that demotes this node; 0 while it does not.",
    );
    for cause in &status.tracked {
        if status.demotions.iter().all(|demotion| demotion.cause != *cause) {
            weight.sample(&[("cause", cause)], 0u64);
        }
    }
    for demotion in &status.demotions {
        weight.sample(&[("cause", &demotion.cause)], u64::from(demotion.weight));
    }
    let total: u64 = status.demotions.iter().map(|demotion| u64::from(demotion.weight)).sum();
    page.single(Kind::Gauge, "twinwall_demotion_total_weight", "What demotes this node, added up.", total);
}

pub fn write_hooks(page: &mut Page, status: &HookStatus) {
    let mut runs = page.family(Kind::Counter, "twinwall_hook_runs_total", "Runs of hooks, by hook and result.");
    for (hook, results) in &status.runs {
        for (result, count) in results {
            runs.sample(&[("hook", hook), ("result", result)], *count);
        }
    }
}
