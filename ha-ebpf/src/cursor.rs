//! The only raw pointers of this crate: a packet between `data` and `data_end`, and its windows.

use aya_ebpf::programs::XdpContext;
use ha_common::wire::bytes::{Packet, Window};

/// The bytes of the frame that the program was called for.
#[derive(Clone, Copy)]
pub struct Cursor {
    data: usize,
    end: usize,
}

impl Cursor {
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end() }
    }
}

/// `N` bytes of the packet that the verifier has seen compared with `data_end`.
#[derive(Clone, Copy)]
pub struct View<const N: usize>(*const u8);

impl Packet for Cursor {
    type Window<const N: usize> = View<N>;

    #[inline(always)]
    fn bytes(self) -> usize {
        self.end - self.data
    }

    #[inline(always)]
    fn window<const N: usize>(self, offset: usize) -> Option<View<N>> {
        let start = one_pointer(self.data + offset);
        if start + N > self.end {
            return None;
        }
        Some(View(start as *const u8))
    }
}

impl<const N: usize> Window for View<N> {
    #[inline(always)]
    #[expect(unsafe_code, reason = "the packet is only reachable by pointer")]
    fn byte(self, at: usize) -> u8 {
        if at >= N {
            return 0;
        }
        // SAFETY: `window` compared the N bytes with the end of the packet, and `at` is less than N.
        unsafe { *self.0.add(at) }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "the packet is only reachable by pointer")]
    fn word(self, at: usize) -> u16 {
        if at + 2 > N {
            return 0;
        }
        // SAFETY: in bounds as in `byte`. Aligned: the kernel places the Ethernet header at an even address,
        // headers have even lengths, and `at` is even by the contract of `Window`. A `read_unaligned` would
        // become two byte loads (`ebpf` section 8).
        unsafe { *self.0.add(at).cast::<u16>() }
    }
}

impl<const N: usize> View<N> {
    /// Writes words in memory order from the even offset `at`; what does not fit is left out.
    #[inline(always)]
    pub fn set_words<const WORDS: usize>(self, at: usize, words: [u16; WORDS]) {
        for (i, word) in words.into_iter().enumerate() {
            self.set_word(at + 2 * i, word);
        }
    }

    /// Writes numbers in big-endian order from the start of the window.
    #[inline(always)]
    pub fn set_be64s<const NUMBERS: usize>(self, numbers: [u64; NUMBERS]) {
        for (i, number) in numbers.into_iter().enumerate() {
            // Four words, as they lie in memory: the window is aligned to two bytes only.
            let bytes = number.to_be_bytes();
            for word in 0..4 {
                self.set_word(8 * i + 2 * word, u16::from_ne_bytes([bytes[2 * word], bytes[2 * word + 1]]));
            }
        }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "the packet is only reachable by pointer")]
    fn set_word(self, at: usize, word: u16) {
        if at + 2 <= N {
            // SAFETY: in bounds and aligned as in `Window::word`; the program is the frame's only user while it runs.
            unsafe { *self.0.cast_mut().add(at).cast::<u16>() = word };
        }
    }
}

/// Makes LLVM compute a packet address once: compared and read through different registers, the verifier
/// would not see that the comparison covers the reads.
#[inline(always)]
#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "inline assembly")]
fn one_pointer(mut address: usize) -> usize {
    // SAFETY: the register keeps its value. One instruction must stand here: for an empty template LLVM emits
    // line information that the kernel refuses (two lines at one offset).
    unsafe { core::arch::asm!("{0} = {0}", inlateout(reg) address, options(nomem, nostack, preserves_flags, pure)) };
    address
}

/// On another target this crate is only linted, never run.
#[inline(always)]
#[cfg(not(target_arch = "bpf"))]
fn one_pointer(address: usize) -> usize {
    address
}
