//! Kernel parameters that replication needs.

use std::{fs, io};

/// `/proc/sys/net` shows the network namespace of the thread that opens it.
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// Makes every new entry send events.
///
/// With 2, the kernel's default, entries that are created while nobody listens never send any, and in a network
/// namespace the listener check can miss this daemon (`ctnetlink` section 12).
///
/// # Errors
/// When the parameter does not exist or is read-only (a container), and has not the value already.
pub fn enable_events() -> io::Result<()> {
    if fs::read_to_string(EVENTS).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    fs::write(EVENTS, "1")
}

/// The name of the parameter, for messages.
pub const EVENTS_NAME: &str = "net.netfilter.nf_conntrack_events";
