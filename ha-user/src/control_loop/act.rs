//! What the election wants done, done.

use super::breakdown::Stage;
use super::{ControlLoop, Failure};
use crate::clock;
use crate::vip::announce;
use ha_common::election::{Action, InterfaceId, MemberId, Transition, VipState};
use ha_common::role::Role;
use ha_common::time::Instant;
use ha_common::wire::carp::Advert;
use std::net::IpAddr;

/// Failed operands named in the log per batch; all are counted.
const ERRORS_LOGGED_MAX: usize = 8;

impl ControlLoop {
    /// `decided`: when the election decided it.
    pub(super) fn act(&mut self, decided: Instant, action: Action) {
        match action {
            Action::SendAdvert { member, source, destination, advert } => {
                self.send_advert(member, source, destination, &advert);
            }
            Action::Vips(state) => self.move_vips(state),
            Action::Announce { member } => self.announce(member),
            Action::Transition(transition) => self.note_transition(transition),
            Action::Lease(order) => {
                self.obey_lease(decided, order);
                self.explain_stamp(Stage::Lease);
            }
            Action::HandOverEnded(end) => self.hand_over_ended(end),
        }
    }

    /// Brings addresses and routes into `state`, and says what failed; returns how many were not in it before.
    pub(super) fn apply_vips(&mut self, state: VipState) -> usize {
        let links = &self.links;
        let outcome = self.vips.apply(state, |id| links.interface(id).ifindex);
        for error in outcome.errors.iter().take(ERRORS_LOGGED_MAX) {
            tracing::error!(%error, "a virtual address or route is not as it should be");
        }
        if let Some(more) = outcome.errors.len().checked_sub(ERRORS_LOGGED_MAX).filter(|more| *more > 0) {
            tracing::error!(more, "further virtual addresses or routes failed in the same batch");
        }
        outcome.changed
    }

    /// An interface came back under another index while its addresses are ours: they are gone with the old one.
    pub(super) fn interface_replaced(&mut self, id: InterfaceId) {
        let restored = self.apply_vips(VipState::Present);
        if restored == 0 {
            return;
        }
        tracing::warn!(interface = self.name(id), restored, "an interface was re-created: its addresses are restored");
        for member in self.members_on(id) {
            self.announce(member);
        }
    }

    pub(super) fn move_vips(&mut self, state: VipState) {
        self.wanted = state;
        let changed = self.apply_vips(state);
        self.explain_stamp(Stage::Vips);
        match (state, self.taking_over.take()) {
            (VipState::Present, Some(transition)) => {
                let since = transition.last_heard.unwrap_or(transition.at);
                let duration = clock::now().since(since);
                self.takeover = Some((transition, duration));
                let takeover_ms = duration.as_secs_f64() * 1e3;
                tracing::info!(changed, takeover_ms, "virtual addresses taken");
            }
            (VipState::Present, None) => tracing::info!(changed, "virtual addresses taken"),
            (VipState::Absent, _) if changed > 0 => tracing::info!(changed, "virtual addresses released"),
            (VipState::Absent, _) => {}
        }
    }

    fn note_transition(&mut self, transition: Transition) {
        let last_heard_ms = transition.last_heard.map(|at| transition.at.since(at).as_secs_f64() * 1e3);
        tracing::info!(
            from = transition.from.name(),
            to = transition.to.name(),
            cause = transition.cause.name(),
            last_heard_ms,
            "role changes"
        );
        self.explain_begin(transition);
        self.note_for_hooks(&transition);
        self.taking_over = (transition.to == Role::Master).then_some(transition);
        if self.roles.post(transition.to, clock::now()).is_err() {
            self.failures.count(Failure::SyncMailbox);
        }
    }

    fn send_advert(&mut self, member: MemberId, source: IpAddr, destination: IpAddr, advert: &Advert) {
        let Some(vip) = self.config.vips.get(usize::from(member.0)) else { return };
        if !self.pulse.may_speak(clock::now()) {
            self.failures.count(Failure::LeaseOver);
            return;
        }
        let interface = vip.interface;
        let sent = self.adverts.send(interface, source, destination, advert);
        let Some(watched) = self.interfaces.get_mut(usize::from(interface.0)) else { return };
        match sent {
            Ok(()) => watched.mute = false,
            Err(error) => {
                self.failures.count(Failure::AdvertSend);
                if !std::mem::replace(&mut watched.mute, true) {
                    tracing::warn!(%error, "adverts cannot be sent; said once until one can");
                }
            }
        }
    }

    fn announce(&mut self, member: MemberId) {
        self.explain_round();
        let Some(vip) = self.config.vips.get(usize::from(member.0)) else { return };
        if !self.pulse.may_speak(clock::now()) {
            self.failures.count(Failure::LeaseOver);
            return;
        }
        let interface = vip.interface;
        let mac = self.links.interface(interface).mac;
        let addresses = vip.addresses.iter().map(|(address, _)| *address);
        let adverts = &self.adverts;
        let (failed, error) = announce::each_frame(mac, addresses, |frame| adverts.send_frame(interface, frame));
        self.explainer.announced(clock::now());
        if let Some(error) = error {
            self.failures.add(Failure::Announce, failed);
            let (interface, vhid) = (self.name(interface), vip.vhid);
            tracing::warn!(
                %error, failed, vhid, interface,
                "neighbours cannot be told of the virtual addresses (is the link up?)"
            );
        }
    }

    fn members_on(&self, id: InterfaceId) -> Vec<MemberId> {
        let members = (0..=u8::MAX).map(MemberId).zip(&self.config.vips);
        members.filter(|(_, vip)| vip.interface == id).map(|(member, _)| member).collect()
    }
}
