//! What becomes of a packet.

use aya_ebpf::bindings::xdp_action;

/// The two answers that the programs give.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// On to the network stack, and to whoever else listens there.
    Pass,
    Drop,
}

impl Verdict {
    #[inline(always)]
    pub fn action(self) -> u32 {
        match self {
            Self::Pass => xdp_action::XDP_PASS,
            Self::Drop => xdp_action::XDP_DROP,
        }
    }
}
