//! Stamping what the loop does, so that a transition can explain itself ([`super::breakdown`]).

use super::ControlLoop;
use super::breakdown::Stage;
use crate::clock;
use ha_common::election::Transition;
use ha_common::role::Role;
use ha_common::sight::Sight;
use ha_common::time::Instant;

impl ControlLoop {
    pub(super) fn explain_begin(&mut self, transition: Transition) {
        let last_life = if transition.to == Role::Master { self.last_life() } else { None };
        if let Some(before) = self.explainer.begin(transition, last_life) {
            tell(before);
        }
    }

    /// The old master's last sign of life, as far as heartbeats show one: of its kernel, or of its controller where only
    /// that has died.
    fn last_life(&self) -> Option<Instant> {
        match self.pulse.sight()? {
            Sight::Silent { last } => Some(last.heard),
            Sight::Alive(report) if report.has_lapsed() => Some(report.heard - report.beat_age),
            Sight::Alive(_) | Sight::Unknown => None,
        }
    }

    pub(super) fn explain_stamp(&mut self, stage: Stage) {
        self.explainer.stamp(stage, clock::now());
    }

    /// Before an announcement: what the host has forwarded until then is not the new master's work.
    pub(super) fn explain_round(&mut self) {
        if self.explainer.awaits_round() {
            let forwarded = self.forwarded.as_ref().and_then(|forwarded| forwarded.read());
            self.explainer.begin_round(forwarded, clock::now());
        }
    }

    /// Looks for the first forwarded packet, and tells the transition once it is complete.
    pub(super) fn explain_more(&mut self, now: Instant) {
        if self.explainer.wants_sample(now) {
            match self.forwarded.as_ref().and_then(|forwarded| forwarded.read()) {
                Some(count) => self.explainer.sample(count, now),
                None => self.explainer.stop_sampling(),
            }
        }
        if let Some(breakdown) = self.explainer.poll(now) {
            tell(breakdown);
        }
    }
}

fn tell(breakdown: &super::breakdown::Breakdown) {
    let transition = breakdown.transition();
    tracing::info!(
        from = transition.from.name(),
        to = transition.to.name(),
        cause = transition.cause.name(),
        total_ms = breakdown.total().as_secs_f64() * 1e3,
        stages = breakdown.explain(),
        "failover explained"
    );
}
