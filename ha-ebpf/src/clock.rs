//! The clock that kernel and daemon share.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

/// Nanoseconds on CLOCK_BOOTTIME.
#[inline(always)]
#[expect(unsafe_code, reason = "a kernel helper")]
pub fn now() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}
