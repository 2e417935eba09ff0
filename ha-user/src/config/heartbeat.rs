//! `[heartbeat]`: how a pair sees each other's death within milliseconds.

use super::error::{Found, FoundList, Problems};
use super::reader::Section;
use super::resolve::value_or;
use super::values::{boolean, fixed, integer, interface};
use super::{schema, spelling};
use std::collections::BTreeMap;
use std::time::Duration;

/// Heartbeats, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Never so in a cluster of other than two nodes: the rules of heartbeats are those of a pair.
    pub enabled: bool,
    /// Between two probes of one path.
    pub interval: Duration,
    /// Silence of so many intervals is death at the least.
    pub multiplier: u8,
    /// The silence that is death adapts to the gaps seen lately, up to this.
    pub dead_after_max: Duration,
    /// Names of the interfaces that probes go out of, each once, the sync link first unless the file says otherwise;
    /// each is the sync link or carries virtual addresses.
    pub paths: Vec<String>,
}

const INTERVAL: Duration = Duration::from_millis(1);
/// The election acts on words that were asked for 20 ms ago at the most.
const INTERVAL_MAX: Duration = Duration::from_millis(10);
const MULTIPLIER: u8 = 5;
const DEAD_AFTER_MAX: Duration = Duration::from_millis(200);
/// As many paths as a prober keeps.
const PATHS_MAX: usize = 16;
/// The silence of one path alone may be that of a cable.
const PATHS_USEFUL: usize = 2;
/// How many nodes heartbeats are for.
const PAIR: usize = 2;

impl Default for Heartbeat {
    /// What a pair's file that says nothing means, without the paths.
    fn default() -> Self {
        Self {
            enabled: true,
            interval: INTERVAL,
            multiplier: MULTIPLIER,
            dead_after_max: DEAD_AFTER_MAX,
            paths: Vec::new(),
        }
    }
}

/// What the file says.
#[derive(Default)]
pub struct Keys {
    enabled: Option<Found<bool>>,
    interval: Option<Found<Duration>>,
    multiplier: Option<Found<u8>>,
    dead_after_max: Option<Found<Duration>>,
    paths: Option<FoundList<String>>,
}

/// Reads the table.
pub fn read(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Keys {
    let Some(mut section) = root.table(problems, "heartbeat") else { return Keys::default() };
    let ms = Duration::from_millis;
    let keys = Keys {
        enabled: section.optional(problems, "enabled", boolean),
        interval: section.optional(problems, "interval", fixed(ms(1)..=INTERVAL_MAX)),
        multiplier: section.optional(problems, "multiplier", integer(3..=100)),
        dead_after_max: section.optional(problems, "dead_after_max", fixed(ms(3)..=ms(100_000))),
        paths: section.list(problems, "paths", interface),
    };
    section.finish(problems);
    keys
}

/// Completes the table; `interfaces` carry the virtual addresses.
pub fn resolve(file: &schema::File, interfaces: &[String], problems: &mut Problems<'_>) -> Heartbeat {
    let keys = &file.heartbeat;
    let interval = value_or(keys.interval.as_ref(), INTERVAL);
    let multiplier = value_or(keys.multiplier.as_ref(), MULTIPLIER);
    let dead_after_min = interval.saturating_mul(multiplier.into());
    let dead_after_max = value_or(keys.dead_after_max.as_ref(), DEAD_AFTER_MAX.max(dead_after_min));
    if let Some(found) = keys.dead_after_max.as_ref().filter(|found| found.value < dead_after_min) {
        let message = format!("{dead_after_max:?} is less than interval × multiplier ({dead_after_min:?})");
        problems.error(&found.at, message, "raise it, or lower interval or multiplier");
    }
    let sync = file.sync.as_ref().and_then(|sync| sync.interface.as_ref()).map(|found| found.value.as_str());
    let possible: Vec<&str> = sync.into_iter().chain(interfaces.iter().map(String::as_str)).collect();
    let paths = resolve_paths(keys.paths.as_ref(), &possible, problems);
    let is_pair = file.nodes.as_ref().is_none_or(|nodes| nodes.len() == PAIR);
    if let Some(found) = keys.enabled.as_ref().filter(|found| found.value && !is_pair) {
        problems.warning(
            &found.at,
            "heartbeats are for a pair, and other than two nodes are described",
            "remove the key: the timers of CARP hold in this cluster",
        );
    }
    let enabled = is_pair && value_or(keys.enabled.as_ref(), true);
    Heartbeat { enabled, interval, multiplier, dead_after_max, paths }
}

fn resolve_paths(chosen: Option<&FoundList<String>>, possible: &[&str], problems: &mut Problems<'_>) -> Vec<String> {
    let mut paths = Vec::new();
    let Some(chosen) = chosen else {
        for name in possible {
            if !paths.iter().any(|known| known == name) {
                paths.push((*name).to_owned());
            }
        }
        paths.truncate(PATHS_MAX);
        return paths;
    };
    let mut seen = BTreeMap::new();
    for path in &chosen.value {
        let name = path.value.as_str();
        let remedy = "name each interface once";
        super::resolve::refuse_repeated(&mut seen, name, &path.at, name, remedy, problems);
        if !possible.contains(&name) {
            let known = || format!("choose from {}", possible.join(", "));
            let remedy = spelling::did_you_mean(name, possible.iter().copied()).unwrap_or_else(known);
            problems.error(&path.at, format!("{name} is neither the sync link nor has it virtual addresses"), remedy);
        }
        paths.push(name.to_owned());
    }
    if paths.len() > PATHS_MAX {
        problems.error(&chosen.at, format!("has {} paths", paths.len()), format!("name at most {PATHS_MAX}"));
    }
    if paths.len() < PATHS_USEFUL {
        problems.warning(
            &chosen.at,
            "a single path cannot tell a dead peer from a pulled cable: the timers of CARP decide",
            "name two paths at least, or remove the key for all",
        );
    }
    paths
}
