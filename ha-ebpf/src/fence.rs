//! The fence: terms in which the gate never opens again. Every processor may close one at any time, and none may undo it.

use ha_common::abi::FenceEntry;

/// How often a change is tried while other processors change the fence.
const ATTEMPTS: usize = 4;

/// The one entry of the map `FENCE`.
#[derive(Clone, Copy)]
pub struct Fence(*mut FenceEntry);

impl Fence {
    /// For the entry at this address, which is valid as long as the program.
    #[inline(always)]
    pub fn at(entry: *mut FenceEntry) -> Self {
        Self(entry)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn closed_term(self) -> u64 {
        // SAFETY: a map value, aligned to 8 bytes.
        unsafe { (&raw const (*self.0).closed_term).read_volatile() }
    }

    /// Closes this term and all before. True when it was open until now, `None` when that could not be settled.
    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn close(self, term: u64) -> Option<bool> {
        // SAFETY: only the address of a field is taken.
        let closed = unsafe { &raw mut (*self.0).closed_term };
        for _ in 0..ATTEMPTS {
            let before = self.closed_term();
            if before >= term {
                return Some(false);
            }
            // Not a plain write: a processor that was held up here would lower what another one closed since.
            if compare_exchange(closed, before, term) == before {
                return Some(true);
            }
        }
        None
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn count_lapsed(self) {
        // SAFETY: only the address of a field is taken.
        increment(unsafe { &raw mut (*self.0).lapsed });
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn count_superseded(self) {
        // SAFETY: only the address of a field is taken.
        increment(unsafe { &raw mut (*self.0).superseded });
    }
}

/// Writes `new` if the word is `old`, as one step; returns what the word was. `core` has no such atomic for BPF.
#[inline(always)]
#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "inline assembly")]
fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let was: u64;
    // SAFETY: the callers hand in a word of a map value, aligned to 8 bytes. The instruction always uses r0.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inlateout("r0") old => was,
            options(nostack),
        );
    }
    was
}

#[inline(always)]
#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "inline assembly")]
fn increment(word: *mut u64) {
    // SAFETY: as in `compare_exchange`.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64, options(nostack))
    };
}

/// On another target this crate is only linted, never run.
#[cfg(not(target_arch = "bpf"))]
fn compare_exchange(_word: *mut u64, old: u64, _new: u64) -> u64 {
    old
}

#[cfg(not(target_arch = "bpf"))]
fn increment(_word: *mut u64) {}
