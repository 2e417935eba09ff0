//! The file is read anew: what can take effect at once does, the rest is named as waiting for a restart.
//!
//! A file with errors changes nothing at all. What takes effect is the short list [`Live`].

use crate::config::{self, Choice, ConfigError, Filter, Resolved};
use crate::datapath::DatapathKey;
use crate::logging;
use crate::loops::{Loops, ask};
use crate::operate::{ReloadOutcome, ReloadReport};
use crate::request::{ControlRequest, SyncRequest};
use ha_common::secret::ClusterKey;
use tracing::{error, info, warn};

/// Knows what is in force.
pub struct Reloader {
    choice: Choice,
    in_force: Resolved,
}

impl Reloader {
    pub fn new(choice: Choice, in_force: Resolved) -> Self {
        Self { choice, in_force }
    }

    /// Reads the file and applies what has changed; the log and the report say the same.
    pub async fn reload(&mut self, loops: &Loops) -> ReloadReport {
        let (problems, read) = match config::load(&self.choice) {
            Ok((read, report)) => (report.lines(), Some(read)),
            Err(ConfigError::Invalid(report)) => (report.lines(), None),
            Err(
                unusable
                @ (ConfigError::Unreadable { .. } | ConfigError::TooLarge { .. } | ConfigError::NotText { .. }),
            ) => (vec![unusable.to_string()], None),
        };
        let outcome = match read {
            Some(read) => self.apply(&read, loops).await,
            None => ReloadOutcome::Refused,
        };
        let report = ReloadReport { file: self.choice.file.display().to_string(), problems, outcome };
        log(&report);
        report
    }

    async fn apply(&mut self, read: &Resolved, loops: &Loops) -> ReloadOutcome {
        let (mut applied, mut failed) = (Vec::new(), Vec::new());
        let mut rest = self.in_force.clone();
        for part in Live::ALL {
            let mut with_part = self.in_force.clone();
            part.adopt(&mut with_part, read);
            part.adopt(&mut rest, read);
            if with_part == self.in_force {
                continue;
            }
            match part.apply(&self.in_force, &with_part, loops).await {
                Ok(()) => {
                    self.in_force = with_part;
                    applied.push(part.key().to_owned());
                }
                Err(why) => failed.push(format!("{}: {why}", part.key())),
            }
        }
        let restart = changes(&rest, read).into_iter().map(str::to_owned).collect();
        ReloadOutcome::Done { applied, failed, restart }
    }
}

/// What takes effect without a restart.
#[derive(Clone, Copy, Debug)]
enum Live {
    Keys,
    Filter,
    NetlinkBuffer,
    LogLevel,
}

impl Live {
    const ALL: [Self; 4] = [Self::Keys, Self::Filter, Self::NetlinkBuffer, Self::LogLevel];

    const fn key(self) -> &'static str {
        match self {
            Self::Keys => "cluster.secret_file",
            Self::Filter => "sync.filter",
            Self::NetlinkBuffer => "sync.netlink_buffer",
            Self::LogLevel => "log.level",
        }
    }

    /// Takes the part over from the file that was read, as far as it can take effect.
    fn adopt(self, in_force: &mut Resolved, read: &Resolved) {
        match self {
            Self::Keys => in_force.sync.keys.clone_from(&read.sync.keys),
            Self::Filter => {
                // The nodes' and virtual addresses change with the nodes and the vips, at a restart.
                let local = in_force.sync.filter.local.clone();
                in_force.sync.filter = Filter { local, ..read.sync.filter.clone() };
            }
            Self::NetlinkBuffer => {
                // The kernel's queue cannot be cut.
                let (sync, new) = (&mut in_force.sync, &read.sync);
                sync.netlink_buffer = sync.netlink_buffer.max(new.netlink_buffer);
                sync.netlink_buffer_max = new.netlink_buffer_max.max(sync.netlink_buffer);
            }
            Self::LogLevel => in_force.log.filter.clone_from(&read.log.filter),
        }
    }

    async fn apply(self, old: &Resolved, new: &Resolved, loops: &Loops) -> Result<(), String> {
        match self {
            Self::Keys => change_keys(old, new, loops).await,
            Self::Filter => {
                let filter = Box::new(new.sync.filter.clone());
                let asked = ask("sync", |reply| loops.sync.post(SyncRequest::Filter { filter, reply }));
                asked.await.map_err(|silent| silent.to_string())?
            }
            Self::NetlinkBuffer => {
                let (bytes, bytes_max) = (new.sync.netlink_buffer, new.sync.netlink_buffer_max);
                let asked =
                    ask("sync", |reply| loops.sync.post(SyncRequest::NetlinkBuffer { bytes, bytes_max, reply }));
                asked.await.map_err(|silent| silent.to_string())?
            }
            Self::LogLevel => logging::change_level(&new.log.filter).map_err(|error| error.to_string()),
        }
    }
}

/// The programs take every key that is valid before or after, then the sync engine changes, then the programs forget what is
/// not valid any more: at no time is the peer refused for want of a key.
async fn change_keys(old: &Resolved, new: &Resolved, loops: &Loops) -> Result<(), String> {
    let is_another = |key: &&ClusterKey| old.sync.keys.iter().any(|old| old.epoch == key.epoch && old != *key);
    if let Some(key) = new.sync.keys.iter().find(is_another) {
        let epoch = key.epoch;
        return Err(format!("another secret of epoch {epoch} is in use (change it with `twinwall keygen --rotate`)"));
    }
    let is_new = |key: &&ClusterKey| !old.sync.keys.contains(key);
    let both: Vec<_> = old.sync.keys.iter().chain(new.sync.keys.iter().filter(is_new)).cloned().collect();
    set_datapath_keys(&new.cluster, &both, loops).await?;
    let keys = new.sync.keys.clone();
    // A loop that does not answer may do it yet: the programs keep all of them then.
    let asked = ask("sync", |reply| loops.sync.post(SyncRequest::Keys { keys, reply }));
    let changed = asked.await.map_err(|silent| silent.to_string())?;
    let valid = if changed.is_ok() { &new.sync.keys } else { &old.sync.keys };
    set_datapath_keys(&new.cluster, valid, loops).await?;
    changed
}

async fn set_datapath_keys(cluster: &str, keys: &[ClusterKey], loops: &Loops) -> Result<(), String> {
    let keys = keys.iter().map(|key| DatapathKey::new(key, cluster)).collect();
    let asked = ask("control", |reply| loops.control.post(ControlRequest::Keys { keys, reply }));
    asked.await.map_err(|silent| silent.to_string())?
}

/// The parts of the file whose meaning differs, by table or key.
fn changes(old: &Resolved, new: &Resolved) -> Vec<&'static str> {
    let (sync, log) = (&old.sync, &old.log);
    let buffers =
        [sync.netlink_buffer, sync.netlink_buffer_max] != [new.sync.netlink_buffer, new.sync.netlink_buffer_max];
    let vips = old.vips != new.vips || old.interfaces != new.interfaces;
    let differs = [
        ("cluster.name", old.cluster != new.cluster),
        ("cluster.secret_file", sync.keys != new.sync.keys),
        ("nodes", old.node != new.node || old.nodes != new.nodes),
        ("vip", vips),
        ("election", old.election != new.election),
        ("sync.netlink_buffer", buffers),
        ("sync", differs_elsewhere(old, new)),
        ("datapath", old.xdp != new.xdp || old.pin_directory != new.pin_directory),
        ("metrics.listen", old.metrics_listen != new.metrics_listen),
        ("log.level", log.filter != new.log.filter),
        ("log.format", log.format != new.log.format),
        ("track", old.track != new.track),
        ("hooks", old.hooks != new.hooks),
        ("heartbeat", old.heartbeat != new.heartbeat),
        ("daemon.state_directory", old.state_directory != new.state_directory),
        ("control socket", old.control_socket != new.control_socket),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// Whether `[sync]` differs in a key that has no name of its own in [`changes`].
fn differs_elsewhere(old: &Resolved, new: &Resolved) -> bool {
    let mut rest = new.sync.clone();
    rest.keys.clone_from(&old.sync.keys);
    rest.netlink_buffer = old.sync.netlink_buffer;
    rest.netlink_buffer_max = old.sync.netlink_buffer_max;
    // Of the filter only the addresses that come with nodes and vips can differ here, and those are named.
    rest.filter.local.clone_from(&old.sync.filter.local);
    rest != old.sync
}

fn log(report: &ReloadReport) {
    for problem in &report.problems {
        warn!("{problem}");
    }
    let file = &report.file;
    match &report.outcome {
        ReloadOutcome::Refused => {
            error!(file, "the file cannot be used: everything stays as it is, but a start would fail")
        }
        ReloadOutcome::Done { applied, failed, restart } => {
            if applied.is_empty() && failed.is_empty() && restart.is_empty() {
                info!(file, "the configuration is right, and nothing has changed");
            }
            if !applied.is_empty() {
                info!(file, changed = applied.join(", "), "the new configuration is in force");
            }
            if !failed.is_empty() {
                error!(file, "not in force: {}", failed.join("; "));
            }
            if !restart.is_empty() {
                warn!(file, changed = restart.join(", "), "these changes take effect at the next start");
            }
        }
    }
}

#[cfg(test)]
mod tests;
