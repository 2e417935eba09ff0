//! The addresses of this node's interfaces, and when they change.

use crate::route_netlink::RouteSocket;
use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// A chunk has up to 32 KiB: some hundred addresses.
const CHUNKS_MAX: usize = 256;

/// Watches the interface addresses.
pub struct OwnAddresses {
    changes: RouteSocket,
    requests: RouteSocket,
}

impl OwnAddresses {
    /// # Errors
    /// When the sockets cannot be made.
    pub fn open() -> io::Result<Self> {
        Ok(Self { changes: RouteSocket::open(ADDRESS_GROUPS)?, requests: RouteSocket::open(0)? })
    }

    /// The descriptor that becomes readable when an address changes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Forgets the notes of change that wait: [`OwnAddresses::read`] tells what there is.
    pub fn clear_changes(&mut self) {
        for _ in 0..CHUNKS_MAX {
            // An overflow is a change as well, and is cleared by reading it.
            if let Ok(None) = self.changes.receive() {
                return;
            }
        }
    }

    /// All addresses of all interfaces now.
    ///
    /// # Errors
    /// When the kernel refuses the list or cuts it short.
    pub fn read(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        self.requests.send(&request())?;
        let mut addresses = BTreeSet::new();
        for _ in 0..CHUNKS_MAX {
            // The kernel fills the next chunk while this one is read: there always is one until the end.
            let Some(messages) = self.requests.receive()? else { break };
            for message in messages {
                match message.kind {
                    NLMSG_DONE => return Ok(addresses),
                    NLMSG_ERROR => return Err(io::Error::other("the kernel refused to list addresses")),
                    RTM_NEWADDR => addresses.extend(address(message.payload)),
                    _ => {}
                }
            }
        }
        Err(io::Error::other("the kernel's list of addresses has no end"))
    }
}

fn request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let get = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(get));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn address(payload: &[u8]) -> Option<IpAddr> {
    let mut header = NetlinkHeader::default();
    header.message_type = RTM_NEWADDR;
    let Ok(RouteNetlinkMessage::NewAddress(message)) = RouteNetlinkMessage::deserialize(&header, payload) else {
        return None;
    };
    // On a point-to-point link `Address` is the other end, and `Local` is ours.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listing this machine's addresses needs no privilege; a second listing on the same socket gives the same.
    #[test]
    fn lists_twice() {
        let mut own = OwnAddresses::open().unwrap();
        let first = own.read().unwrap();
        own.clear_changes();
        assert_eq!(own.read().unwrap(), first);
    }
}
