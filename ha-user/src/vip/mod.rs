//! The virtual addresses and the master's default routes in the kernel, moved in one rtnetlink batch.
//!
//! Only what the configuration names is ever touched: addresses are deleted by value, and routes carry a protocol
//! number of their own ([`ROUTE_PROTOCOL`]), so that an administrator's route through the same gateway stays.

pub mod announce;
pub mod message;
pub mod mover;

use crate::config::Resolved;
use crate::route_netlink::{BATCH_MESSAGES_MAX, RouteSocket};
use ha_common::election::{InterfaceId, VipState};
use rustix::io::Errno;
use std::net::IpAddr;
use std::{fmt, fs, io};

pub use crate::route_netlink::ROUTE_PROTOCOL;

/// One address or route of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    Address { interface: InterfaceId, address: IpAddr, prefix_len: u8, label: Option<String> },
    DefaultRoute { interface: InterfaceId, gateway: IpAddr },
}

/// What could not be done; the name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    AddressAdd,
    AddressDelete,
    RouteAdd,
    RouteDelete,
    InterfaceMissing,
    PromoteSecondaries,
}

impl Failure {
    pub const fn name(self) -> &'static str {
        match self {
            Self::AddressAdd => "address_add",
            Self::AddressDelete => "address_delete",
            Self::RouteAdd => "route_add",
            Self::RouteDelete => "route_delete",
            Self::InterfaceMissing => "interface_missing",
            Self::PromoteSecondaries => "promote_secondaries",
        }
    }
}

/// Why an address or route is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    #[error("cannot open a route netlink socket: {0} (does the sandbox of the service allow AF_NETLINK?)")]
    Open(#[source] io::Error),
    #[error("cannot {verb} {operand}: {cause} ({remedy})")]
    Operation { failure: Failure, verb: &'static str, operand: String, cause: io::Error, remedy: &'static str },
    #[error(
        "cannot set net.ipv4.conf.{interface}.promote_secondaries: {cause} \
         (set it to 1 by sysctl, else removing a virtual address may take others of its network along)"
    )]
    PromoteSecondaries { interface: String, cause: io::Error },
}

impl VipError {
    /// What to count; `None` for what happens at start only.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Open(_) => None,
            Self::Operation { failure, .. } => Some(*failure),
            Self::PromoteSecondaries { .. } => Some(Failure::PromoteSecondaries),
        }
    }
}

/// What one batch did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many operands were not in the wanted state before.
    pub changed: usize,
    pub errors: Vec<VipError>,
}

/// The group's addresses and routes.
pub struct Vips {
    socket: RouteSocket,
    interfaces: Vec<String>,
    /// In the order of taking: addresses, then the routes that need them.
    operands: Vec<Operand>,
    held: Vec<bool>,
    sequence: u32,
}

impl Vips {
    /// Plans the operands of `config`; nothing is changed yet.
    ///
    /// # Errors
    /// When the kernel refuses a route netlink socket.
    pub fn open(config: &Resolved) -> Result<Self, VipError> {
        let operands = operands(config);
        Ok(Self {
            socket: RouteSocket::open(0).map_err(VipError::Open)?,
            interfaces: config.interfaces.clone(),
            held: vec![false; operands.len()],
            operands,
            sequence: 0,
        })
    }

    /// Brings all addresses and routes into `state`. `ifindex` tells the present index of an interface.
    ///
    /// One datagram carries everything (one in [`BATCH_MESSAGES_MAX`] operands), and the kernel has worked it off when
    /// this returns, however long it lets us wait for its lock. Each operand succeeds or fails for itself.
    pub fn apply(&mut self, state: VipState, ifindex: impl Fn(InterfaceId) -> Option<u32>) -> Outcome {
        let order: Vec<usize> = match state {
            VipState::Present => (0..self.operands.len()).collect(),
            VipState::Absent => (0..self.operands.len()).rev().collect(),
        };
        let mut outcome = Outcome::default();
        for batch in order.chunks(BATCH_MESSAGES_MAX) {
            self.apply_batch(state, batch, &ifindex, &mut outcome);
        }
        outcome
    }

    /// Whether `address` is on its interface as far as this module knows.
    pub fn holds(&self, address: IpAddr) -> bool {
        let mut pairs = self.operands.iter().zip(&self.held);
        pairs.any(|(operand, held)| *held && matches!(operand, Operand::Address { address: a, .. } if *a == address))
    }

    fn apply_batch(
        &mut self,
        state: VipState,
        batch: &[usize],
        ifindex: &impl Fn(InterfaceId) -> Option<u32>,
        outcome: &mut Outcome,
    ) {
        let mut datagram = Vec::with_capacity(batch.len() * 96);
        // The operand of each sequence number, in the order of sending.
        let mut asked = Vec::with_capacity(batch.len());
        let first = self.sequence.wrapping_add(1);
        for &at in batch {
            let Some(operand) = self.operands.get(at) else { continue };
            match (ifindex(operand.interface()), state) {
                (Some(ifindex), _) => {
                    self.sequence = self.sequence.wrapping_add(1);
                    message::append(operand, state, ifindex, self.sequence, &mut datagram);
                    asked.push(at);
                }
                (None, VipState::Present) => self.settle(at, state, Err(Errno::NODEV), outcome),
                // Nothing can be left on an interface that does not exist.
                (None, VipState::Absent) => self.settle(at, state, Err(Errno::ADDRNOTAVAIL), outcome),
            }
        }
        let mut answers = vec![None; asked.len()];
        let sent = self.socket.send(&datagram);
        if sent.is_ok() {
            self.collect(first, &mut answers);
        }
        let unanswered = sent.err().and_then(|error| Errno::from_io_error(&error)).unwrap_or(Errno::NOBUFS);
        for (at, answer) in asked.into_iter().zip(answers) {
            self.settle(at, state, answer.unwrap_or(Err(unanswered)), outcome);
        }
    }

    /// Reads the acknowledgements, which the kernel queued while it worked off the datagram.
    fn collect(&mut self, first: u32, answers: &mut [Option<Result<(), Errno>>]) {
        // ENOBUFS or a failing socket ends the reading; what has no answer then is reported as such.
        while let Ok(Some(messages)) = self.socket.receive() {
            for (sequence, result) in messages.filter_map(|message| message::acknowledgement(&message)) {
                let at = usize::try_from(sequence.wrapping_sub(first)).ok();
                if let Some(answer) = at.and_then(|at| answers.get_mut(at)) {
                    *answer = Some(result);
                }
            }
        }
    }

    /// Notes the result of one operation: being in the wanted state already is a success.
    fn settle(&mut self, at: usize, state: VipState, result: Result<(), Errno>, outcome: &mut Outcome) {
        let (Some(operand), Some(held)) = (self.operands.get(at), self.held.get_mut(at)) else { return };
        let interface = self.interfaces.get(usize::from(operand.interface().0)).map_or("", String::as_str);
        let (failure, verb) = match (operand, state) {
            (Operand::Address { .. }, VipState::Present) => (Failure::AddressAdd, "add"),
            (Operand::Address { .. }, VipState::Absent) => (Failure::AddressDelete, "delete"),
            (Operand::DefaultRoute { .. }, VipState::Present) => (Failure::RouteAdd, "add"),
            (Operand::DefaultRoute { .. }, VipState::Absent) => (Failure::RouteDelete, "delete"),
        };
        match (state, result) {
            (_, Ok(())) => {
                outcome.changed += 1;
                *held = state == VipState::Present;
            }
            (VipState::Present, Err(Errno::EXIST)) => *held = true,
            // No such address, no such route, no such interface (any more).
            (VipState::Absent, Err(Errno::ADDRNOTAVAIL | Errno::SRCH | Errno::NODEV)) => *held = false,
            (VipState::Present | VipState::Absent, Err(errno)) => {
                // A failed deletion leaves it where it was, a failed addition where it was not.
                *held = state == VipState::Absent;
                outcome.errors.push(VipError::Operation {
                    failure: if errno == Errno::NODEV { Failure::InterfaceMissing } else { failure },
                    verb,
                    operand: format!("{operand} on {interface}"),
                    cause: errno.into(),
                    remedy: remedy(errno, operand),
                });
            }
        }
    }
}

/// Makes the removal of an address leave the others of its network in place; to be called for each interface as it
/// appears.
///
/// # Errors
/// When the sysctl cannot be written.
pub fn keep_secondaries(interface: &str) -> Result<(), VipError> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/promote_secondaries");
    // A hardened service may be unable to write what is right already.
    if fs::read(&path).is_ok_and(|value| value.trim_ascii() == b"1") {
        return Ok(());
    }
    let failed = |cause| VipError::PromoteSecondaries { interface: interface.to_owned(), cause };
    fs::write(&path, "1").map_err(failed)
}

impl Operand {
    fn interface(&self) -> InterfaceId {
        match self {
            Self::Address { interface, .. } | Self::DefaultRoute { interface, .. } => *interface,
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, prefix_len, .. } => write!(f, "{address}/{prefix_len}"),
            Self::DefaultRoute { gateway, .. } => write!(f, "the default route via {gateway}"),
        }
    }
}

fn operands(config: &Resolved) -> Vec<Operand> {
    let addresses = config.vips.iter().flat_map(|vip| {
        vip.addresses.iter().map(|&(address, prefix_len)| {
            // Only IPv4 addresses have labels.
            let label = vip.label.clone().filter(|_| address.is_ipv4());
            Operand::Address { interface: vip.interface, address, prefix_len, label }
        })
    });
    let routes = config.vips.iter().filter_map(|vip| {
        let gateway = vip.gateway?;
        Some(Operand::DefaultRoute { interface: vip.interface, gateway })
    });
    addresses.chain(routes).collect()
}

fn remedy(errno: Errno, operand: &Operand) -> &'static str {
    match (errno, operand) {
        (Errno::PERM, _) => "is CAP_NET_ADMIN missing?",
        (Errno::NODEV, _) => "it is taken when the interface is back",
        (Errno::NETDOWN, _) => "is the interface up?",
        (Errno::NOBUFS, _) => "the kernel did not answer; is net.core.rmem_max very small?",
        (Errno::ACCESS, Operand::Address { .. }) => "is IPv6 disabled on the interface (disable_ipv6)?",
        (Errno::INVAL, Operand::Address { .. }) => "are prefix length and label right?",
        (Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::INVAL, Operand::DefaultRoute { .. }) => {
            "is the gateway inside a network of the interface, and the interface up?"
        }
        (_, _) => "see dmesg and `ip -d address`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::config;

    /// Addresses are planned before routes, labels only on IPv4, in the file's order.
    #[test]
    fn addresses_come_before_routes() {
        let planned: Vec<String> = operands(&config()).iter().map(Operand::to_string).collect();
        assert_eq!(
            planned,
            ["10.77.1.210/24", "fd00:1::210/64", "10.77.2.139/26", "the default route via 10.77.2.129"]
        );
        let labels: Vec<bool> = operands(&config())
            .iter()
            .map(|operand| matches!(operand, Operand::Address { label: Some(_), .. }))
            .collect();
        assert_eq!(labels, [true, false, true, false]);
    }
}
