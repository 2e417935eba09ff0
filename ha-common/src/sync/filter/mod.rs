//! Which flows are replicated: what the administrator wants, and what means nothing on another host.
//!
//! [`Filter`] is the criteria, [`Admission`] applies them to what the kernel tells, in front of the engine. What is true
//! of a flow for its whole life (protocol, addresses, ports, zone) is its *identity*; mark and ASSURED change, and with them
//! whether the flow is replicated. TCP states and the age only decide when it *begins* to be: a standby that were not told
//! of a closing would keep a dead session for days.

mod admission;
mod ports;
mod prefix;
mod refusal;
mod young;

pub use admission::{Admission, AdmissionStats};
pub use ports::{PortMatch, has_ports};
pub use prefix::{Prefix, PrefixSet, mask_v4, mask_v6};
pub use refusal::FilterReason;
pub use young::YOUNG_MAX;

use super::flow::{Flow, FlowKey, Tuple, status};
use core::time::Duration;
use std::net::IpAddr;

/// What must be (`None`: anything), and what must not be. What stands in both is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists<T> {
    pub accept: Option<T>,
    pub ignore: T,
}

impl<T> Lists<T> {
    /// Whether `is_in` holds for what is accepted and not for what is ignored.
    fn pass(&self, is_in: impl Fn(&T) -> bool) -> bool {
        self.accept.as_ref().is_none_or(&is_in) && !is_in(&self.ignore)
    }
}

/// A set of small numbers: IP protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolSet([u64; 4]);

impl ProtocolSet {
    pub const ALL: Self = Self([u64::MAX; 4]);
    pub const NONE: Self = Self([0; 4]);

    pub fn contains(&self, protocol: u8) -> bool {
        self.0.get(usize::from(protocol >> 6)).is_some_and(|word| word >> (protocol & 63) & 1 == 1)
    }

    #[must_use]
    pub fn with(mut self, protocol: u8) -> Self {
        if let Some(word) = self.0.get_mut(usize::from(protocol >> 6)) {
            *word |= 1 << (protocol & 63);
        }
        self
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([a & !e, b & !f, c & !g, d & !h])
    }
}

impl FromIterator<u8> for ProtocolSet {
    fn from_iter<I: IntoIterator<Item = u8>>(protocols: I) -> Self {
        protocols.into_iter().fold(Self::NONE, Self::with)
    }
}

/// Marks that equal `value` in the bits of `mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkMatch {
    pub value: u32,
    pub mask: u32,
}

impl MarkMatch {
    fn contains(self, mark: u32) -> bool {
        mark & self.mask == self.value & self.mask
    }
}

/// A set of TCP states (`TCP_CONNTRACK_*`), a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpStates(pub u16);

impl TcpStates {
    pub const ALL: Self = Self(u16::MAX);

    fn contains(self, state: u8) -> bool {
        1u16.checked_shl(u32::from(state)).is_some_and(|bit| self.0 & bit != 0)
    }
}

/// The criteria. The default accepts every flow that is forwarded between two other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub protocols: ProtocolSet,
    /// The nodes' own, peer and virtual addresses: flows that end on one of these stay local.
    pub local: PrefixSet,
    pub addresses: Lists<PrefixSet>,
    /// Of the protocols that have ports.
    pub ports: Lists<Vec<PortMatch>>,
    pub zones: Lists<Vec<u16>>,
    pub marks: Lists<Vec<MarkMatch>>,
    pub tcp_states: TcpStates,
    pub assured_only: bool,
    /// A flow that ends earlier is never told to the peer; zero: all are, at once.
    pub min_age: Duration,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            protocols: ProtocolSet::ALL,
            local: PrefixSet::default(),
            addresses: Lists::default(),
            ports: Lists::default(),
            zones: Lists::default(),
            marks: Lists::default(),
            tcp_states: TcpStates::ALL,
            assured_only: false,
            min_age: Duration::ZERO,
        }
    }
}

impl Filter {
    /// Everything but the age. [`FilterReason::TcpState`] comes last: nothing else is wrong with such a flow.
    ///
    /// # Errors
    /// The first criterion that the flow does not meet.
    pub fn judge(&self, flow: &Flow) -> Result<(), FilterReason> {
        self.judge_identity(&flow.key, &flow.reply)?;
        if !self.marks.pass(|marks| marks.iter().any(|mark| mark.contains(flow.mark))) {
            return Err(FilterReason::Mark);
        }
        if self.assured_only && flow.status & status::ASSURED == 0 {
            return Err(FilterReason::NotAssured);
        }
        // An event that leaves the state out says nothing about it.
        if flow.tcp.is_some_and(|tcp| !self.tcp_states.contains(tcp.state)) {
            return Err(FilterReason::TcpState);
        }
        Ok(())
    }

    /// What does not change while the flow lives.
    ///
    /// The two endpoints of a flow are the original tuple's source, and the host that really answers: the
    /// *reply* tuple's source. Without destination NAT that is the original destination; with it, it is the
    /// inside host behind the virtual address. The reply tuple's destination must not be looked at: for a
    /// flow with source NAT it is the virtual address, and yet the flow is forwarded. conntrackd's lists mean the same
    /// two addresses (`conntrackd-wire` section 12).
    ///
    /// # Errors
    /// The first criterion that is not met.
    pub fn judge_identity(&self, key: &FlowKey, reply: &Tuple) -> Result<(), FilterReason> {
        let original = &key.original;
        if !self.protocols.contains(original.protocol) {
            return Err(FilterReason::Protocol);
        }
        let is_local = |address| never_forwarded(address) || self.local.contains(address);
        // A multicast or broadcast query is answered from another address.
        if is_local(original.source) || is_local(reply.source) || never_forwarded(original.destination) {
            return Err(FilterReason::LocalAddress);
        }
        if !self.addresses.pass(|set| set.contains(original.source) || set.contains(reply.source)) {
            return Err(FilterReason::Address);
        }
        if has_ports(original.protocol)
            && !self.ports.pass(|ports| ports.iter().any(|port| port.contains(original, reply)))
        {
            return Err(FilterReason::Port);
        }
        if !self.zones.pass(|zones| zones.contains(&key.zone)) {
            return Err(FilterReason::Zone);
        }
        Ok(())
    }

    /// Whether a flow can begin to be replicated later than with its first event.
    fn admits_late(&self) -> bool {
        self.assured_only || self.marks != Lists::default() || self.tcp_states != TcpStates::ALL
    }

    /// Whether a flow that is replicated already may stay so: the state it is in meanwhile does not matter.
    pub fn keeps(&self, flow: &Flow) -> bool {
        match self.judge(flow) {
            Ok(()) => true,
            Err(reason) => reason.only_delays(),
        }
    }
}

/// Addresses that mean nothing on another host, or that routers do not pass on.
pub fn never_forwarded(address: IpAddr) -> bool {
    NEVER_FORWARDED.iter().any(|prefix| prefix.contains(address))
}

/// Loopback, unspecified, multicast, broadcast and link-local ones.
pub const NEVER_FORWARDED: [Prefix; 8] = [
    Prefix::v4([127, 0, 0, 0], 8),
    Prefix::v4([224, 0, 0, 0], 4),
    Prefix::v4([255, 255, 255, 255], 32),
    Prefix::v4([0, 0, 0, 0], 32),
    Prefix::v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    Prefix::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    Prefix::v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
    Prefix::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
];

#[cfg(test)]
mod tests;
