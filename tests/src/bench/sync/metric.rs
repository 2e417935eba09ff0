//! What the bench's figures are called, and what of the kernel stands beside each.

/// A kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// In JSON: `measure`.
    pub name: &'static str,
    pub unit: &'static str,
    /// In tables.
    pub title: &'static str,
    /// What `at` counts; empty where the figure has none.
    pub at: &'static str,
    /// What the kernel does alone: a figure of `bench limits`, its `at` (unless it is the row's), and how it is compared.
    pub limit: Option<Limit>,
}

/// A figure of `bench limits` beside one of `bench sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub name: &'static str,
    pub at: u64,
    pub kind: LimitKind,
}

/// How the kernel's figure becomes comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// It is one of the same unit.
    Same,
    /// It is a rate; the time is `at` of the row by that rate.
    Seconds,
    /// It is one of the same unit and the same `at`.
    SameAt,
}

const fn metric(name: &'static str, unit: &'static str, at: &'static str, title: &'static str) -> Metric {
    Metric { name, unit, title, at, limit: None }
}

const fn beside(metric: Metric, name: &'static str, at: u64, kind: LimitKind) -> Metric {
    Metric { limit: Some(Limit { name, at, kind }), ..metric }
}

/// Every figure of `bench sync`, in the order of the tables.
pub const SYNC: [Metric; 32] = [
    beside(metric("rate", "flows/s", "", "highest loss-free rate"), "generator", 0, LimitKind::Same),
    metric("overload-rate", "flows/s", "x", "flows that came at so many times the highest rate"),
    metric("overload-missing-1s", "flows", "x", "… of them missing after 1 s"),
    metric("overload-missing", "flows", "x", "… and when nothing changed any more"),
    beside(
        metric("cpu-fw1", "us/flow", "flows/s", "CPU on the master, less its idle part"),
        "event-stored-cpu",
        0,
        LimitKind::Same,
    ),
    metric("cpu-fw1-raw", "us/flow", "flows/s", "… all of it"),
    metric("cpu-fw1-sync", "us/flow", "flows/s", "… the threads that carry state, less idle"),
    beside(
        metric("cpu-fw2", "us/flow", "flows/s", "CPU on the standby, less its idle part"),
        "insert-snat-cpu",
        256,
        LimitKind::Same,
    ),
    metric("cpu-fw2-raw", "us/flow", "flows/s", "… all of it"),
    metric("cpu-fw2-sync", "us/flow", "flows/s", "… the threads that carry state, less idle"),
    metric("cpu-rate", "flows/s", "flows/s", "… flows that came, of those asked for"),
    metric("cpu-missing", "flows", "flows/s", "… flows missing then"),
    metric("idle-fw1", "ms/s", "flows/s", "idle CPU on the master"),
    metric("idle-fw2", "ms/s", "flows/s", "idle CPU on the standby"),
    metric("wire-event", "B/flow", "flows/s", "on the wire for a new flow, less idle"),
    metric("wire-event-raw", "B/flow", "flows/s", "… all of it"),
    metric("lag-p50", "ms", "flows/s", "kernel to kernel, median"),
    metric("lag-p99", "ms", "flows/s", "… 99 of 100"),
    metric("lag-max", "ms", "flows/s", "… the latest"),
    metric("lag-missing", "flows", "flows/s", "… never"),
    beside(
        metric("bulk-up", "s", "flows", "all in a fresh standby's kernel, since its daemon answers"),
        "fill-snat-beside",
        0,
        LimitKind::SameAt,
    ),
    metric("bulk-start", "s", "flows", "… since its start"),
    metric("bulk-sync", "s", "flows", "… until both nodes say so"),
    metric("bulk-missing", "flows", "flows", "… missing"),
    metric("bulk-unequal", "flows", "flows", "… there, but not equal"),
    metric("wire-entry", "B/flow", "flows", "on the wire for each of them"),
    metric("rss-fw1", "MiB", "flows", "memory on the master"),
    metric("rss-fw2", "MiB", "flows", "memory on the standby"),
    metric("takeover", "s", "flows", "from the takeover until the kernel's table is complete"),
    metric("takeover-missing", "flows", "flows", "… missing then"),
    beside(
        metric("stale-1s", "flows", "flows", "stale 1 s after a flush on the master"),
        "delete",
        256,
        LimitKind::Seconds,
    ),
    metric("stale", "flows", "flows", "… and when nothing changed any more"),
];

/// The figure of this name.
pub fn named(name: &str) -> Option<Metric> {
    SYNC.into_iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// No two figures have the same name, and each is found by it.
    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = SYNC.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), SYNC.len());
        assert!(SYNC.iter().all(|metric| named(metric.name) == Some(*metric)));
        assert_eq!(named("speed"), None);
    }
}
