//! SIGHUP: the file is checked anew, and what it would change is said. Changes take effect at the next start.

use crate::config::{self, Choice, ConfigError, Report, Resolved};
use tracing::{error, info, warn};

/// Reads the file again and logs what is wrong with it, or what a restart would change.
pub fn report(choice: &Choice, running: &Resolved) {
    match config::load(choice) {
        Ok((read, report)) => {
            log_problems(&report);
            match changes(running, &read).as_slice() {
                [] => info!(file = %choice.file.display(), "the configuration is right, and nothing has changed"),
                changes => warn!(
                    file = %choice.file.display(),
                    changed = changes.join(", "),
                    "the configuration is right; the changes take effect at the next start",
                ),
            }
        }
        Err(ConfigError::Invalid(report)) => {
            log_problems(&report);
            error!("the configuration has errors: the daemon goes on with the one it has, but would not start anew");
        }
        Err(error @ (ConfigError::Unreadable { .. } | ConfigError::TooLarge { .. } | ConfigError::NotText { .. })) => {
            error!(%error, "the daemon goes on with the configuration it has, but would not start anew")
        }
    }
}

fn log_problems(report: &Report) {
    for problem in &report.problems {
        warn!("{}:{problem}", report.file.display());
    }
}

/// The tables of the file whose meaning differs.
fn changes(old: &Resolved, new: &Resolved) -> Vec<&'static str> {
    let differs = [
        ("cluster", old.cluster != new.cluster),
        ("nodes", old.node != new.node || old.nodes != new.nodes),
        ("vip", old.vips != new.vips || old.interfaces != new.interfaces),
        ("election", old.election != new.election),
        ("sync", old.sync != new.sync),
        ("datapath", old.xdp != new.xdp || old.pin_directory != new.pin_directory),
        ("metrics", old.metrics_listen != new.metrics_listen),
        ("log", old.log != new.log),
        ("track", old.track != new.track),
        ("hooks", old.hooks != new.hooks),
        ("heartbeat", old.heartbeat != new.heartbeat),
        ("daemon", old.state_directory != new.state_directory),
        ("control socket", old.control_socket != new.control_socket),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::XdpChoice;
    use crate::config::track::TrackedConntrack;
    use std::time::Duration;

    /// A change is named by its table; equal configurations name none.
    #[test]
    fn changed_tables_are_named() {
        let old = crate::config::tests::packaged();
        assert!(changes(&old, &old).is_empty());
        let mut new = old.clone();
        new.xdp = XdpChoice::Native;
        new.vips[0].vhid = 9;
        new.hooks.xparam = Some("x".to_owned());
        new.track.conntrack =
            Some(TrackedConntrack { high: 95, low: 85, weight: 20, interval: Duration::from_secs(1) });
        assert_eq!(changes(&old, &new), ["vip", "datapath", "track", "hooks"]);
    }
}
