//! Flap damping: a node that loses the group again and again by its own fault ranks behind for a while.

use crate::election::Damping;
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// Losses remembered at most.
const LOSSES_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Damper {
    settings: Damping,
    losses: VecDeque<Instant>,
    /// Length and end of the last damping.
    last: Option<(Duration, Instant)>,
}

impl Damper {
    pub(super) fn new(settings: Damping) -> Self {
        Self { settings, losses: VecDeque::new(), last: None }
    }

    /// This node lost the group by its own fault.
    pub(super) fn note_loss(&mut self, now: Instant) {
        let Damping { losses, window, first, longest } = self.settings;
        if losses == 0 {
            return;
        }
        self.losses.retain(|at| now.since(*at) < window);
        if self.losses.len() == LOSSES_MAX {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        let limit = usize::try_from(losses).unwrap_or(usize::MAX).min(LOSSES_MAX);
        if self.losses.len() < limit {
            return;
        }
        let length = match self.last {
            // After as long a time without trouble as the longest damping, all is forgotten.
            Some((length, end)) if now.since(end) < longest => length.saturating_mul(2).min(longest),
            Some(_) | None => first.min(longest),
        };
        self.losses.clear();
        self.last = Some((length, now + length));
    }

    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.last.map(|(_, end)| end).filter(|end| now < *end)
    }

    pub(super) fn is_damped(&self, now: Instant) -> bool {
        self.until(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Loses three times in a second, and gives how long it is damped, in seconds, and the end.
    fn flap(damper: &mut Damper, now: Instant) -> (u64, Instant) {
        (0..3).for_each(|_| damper.note_loss(now));
        let end = damper.until(now).expect("damped");
        (end.since(now).as_secs(), end)
    }

    /// The third loss in a minute damps for 30 s, then twice as long each time up to five minutes; quiet times forget.
    #[test]
    fn dampings_grow_and_are_forgotten() {
        let mut damper = Damper::new(Damping::default());
        let mut now = Instant(1) + SECOND;
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let (length, end) = flap(&mut damper, now);
            assert!(!damper.is_damped(end));
            lengths.push(length);
            now = end + SECOND * 3;
        }
        assert_eq!(lengths, [30, 60, 120, 240, 300, 300]);
        assert_eq!(flap(&mut damper, now + SECOND * 301).0, 30);
    }

    /// Rare losses never damp, and zero switches it off.
    #[test]
    fn rare_losses() {
        let mut damper = Damper::new(Damping::default());
        (0..20).for_each(|n| damper.note_loss(Instant(1) + SECOND * 31 * n));
        assert_eq!(damper.until(Instant(1)), None);
        let mut never = Damper::new(Damping { losses: 0, ..Damping::default() });
        (0..20).for_each(|_| never.note_loss(Instant(1)));
        assert_eq!(never.until(Instant(1)), None);
    }
}
