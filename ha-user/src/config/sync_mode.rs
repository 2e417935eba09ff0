//! `[sync]` mode and its times, by conntrackd's names: RefreshTime, CacheTimeout, PurgeTimeout.

use super::error::{Found, Problems};
use super::reader::Section;
use super::resolve::value_or;
use super::values::{choice, fixed};
use ha_common::sync::Mode;
use std::time::Duration;

const REFRESH_TIME: Duration = Duration::from_secs(15);
const CACHE_TIMEOUT: Duration = Duration::from_secs(180);
const PURGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Mode and times, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncMode {
    pub mode: Mode,
    /// Within this time every flow is sent again, in ALARM.
    pub refresh_time: Duration,
    /// A flow of a living peer that was not named for so long is deleted, in ALARM; at least two refresh times.
    pub cache_timeout: Duration,
    /// To this the timeouts of flows are cut that nobody names any more.
    pub purge_timeout: Duration,
}

impl Default for SyncMode {
    fn default() -> Self {
        Self {
            mode: Mode::Ftfw,
            refresh_time: REFRESH_TIME,
            cache_timeout: CACHE_TIMEOUT,
            purge_timeout: PURGE_TIMEOUT,
        }
    }
}

/// What the file says.
#[derive(Default)]
pub struct Keys {
    mode: Option<Found<Mode>>,
    refresh_time: Option<Found<Duration>>,
    cache_timeout: Option<Found<Duration>>,
    purge_timeout: Option<Found<Duration>>,
}

/// Reads the keys of `[sync]` that are about the mode.
pub fn read(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Keys {
    let mode = choice(&[("ftfw", Mode::Ftfw), ("alarm", Mode::Alarm), ("notrack", Mode::Notrack)]);
    let seconds = Duration::from_secs;
    Keys {
        mode: section.optional(problems, "mode", mode),
        refresh_time: section.optional(problems, "refresh_time", fixed(seconds(1)..=seconds(3600))),
        cache_timeout: section.optional(problems, "cache_timeout", fixed(seconds(2)..=seconds(86_400))),
        purge_timeout: section.optional(problems, "purge_timeout", fixed(seconds(1)..=seconds(86_400))),
    }
}

/// Completes and checks them.
pub fn resolve(keys: &Keys, problems: &mut Problems<'_>) -> SyncMode {
    let mode = value_or(keys.mode.as_ref(), Mode::Ftfw);
    let refresh_time = value_or(keys.refresh_time.as_ref(), REFRESH_TIME);
    let least = refresh_time.saturating_mul(2);
    let cache_timeout = value_or(keys.cache_timeout.as_ref(), CACHE_TIMEOUT.max(least));
    if let Some(found) = keys.cache_timeout.as_ref().filter(|_| cache_timeout < least) {
        let message = format!("{cache_timeout:?} is less than two refresh times ({refresh_time:?})");
        problems.error(&found.at, message, "raise it, or lower refresh_time: one lost frame must not delete a flow");
    }
    for key in [&keys.refresh_time, &keys.cache_timeout].into_iter().flatten().filter(|_| mode != Mode::Alarm) {
        let message = format!("has no effect in the mode {mode}");
        problems.warning(&key.at, message, "write mode = \"alarm\", or remove the key");
    }
    SyncMode { mode, refresh_time, cache_timeout, purge_timeout: value_or(keys.purge_timeout.as_ref(), PURGE_TIMEOUT) }
}
