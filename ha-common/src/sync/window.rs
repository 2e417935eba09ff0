//! How many frames may be unacknowledged: few at first, more while the peer keeps up, half after a silence.
//!
//! A frame is acknowledged when its flows stand in the peer's kernel, so what is in flight waits behind the kernel's writes. A
//! window that is opened at once would make it wait longer than the first estimate of a round trip allows, and all of it would
//! be sent again (RFC 5681 section 3.1: slow start, and the multiplicative decrease after a timeout). A lost datagram alone
//! changes nothing: on a link of its own it says nothing about the peer's load.

/// Frames in flight before anything is known of the peer.
const FIRST: u64 = 16;
/// Fewer could not show a gap by later frames.
pub(super) const WINDOW_MIN: u64 = 4;

#[derive(Debug)]
pub(super) struct CongestionWindow {
    frames: u64,
    /// Beyond it the window grows by one frame a round trip only.
    threshold: u64,
    /// Acknowledged since the last growth beyond the threshold.
    acked: u64,
    max: u64,
}

impl CongestionWindow {
    pub fn new(max: u64) -> Self {
        let max = max.max(WINDOW_MIN);
        Self { frames: FIRST.min(max), threshold: max, acked: 0, max }
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// One more frame has arrived.
    pub fn on_acked(&mut self) {
        self.acked += 1;
        if self.frames < self.threshold || self.acked >= self.frames {
            self.frames = (self.frames + 1).min(self.max);
            self.acked = 0;
        }
    }

    /// Nothing was heard for so long that everything in flight was given up.
    pub fn on_silence(&mut self) {
        self.threshold = (self.frames / 2).max(WINDOW_MIN);
        self.frames = self.threshold;
        self.acked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a few frames to the maximum within some hundred acknowledgements; half after a silence, and slowly back.
    #[test]
    fn grows_fast_then_slowly() {
        let mut window = CongestionWindow::new(128);
        assert_eq!(window.frames(), FIRST);
        (0..112).for_each(|_| window.on_acked());
        assert_eq!(window.frames(), 128);
        window.on_acked();
        assert_eq!(window.frames(), 128);
        window.on_silence();
        assert_eq!(window.frames(), 64);
        (0..64).for_each(|_| window.on_acked());
        assert_eq!(window.frames(), 65);
        (0..20).for_each(|_| window.on_silence());
        assert_eq!(window.frames(), WINDOW_MIN);
        assert_eq!(CongestionWindow::new(1).frames(), WINDOW_MIN);
    }
}
