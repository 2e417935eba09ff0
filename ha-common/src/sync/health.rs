//! What this node says of its state: in sync or not, how far behind, and that a flush has ended.

use super::Action;
use super::engine::Engine;
use crate::role::SyncHealth;
use crate::time::{Instant, earliest};
use core::time::Duration;

/// Changes of the lag alone are reported at most this often.
const HEALTH_GAP: Duration = Duration::from_millis(100);
/// A flush that has not ended after this is forgotten: whoever asked has gone on without it.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// How often the end of a flush is looked for.
const FLUSH_GAP: Duration = Duration::from_millis(1);

/// A flush that has not ended.
#[derive(Clone, Copy)]
pub(super) struct Flush {
    asked: Instant,
    /// Everything that changed before this is waited for.
    barrier: Instant,
    /// [`super::outbox::Outbox::superseded`] of all peers when the barrier was set.
    superseded: u64,
    /// Entries being read whose answers belong to it.
    awaited: usize,
}

impl Engine {
    /// What makes no event is read first, so that the flush covers it.
    pub(super) fn on_flush(&mut self, now: Instant, out: &mut Vec<Action>) {
        let awaited = self.fetch_all(now, out);
        self.flushing = Some(Flush { asked: now, barrier: now, superseded: self.superseded(), awaited });
    }

    /// An answer has come that a flush may wait for; what it has changed is flushed, too.
    pub(super) fn flush_further(&mut self, now: Instant) {
        if let Some(flush) = self.flushing.as_mut().filter(|flush| flush.awaited > 0) {
            flush.awaited -= 1;
            flush.barrier = now;
        }
    }

    pub(super) fn report_health(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut up = self.peers.iter().filter(|peer| peer.up).peekable();
        let peer_alive = up.peek().is_some();
        let in_sync = peer_alive && up.all(|peer| peer.is_in_sync(now));
        let flushed = self.look_for_flush(now, peer_alive);
        let changed =
            (peer_alive, in_sync, flushed) != (self.health.peer_alive, self.health.in_sync, self.health.flushed);
        if !changed && now.since(self.health_at) < HEALTH_GAP {
            return;
        }
        let health = SyncHealth { peer_alive, in_sync, lag: self.lag(now), flushed };
        self.health_at = now;
        if health != self.health {
            self.health = health;
            out.push(Action::Health(health));
        }
    }

    fn lag(&self, now: Instant) -> Duration {
        self.peers.iter().map(|peer| peer.outbox.lag(now)).max().unwrap_or_default()
    }

    fn superseded(&self) -> u64 {
        self.peers.iter().map(|peer| peer.outbox.superseded()).sum()
    }

    /// The time of the newest flush that has ended.
    fn look_for_flush(&mut self, now: Instant, peer_alive: bool) -> Instant {
        let superseded = self.superseded();
        let Some(flush) = &mut self.flushing else { return self.health.flushed };
        // A state of before was lost, and its flow waits as one that changed after: then that one is waited for, too.
        if superseded != flush.superseded {
            (flush.barrier, flush.superseded) = (now, superseded);
        }
        let Flush { asked, barrier, awaited, .. } = *flush;
        if peer_alive && awaited == 0 && self.peers.iter().all(|peer| peer.outbox.is_younger(now, now.since(barrier))) {
            self.flushing = None;
            return asked;
        }
        if now.since(asked) > FLUSH_MAX {
            self.flushing = None;
        }
        self.health.flushed
    }

    /// A lag that was reported, or that may be growing, is reported again.
    pub(super) fn health_due(&self) -> Option<Instant> {
        let pending = self.peers.iter().any(|peer| peer.outbox.is_pending());
        let lag = (pending || !self.health.lag.is_zero()).then(|| self.health_at + HEALTH_GAP);
        earliest(lag, self.flushing.map(|_| self.ran_at + FLUSH_GAP))
    }
}
