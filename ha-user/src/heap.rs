//! Memory that a backlog needed and that is free again goes back to the machine.

/// All threads allocate from the one arena that grows and shrinks by `brk`.
///
/// By default the C library gives each thread an arena of its own and returns free memory of those by `madvise`, which the
/// kernel refuses for locked memory (madvise(2), `EINVAL`): each arena would keep the most that it ever held. Small
/// allocations are served by caches of the threads (`tcache`), and the control loop hardly makes any others, so it seldom needs
/// the arena's lock. To be called before the first thread starts.
#[expect(unsafe_code, reason = "no crate in use wraps mallopt")]
pub fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt takes two numbers; no other thread allocates yet.
        let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        if taken == 0 {
            tracing::debug!("the C library does not take a number of arenas: memory may not be given back");
        }
    }
}
