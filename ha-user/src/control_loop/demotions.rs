//! What demotes this node, and telling the hooks of what became of it.

use super::breakdown::Stage;
use super::{ControlLoop, Failure};
use crate::clock;
use crate::demotion::total_weight;
use crate::hooks::{Event, priority};
use ha_common::election::{Input, Transition};
use ha_common::role::Role;
use ha_common::time::{Instant, earliest};

impl ControlLoop {
    /// The tracker has given out another list; often only what was seen differs.
    pub(super) fn demotions_changed(&mut self) {
        let weight = total_weight(&self.demotions);
        if std::mem::replace(&mut self.demotion_weight, weight) != weight {
            tracing::info!(weight, causes = self.demotions.len(), "this node's demotion changes");
            self.feed(Input::Demotion(weight));
        }
    }

    /// A change of role that the hooks are to be told of.
    pub(super) fn note_for_hooks(&mut self, transition: &Transition) {
        let own = self.config.nodes.get(usize::from(self.config.node.0));
        let priority = priority(own.map_or(0, |node| node.advskew), self.demotion_weight);
        let term = self.election.stats().term;
        let event = Event::new(transition.from, transition.to, transition.cause.name(), priority, term);
        self.untold = Some(match self.untold.take() {
            Some(older) => event.after(&older),
            None => event,
        });
    }

    /// Posts the change whose actions have all been done: state, lease, addresses, announcements, then hooks. After a
    /// hand-over the addresses linger, and the hooks wait until they are gone.
    pub(super) fn tell_hooks(&mut self) {
        let are_gone = !self.addresses.are_wanted();
        let is_done = |event: &mut Event| event.to == Role::Master || are_gone;
        if !self.addresses.are_settled() {
            return;
        }
        let Some(event) = self.untold.take_if(is_done) else { return };
        if let Some(hooks) = &mut self.hooks
            && hooks.post(event, clock::now()).is_err()
        {
            self.failures.count(Failure::HookMailbox);
        }
        self.explain_stamp(Stage::Hooks);
    }

    /// Posts again what a full mailbox refused.
    pub(super) fn retry_posts(&mut self, now: Instant) {
        self.roles.retry(now);
        if let Some(hooks) = &mut self.hooks {
            hooks.retry(now);
        }
    }

    /// When [`Self::retry_posts`] is wanted.
    pub(super) fn posts_at(&self) -> Option<Instant> {
        earliest(self.roles.retry_at(), self.hooks.as_ref().and_then(|hooks| hooks.retry_at()))
    }
}
