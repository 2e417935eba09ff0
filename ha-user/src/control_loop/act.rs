//! What the election wants done, done.

use super::breakdown::Stage;
use super::{ControlLoop, Failure};
use crate::clock;
use crate::vip::announce;
use ha_common::election::{Action, MemberId, Transition};
use ha_common::role::Role;
use ha_common::time::Instant;
use ha_common::wire::carp::Advert;
use std::net::IpAddr;

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
        if self.roles.post((transition.to, transition.term), clock::now()).is_err() {
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

    pub(super) fn announce(&mut self, member: MemberId) {
        if !self.addresses.may_announce(member) {
            return;
        }
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
}
