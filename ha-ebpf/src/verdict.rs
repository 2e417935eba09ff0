//! What becomes of a packet.

use aya_ebpf::bindings::xdp_action;

/// What the programs decide.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// On to the network stack, and to whoever else listens there.
    Pass,
    Drop,
    /// Back out of the interface it came in at.
    Answer,
}

impl Verdict {
    #[inline(always)]
    pub fn action(self) -> u32 {
        match self {
            Self::Pass => xdp_action::XDP_PASS,
            Self::Drop => xdp_action::XDP_DROP,
            Self::Answer => xdp_action::XDP_TX,
        }
    }
}
