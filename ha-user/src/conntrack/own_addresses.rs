//! The addresses of this node's interfaces, and when they change.

use super::{ConntrackError, attribute::Messages, socket, uapi};
use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

const PURPOSE: &str = "address changes";
/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
const RTM_NEWADDR: u16 = 20;
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// A node with more interface addresses than this many chunks hold has the rest ignored.
const CHUNKS_MAX: usize = 256;

/// Watches the interface addresses.
pub struct OwnAddresses {
    changes: Socket,
    requests: Socket,
    buffer: Vec<u8>,
}

impl OwnAddresses {
    /// # Errors
    /// When the sockets cannot be made.
    pub fn open() -> Result<Self, ConntrackError> {
        let (changes, _) = socket::open_protocol(PURPOSE, NETLINK_ROUTE, ADDRESS_GROUPS)?;
        let (requests, _) = socket::open_protocol("interface addresses", NETLINK_ROUTE, 0)?;
        Ok(Self { changes, requests, buffer: vec![0; CHUNK_BYTES_MAX] })
    }

    /// The descriptor that becomes readable when an address changes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Forgets the notes of change that wait: [`OwnAddresses::read`] tells what there is.
    pub fn clear_changes(&mut self) {
        for _ in 0..CHUNKS_MAX {
            // An overflow is a change as well, and is cleared by reading it.
            if let Ok(None) = socket::recv(&self.changes, &mut self.buffer) {
                return;
            }
        }
    }

    /// All addresses of all interfaces now.
    ///
    /// # Errors
    /// When the kernel refuses the dump or cuts it short.
    pub fn read(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        self.requests.send(&request(), 0)?;
        let mut addresses = BTreeSet::new();
        for _ in 0..CHUNKS_MAX {
            // The kernel fills the next chunk while this one is read: there always is one until the end.
            let Some(length) = socket::recv(&self.requests, &mut self.buffer)? else {
                return Err(io::Error::other("the kernel's list of addresses has no end"));
            };
            let chunk = self.buffer.get(..length).unwrap_or_default();
            for message in Messages::new(chunk) {
                let (header, payload) = message.map_err(io::Error::other)?;
                match header.kind {
                    uapi::NLMSG_DONE => return Ok(addresses),
                    uapi::NLMSG_ERROR => return Err(io::Error::other("the kernel refused to list addresses")),
                    RTM_NEWADDR => addresses.extend(address(payload)),
                    _ => {}
                }
            }
        }
        Ok(addresses)
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

    /// Listing this machine's addresses needs no privilege; loopback is always among them where `lo` is up,
    /// and a second listing works on the same socket.
    #[test]
    fn lists_twice() {
        let mut own = OwnAddresses::open().unwrap();
        let first = own.read().unwrap();
        own.clear_changes();
        assert_eq!(own.read().unwrap(), first);
    }
}
