//! `/metrics` for Prometheus: the page is made from the loops' answers at each scrape.

mod datapath;
mod election;
mod pair;
pub mod server;
mod sync;
mod text;
mod track;

use crate::status::{DatapathStatus, Status};
use text::{Kind, Page};

/// The whole page. What a silent loop would have said is absent, not zero.
pub fn page(
    status: &Status,
    datapath: &DatapathStatus,
    started_unix_seconds: f64,
    resident_bytes: Option<u64>,
) -> String {
    let mut page = Page::default();
    page.family(Kind::Gauge, "twinwall_build_info", "1; the version is in the label.")
        .sample(&[("version", &status.version)], true);
    page.family(Kind::Gauge, "twinwall_node_info", "1; cluster and node are in the labels.")
        .sample(&[("cluster", &status.cluster), ("node", &status.node)], true);
    page.single(
        Kind::Gauge,
        "process_start_time_seconds",
        "Start of the daemon in seconds since 1970.",
        started_unix_seconds,
    );
    if let Some(bytes) = resident_bytes {
        page.single(Kind::Gauge, "process_resident_memory_bytes", "Resident memory of the daemon.", bytes);
    }
    page.single(
        Kind::Counter,
        "twinwall_log_lines_dropped_total",
        "Log lines dropped because nobody read the daemon's stderr.",
        crate::logging::lines_dropped(),
    );
    let answered = [("control", status.control_answered), ("sync", status.sync_answered)];
    let mut loops = page.family(Kind::Gauge, "twinwall_loop_answered", "1 when the loop answered this scrape in time.");
    for (name, answered) in answered {
        loops.sample(&[("loop", name)], answered);
    }
    datapath::write(&mut page, datapath);
    if status.control_answered {
        election::write(&mut page, &status.election);
        track::write_demotions(&mut page, &status.election);
        pair::write(&mut page, &status.election);
    }
    if status.sync_answered {
        sync::write(&mut page, &status.sync);
    }
    track::write_hooks(&mut page, &status.hooks);
    page.finish()
}

/// Resident memory of this process from `/proc/self/status`, bytes.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests;
