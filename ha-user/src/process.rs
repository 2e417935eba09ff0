//! What the process owes the machine: few privileges, enough descriptors, death on a panic, word to systemd.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use tracing::{debug, warn};

/// Descriptors for sockets, maps, programs and connections, with room.
const DESCRIPTORS_MIN: u64 = 4096;

/// Without these nothing works.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);
/// Kept when there: XDP, the real-time loop, locked memory. Without them the daemon works, slower or less surely.
const USEFUL: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_NICE).union(CapabilitySet::IPC_LOCK);

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("the capabilities {missing} are missing: run as root, or grant them by the service manager")]
    Missing { missing: String },
    #[error("cannot {what}: {source}")]
    Failed { what: &'static str, source: rustix::io::Errno },
}

/// Fails early, and in words, where the daemon could not work.
///
/// # Errors
/// [`PrivilegeError::Missing`] names what is missing.
pub fn check_privileges() -> Result<(), PrivilegeError> {
    let own = capabilities(None).map_err(|source| PrivilegeError::Failed { what: "read the capabilities", source })?;
    let missing = NEEDED - own.effective;
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing { missing: names(missing) }) }
}

/// Gives away every capability that the daemon does not need, for good, in the calling thread and those it
/// will start. `privileged_port`: a port below 1024 is still to be bound.
///
/// # Errors
/// When the kernel refuses; the daemon must not go on with more than it needs.
pub fn drop_privileges(privileged_port: bool) -> Result<(), PrivilegeError> {
    let failed = |what| move |source| PrivilegeError::Failed { what, source };
    let own = capabilities(None).map_err(failed("read the capabilities"))?;
    let mut kept = NEEDED | USEFUL;
    if privileged_port {
        kept |= CapabilitySet::NET_BIND_SERVICE;
    }
    let kept = kept & own.permitted;
    // The bounding set needs CAP_SETPCAP, so it goes first; without that capability there is nothing to shrink.
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            // The kernel answers EINVAL from its last capability on.
            let Ok(present) = capability_is_in_bounding_set(capability) else { break };
            if present && !kept.contains(capability) {
                remove_capability_from_bounding_set(capability).map_err(failed("shrink the bounding set"))?;
            }
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("drop capabilities"))?;
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    let absent = USEFUL - kept;
    if !absent.is_empty() {
        warn!(absent = names(absent), "capabilities are missing: XDP, real-time scheduling or locked memory may fail");
    }
    debug!(kept = names(kept), "capabilities dropped");
    Ok(())
}

/// Raises the descriptor and locked-memory limits as far as the process may.
pub fn raise_limits() {
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_some_and(|current| current < DESCRIPTORS_MIN) {
        let wanted = limits.maximum.map_or(DESCRIPTORS_MIN, |maximum| maximum.min(DESCRIPTORS_MIN));
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limits.maximum }) {
            warn!(%error, wanted, "cannot raise the limit of open files");
        }
    }
    // BPF maps and mlockall count against it on older kernels.
    if getrlimit(Resource::Memlock).current.is_some()
        && let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })
    {
        debug!(%error, "cannot lift the limit of locked memory");
    }
}

/// A thread that panics takes the process with it: supervision restarts the whole, and the peer takes over.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        // Not through the log, whose thread would not get to it.
        eprintln!("bug: thread {} panicked, the daemon aborts: {panic}", thread.name().unwrap_or("unnamed"));
        std::process::abort();
    }));
}

/// Tells systemd, if it started us.
pub fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify systemd");
    }
}

fn names(set: CapabilitySet) -> String {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After the drop a thread of its own holds nothing beyond the list, and cannot get it back.
    #[test]
    fn privileges_are_gone() {
        // Capabilities are the thread's own: the other tests keep theirs.
        let checked = std::thread::spawn(|| {
            drop_privileges(false).unwrap();
            let own = capabilities(None).unwrap();
            assert_eq!(own.permitted - (NEEDED | USEFUL), CapabilitySet::empty());
            assert_eq!(own.effective, own.permitted);
            assert!(rustix::thread::no_new_privs().unwrap());
            let again = CapabilitySets { permitted: own.permitted | CapabilitySet::SYS_ADMIN, ..own };
            assert!(set_capabilities(None, again).is_err());
        });
        checked.join().unwrap();
    }

    /// Missing capabilities are named as everybody writes them.
    #[test]
    fn names_are_the_fields_own() {
        assert_eq!(names(NEEDED), "CAP_NET_ADMIN CAP_NET_RAW");
    }
}
