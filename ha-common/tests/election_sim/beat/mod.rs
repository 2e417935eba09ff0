//! A pair that hears each other's heartbeats: two real elections and probers, and a model of what stays in the kernel.
//!
//! Daemon and kernel are those of [`crate::model`].
//!
//! - `world.rs`: time, three paths (LAN, WAN, sync), faults.
//! - `watch.rs`: the watch over the gates after every single event.
//! - `rules.rs`: one scenario a rule, with its time. `races.rs`: both on the point of taking over.
//! - `storms.rs`: random faults over many seeds, then peace.

mod races;
mod rules;
mod storms;
mod watch;
mod world;
