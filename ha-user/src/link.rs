//! What the configured interfaces are now: index, state, MAC and the node's own addresses, by rtnetlink.
//!
//! Interfaces are known by name. They may be missing at start, vanish and come back under another index. Virtual
//! addresses are never taken for the node's own.

mod filter;
pub mod table;

use crate::route_netlink::RouteSocket;
use ha_common::election::{InterfaceId, LinkState};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use table::Table;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR` and `_IPV6_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A dump that changed while it was read is read again this often.
const DUMP_ATTEMPTS: u32 = 5;
/// Datagrams taken at one wake-up; more wait for the next.
const DATAGRAMS_MAX: usize = 256;

/// Why the interfaces cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot open a route netlink socket: {0} (does the sandbox of the service allow AF_NETLINK?)")]
    Open(#[source] io::Error),
    #[error("cannot list the interfaces and addresses: {0}")]
    Dump(#[source] io::Error),
    #[error("the list of interfaces changed at each of {DUMP_ATTEMPTS} attempts to read it")]
    Unsteady,
    #[error("cannot read interface events: {0}")]
    Receive(#[source] io::Error),
}

/// What happened to a watched interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Index, state, MAC or own addresses may differ.
    Interface(InterfaceId),
    /// A virtual address was taken off the interface, by us or by hand.
    VirtualAddressRemoved { interface: InterfaceId, address: IpAddr },
    /// A default route of ours through the interface was removed, by us or by hand.
    RouteRemoved { interface: InterfaceId },
}

/// A watched interface as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `None` while no interface of this name exists.
    pub ifindex: Option<u32>,
    /// Zero when the interface has no Ethernet address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet.
    pub mtu: u32,
    pub state: LinkState,
}

/// The watch over the configured interfaces.
pub struct Links {
    events: RouteSocket,
    table: Table,
    /// How often the kernel dropped events and everything was read anew.
    pub overruns: u64,
}

impl Links {
    /// Subscribes to events and reads the present state; position in `names` is the [`InterfaceId`].
    ///
    /// # Errors
    /// When the kernel refuses the socket or the lists.
    pub fn open(names: &[String], virtual_addresses: HashSet<IpAddr>) -> Result<Self, LinkError> {
        // Subscribe first: what happens while the lists are read waits in the queue.
        let events = RouteSocket::open(GROUPS).map_err(LinkError::Open)?;
        events.filter(&filter::no_foreign_routes()).map_err(LinkError::Open)?;
        let mut links = Self { events, table: Table::new(names.to_vec(), virtual_addresses), overruns: 0 };
        links.read_anew(&mut Vec::new())?;
        Ok(links)
    }

    /// The interface as it is now; an unknown id gives a missing interface.
    pub fn interface(&self, id: InterfaceId) -> Interface {
        self.table.interface(id)
    }

    /// Takes what the kernel reported, and appends what changed.
    ///
    /// # Errors
    /// When the socket fails for another reason than lost events, which are repaired by reading everything anew.
    pub fn receive(&mut self, changes: &mut Vec<Change>) -> Result<(), LinkError> {
        let mut lost = false;
        for _ in 0..DATAGRAMS_MAX {
            match self.events.receive() {
                Ok(Some(messages)) => messages.for_each(|message| self.table.apply(&message, changes)),
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return Err(LinkError::Receive(error)),
            }
        }
        if lost {
            self.overruns += 1;
        }
        if lost || self.table.is_incomplete() {
            self.read_anew(changes)?;
        }
        Ok(())
    }

    /// Replaces the table by the kernel's lists and appends a change for each interface that differs.
    fn read_anew(&mut self, changes: &mut Vec<Change>) -> Result<(), LinkError> {
        let mut fresh = self.table.emptied();
        for _ in 0..DUMP_ATTEMPTS {
            if dump_into(&mut fresh)? {
                self.table.replace(fresh, changes);
                return Ok(());
            }
            fresh = self.table.emptied();
        }
        Err(LinkError::Unsteady)
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Reads links, then addresses; false when the kernel says that they changed in between.
fn dump_into(table: &mut Table) -> Result<bool, LinkError> {
    let mut socket = RouteSocket::open(0).map_err(LinkError::Open)?;
    let mut steady = true;
    // Links first: an address is only understood when its interface is known.
    for request in [RTM_GETLINK, RTM_GETADDR] {
        socket.send(&dump_request(request)).map_err(LinkError::Dump)?;
        steady &= read_dump(&mut socket, table)?;
    }
    Ok(steady)
}

fn read_dump(socket: &mut RouteSocket, table: &mut Table) -> Result<bool, LinkError> {
    let mut steady = true;
    loop {
        // The kernel fills the queue from within send and receive: an empty one means that it stopped early.
        let Some(messages) = socket.receive().map_err(LinkError::Dump)? else {
            return Err(LinkError::Dump(io::ErrorKind::UnexpectedEof.into()));
        };
        for message in messages {
            steady &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE => return Ok(steady),
                NLMSG_ERROR => {
                    let code = message.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(LinkError::Dump(io::Error::from_raw_os_error(code.saturating_neg())));
                }
                _ => table.apply(&message, &mut Vec::new()),
            }
        }
    }
}

/// A dump request: `struct nlmsghdr` and a zeroed `struct ifinfomsg`, which serves for addresses as well.
fn dump_request(kind: u16) -> [u8; 32] {
    let mut request = [0; 32];
    request[0..4].copy_from_slice(&32u32.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request
}
