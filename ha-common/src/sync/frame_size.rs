//! How large a peer's frames may be: what the links carry, unless large frames vanish on the way.
//!
//! A switch or a tunnel with a smaller MTU than both ends believe swallows large frames silently and lets hellos and
//! acknowledgements pass. So the size is proved by what arrives, not by ICMP, which anybody can forge (RFC 8899): when
//! one large frame after another is lost, frames shrink to what every network carries, and the old size is tried again later.

use crate::time::Instant;
use core::time::Duration;

/// Frames up to this size arrive anywhere: 1280, the least MTU of IPv6, less its header and UDP's.
pub(super) const SAFE_BYTES: usize = 1280 - 48;
/// So many large frames lost and none arrived: by chance, at 30 % loss, once in 15,000.
const LOST_IN_A_ROW: u32 = 8;
/// The old size is tried again after this time; each time in vain doubles it.
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(640);

pub(super) struct FrameSize {
    /// What the links carry.
    limit: usize,
    lost: u32,
    /// Frames are small up to then.
    shrunk_until: Option<Instant>,
    retry: Duration,
}

impl FrameSize {
    pub fn new(limit: usize) -> Self {
        Self { limit, lost: 0, shrunk_until: None, retry: RETRY_MIN }
    }

    /// The links carry frames of this size from now on.
    pub fn set_limit(&mut self, limit: usize) {
        if limit != self.limit {
            *self = Self::new(limit);
        }
    }

    /// Size in bytes of the next frame.
    pub fn bytes(&self) -> usize {
        if self.shrunk_until.is_some() { self.limit.min(SAFE_BYTES) } else { self.limit }
    }

    /// A frame of this many bytes arrived.
    pub fn on_arrived(&mut self, bytes: usize) {
        if bytes > SAFE_BYTES {
            self.lost = 0;
            self.retry = RETRY_MIN;
        }
    }

    /// A frame of this many bytes was lost.
    pub fn on_lost(&mut self, now: Instant, bytes: usize) {
        if bytes <= SAFE_BYTES || self.shrunk_until.is_some() {
            return;
        }
        self.lost += 1;
        if self.lost >= LOST_IN_A_ROW {
            self.lost = 0;
            self.shrunk_until = Some(now + self.retry);
            self.retry = self.retry.saturating_mul(2).min(RETRY_MAX);
        }
    }

    /// Tries the old size again when it is time.
    pub fn on_timer(&mut self, now: Instant) {
        if self.shrunk_until.is_some_and(|until| until <= now) {
            self.shrunk_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only large frames lost one after another shrink the size; it comes back, and a black hole that is still there is
    /// tried ever more rarely.
    #[test]
    fn a_black_hole_is_found() {
        let (mut size, mut now) = (FrameSize::new(1472), Instant(1));
        for _ in 0..7 {
            size.on_lost(now, 1472);
            size.on_lost(now, 400);
        }
        size.on_arrived(1400);
        (0..7).for_each(|_| size.on_lost(now, 1472));
        assert_eq!(size.bytes(), 1472);
        for pause in [10, 20, 40] {
            (0..8).for_each(|_| size.on_lost(now, 1472));
            assert_eq!(size.bytes(), SAFE_BYTES, "before a pause of {pause} s");
            size.on_timer(now + Duration::from_secs(pause) - Duration::from_millis(1));
            assert_eq!(size.bytes(), SAFE_BYTES);
            now = now + Duration::from_secs(pause);
            size.on_timer(now);
            assert_eq!(size.bytes(), 1472);
        }
        size.set_limit(1000);
        (0..99).for_each(|_| size.on_lost(now, 1000));
        assert_eq!(size.bytes(), 1000);
    }
}
