//! `[hooks]`: programs that are told of a change of role.

use super::error::{FoundList, Problems};
use super::reader::Section;
use super::track::fixed;
use super::values::{path, text};
use std::path::PathBuf;
use std::time::Duration;

/// Programs by occasion, run in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// When this node has become master: `INTERFACE VIP [XPARAM]`, once for each vip.
    pub up: Vec<PathBuf>,
    /// When it is no longer master, and at start: likewise.
    pub down: Vec<PathBuf>,
    /// At each change: `GROUP CLUSTER STATE PRIORITY`.
    pub any: Vec<PathBuf>,
    /// For one run of one program.
    pub timeout: Duration,
    /// ucarp's --xparam.
    pub xparam: Option<String>,
}

const TIMEOUT: Duration = Duration::from_secs(10);
const PROGRAMS_MAX: usize = 8;

impl Default for Hooks {
    fn default() -> Self {
        Self { up: Vec::new(), down: Vec::new(), any: Vec::new(), timeout: TIMEOUT, xparam: None }
    }
}

/// Reads `[hooks]`; what is wrong is reported and left out.
pub fn read(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Hooks {
    let Some(mut section) = root.table(problems, "hooks") else { return Hooks::default() };
    let [up, down, any] = ["up", "down", "any"].map(|key| programs(section.list(problems, key, path), problems));
    let timeout = section.optional(problems, "timeout", fixed(Duration::from_millis(100)..=Duration::from_secs(600)));
    let xparam = section.optional(problems, "xparam", text(1024));
    section.finish(problems);
    let timeout = timeout.map_or(TIMEOUT, |found| found.value);
    Hooks { up, down, any, timeout, xparam: xparam.map(|found| found.value) }
}

fn programs(list: Option<FoundList<PathBuf>>, problems: &mut Problems<'_>) -> Vec<PathBuf> {
    let Some(list) = list else { return Vec::new() };
    if list.value.len() > PROGRAMS_MAX {
        let message = format!("{} programs are named", list.value.len());
        problems.error(&list.at, message, format!("name at most {PROGRAMS_MAX}, or one that calls the others"));
    }
    list.value.into_iter().map(|found| found.value).collect()
}
