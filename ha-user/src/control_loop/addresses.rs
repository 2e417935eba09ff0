//! The virtual addresses: ordered here, moved by a thread beside the loop ([`crate::vip::mover`]).
//!
//! The gate decides who answers for an address, and is opened and closed by the loop at once; the addresses follow when
//! the kernel has time. Neighbours are told of them only once they are there.

use super::breakdown::Stage;
use super::{ControlError, ControlLoop};
use crate::clock;
use crate::vip::mover::Mover;
use crate::vip::{Failure, Outcome, VipError, Vips};
use ha_common::election::{InterfaceId, MemberId, VipState};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// Failed operands named in the log per batch; all are counted.
const ERRORS_LOGGED_MAX: usize = 8;
/// Reasons for one order that are remembered; further ones are carried out without a word.
const REASONS_MAX: usize = 64;

/// Why the addresses were ordered into their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The election wants it.
    Role,
    /// An interface came back under another index: what was on the old one is gone.
    Replaced(InterfaceId),
    /// An address, or a route, went away without our doing.
    Removed { interface: InterfaceId, address: Option<IpAddr> },
}

/// What is wanted of the addresses, and what waits for them.
pub(super) struct Addresses {
    mover: Mover,
    /// What the election last wanted.
    wanted: VipState,
    /// Why the order in work was given, and why the one that waits.
    in_work: Vec<Reason>,
    waiting: Vec<Reason>,
    /// By [`MemberId`]: to be announced as soon as the addresses are there.
    unannounced: Vec<bool>,
}

impl Addresses {
    /// Nothing is moved before [`ControlLoop::start_addresses`].
    ///
    /// # Errors
    /// When there is no room for another descriptor.
    pub fn new(vips: Vips, members: usize) -> io::Result<Self> {
        Ok(Self {
            mover: Mover::new(vips)?,
            wanted: VipState::Absent,
            in_work: Vec::new(),
            waiting: Vec::new(),
            unannounced: vec![false; members],
        })
    }

    /// Readable when an order has been carried out.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mover.fd()
    }

    /// Nothing is being moved.
    pub fn are_settled(&self) -> bool {
        self.mover.is_idle()
    }

    /// They are to be there.
    pub fn are_wanted(&self) -> bool {
        self.wanted == VipState::Present
    }

    /// Whether `address` is on its interface for certain.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.mover.holds(address)
    }

    /// Failures so far, by what failed.
    pub fn errors(&self) -> impl Iterator<Item = (Failure, u64)> {
        self.mover.errors()
    }

    /// Whether a member's addresses may be announced now; otherwise that is done once they are there.
    pub fn may_announce(&mut self, member: MemberId) -> bool {
        let is_settled = self.are_settled();
        if let Some(unannounced) = self.unannounced.get_mut(usize::from(member.0)) {
            *unannounced = !is_settled;
        }
        is_settled
    }

    fn order(&mut self, reason: Reason, ifindexes: Vec<Option<u32>>) {
        let reasons = if self.mover.is_idle() { &mut self.in_work } else { &mut self.waiting };
        if reasons.len() < REASONS_MAX && !reasons.contains(&reason) {
            reasons.push(reason);
        }
        self.mover.order(self.wanted, ifindexes);
    }

    /// `members`: whether each is to be announced once everything is carried out.
    fn announce_later(&mut self, members: impl Iterator<Item = bool>) {
        self.unannounced.iter_mut().zip(members).for_each(|(unannounced, is_wanted)| *unannounced |= is_wanted);
    }

    fn take_unannounced(&mut self) -> Vec<MemberId> {
        let members = (0..=u8::MAX).map(MemberId).zip(&mut self.unannounced);
        members.filter_map(|(member, waits)| std::mem::take(waits).then_some(member)).collect()
    }
}

impl ControlLoop {
    pub(super) fn start_addresses(&mut self) -> Result<(), ControlError> {
        let realtime = self.realtime;
        self.addresses.mover.start(move || realtime.enter_beside()).map_err(ControlError::Mover)
    }

    /// Makes the removal of an address of an interface leave the others of its network in place.
    pub(super) fn keep_secondaries(&mut self, id: InterfaceId) -> Result<(), VipError> {
        let name = self.name(id).to_owned();
        self.addresses.mover.keep_secondaries(&name)
    }

    /// Has the addresses brought into `state`; [`Self::addresses_moved`] is told when they are.
    pub(super) fn move_vips(&mut self, state: VipState) {
        self.addresses.wanted = state;
        if state == VipState::Absent {
            self.addresses.unannounced.fill(false);
        }
        self.order_vips(Reason::Role);
    }

    /// An interface came back under another index while its addresses are ours: they are gone with the old one.
    pub(super) fn interface_replaced(&mut self, id: InterfaceId) {
        if self.addresses.are_wanted() {
            self.order_vips(Reason::Replaced(id));
        }
    }

    /// A virtual address (or, without one, a route) went away without our doing: put everything back that is missing.
    pub(super) fn repair(&mut self, interface: InterfaceId, address: Option<IpAddr>) {
        if self.addresses.are_wanted() {
            self.order_vips(Reason::Removed { interface, address });
        }
    }

    fn order_vips(&mut self, reason: Reason) {
        let ifindexes = self.ids().map(|id| self.links.interface(id).ifindex).collect();
        self.addresses.order(reason, ifindexes);
    }

    /// Takes what the thread has done, if it has done anything, and does what waited for it.
    pub(super) fn addresses_moved(&mut self) {
        while let Some((state, outcome)) = self.addresses.mover.finished() {
            log_errors(&outcome);
            let waiting = std::mem::take(&mut self.addresses.waiting);
            for reason in std::mem::replace(&mut self.addresses.in_work, waiting) {
                self.carried_out(reason, state, outcome.changed);
            }
            if self.addresses.are_settled() {
                self.addresses.take_unannounced().into_iter().for_each(|member| self.announce(member));
                self.explainer.end_round();
                self.tell_hooks();
            }
        }
    }

    fn carried_out(&mut self, reason: Reason, state: VipState, changed: usize) {
        match reason {
            // Another order follows when the role has changed again meanwhile.
            Reason::Role if state != self.addresses.wanted => {}
            Reason::Role => self.role_settled(state, changed),
            // Our own removals are reported too, late; then everything is there and nothing changes.
            Reason::Replaced(_) | Reason::Removed { .. } if changed == 0 => {}
            Reason::Replaced(id) => {
                let (interface, restored) = (self.name(id), changed);
                tracing::warn!(interface, restored, "an interface was re-created: its addresses are restored");
                self.addresses.announce_later(self.config.vips.iter().map(|vip| vip.interface == id));
            }
            Reason::Removed { interface, address } => {
                let (interface, restored) = (self.name(interface), changed);
                let what = address.map_or_else(|| "default route".to_owned(), |address| address.to_string());
                tracing::warn!(what, interface, restored, "removed by hand while master: restored");
            }
        }
    }

    fn role_settled(&mut self, state: VipState, changed: usize) {
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
}

fn log_errors(outcome: &Outcome) {
    for error in outcome.errors.iter().take(ERRORS_LOGGED_MAX) {
        tracing::error!(%error, "a virtual address or route is not as it should be");
    }
    if let Some(more) = outcome.errors.len().checked_sub(ERRORS_LOGGED_MAX).filter(|more| *more > 0) {
        tracing::error!(more, "further virtual addresses or routes failed in the same batch");
    }
}
